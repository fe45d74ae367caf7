"""Reads what wandb wrote: a `.wandb` file is a LevelDB log (7-byte record headers, 32 KiB blocks) of protobufs."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

_HEADER, _BLOCK = 7, 32 * 1024
_FULL, _FIRST, _LAST = 1, 2, 4


def contents(path: Path) -> Iterator[bytes]:
    """The records of a log, those that several blocks share put together."""
    data, position, parts = path.read_bytes(), _HEADER, b""
    assert data.startswith(b":W&B")
    while position < len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        part = data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        parts = part if kind in (_FULL, _FIRST) else parts + part
        if kind in (_FULL, _LAST):
            yield parts


class WandbFile:
    """One segment of a run, as it was written.

    Args:
        folder: a run folder with exactly one segment, or that segment's.
    """

    def __init__(self, folder: Path) -> None:
        (self.path,) = folder.rglob("*.wandb")

    @cached_property
    def _records(self) -> list[Any]:
        from wandb.proto import wandb_internal_pb2

        return [wandb_internal_pb2.Record.FromString(content) for content in contents(self.path)]

    def all(self, kind: str) -> list[Any]:
        """The records of one kind, in order."""
        return [getattr(r, kind) for r in self._records if r.WhichOneof("record_type") == kind]

    @property
    def run(self) -> Any:
        """Id, project, group, tags, name."""
        return self.all("run")[0]

    @property
    def config(self) -> dict[str, Any]:
        """What `wandb.init` got."""
        return {item.key: json.loads(item.value_json) for item in self.run.config.update}

    @property
    def history(self) -> dict[int, dict[str, Any]]:
        """Everything logged, by wandb's step; nested values by their dotted key."""
        rows: dict[int, dict[str, Any]] = {}
        for record in self.all("history"):
            values = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.item}
            assert record.step.num == values["_step"]
            assert record.step.num not in rows
            rows[record.step.num] = {k: v for k, v in values.items() if not k.startswith("_")}
        return rows

    @property
    def summary(self) -> dict[str, Any]:
        """What was put into the summary as a whole."""
        updates = [item for record in self.all("summary") for item in record.update]
        return {i.key: json.loads(i.value_json) for i in updates if i.key}

    @property
    def charts(self) -> dict[str, dict[str, Any]]:
        """Wandb's own charts by the name that they are logged under: how each is drawn from `NAME_table`."""
        updates = [item for record in self.all("config") for item in record.update]
        shown = [item for item in updates if list(item.nested_key)[:2] == ["_wandb", "visualize"]]
        return {item.nested_key[2]: json.loads(item.value_json)["panel_config"] for item in shown}

    def table(self, name: str) -> dict[str, Any]:
        """The JSON of the table that was logged under `name`; images are in the same artifact by their `path`."""
        assert sum(f"{name}.path" in row for row in self.history.values()) == 1
        (files,) = [a for a in self.artifacts("run_table").values() if f"{name}.table.json" in a]
        return dict(json.loads(files[f"{name}.table.json"].read_text())) | {"files": files}

    def artifacts(self, kind: str) -> dict[str, dict[str, Path]]:
        """Artifacts of a type by name: each file's place inside and where it lies now."""
        found = [a for a in self.all("artifact") if a.type == kind]
        return {a.name: {c.path: Path(c.local_path) for c in a.manifest.contents} for a in found}

    @property
    def exit_code(self) -> int:
        """What the run was closed with; there is exactly one."""
        (closed,) = self.all("exit")
        return int(closed.exit_code)
