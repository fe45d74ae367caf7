"""The origin of a wrong key: the override that set it, or the YAML file and line. Looked up only on errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mmft.config.overrides import Typed
from mmft.config.wording import typed_as


class Provenance:
    """The origins of one composition's keys.

    Args:
        values: the value overrides.
        merged: package and file of every config, in merge order.
    """

    def __init__(self, values: Sequence[Typed], merged: Sequence[tuple[list[str], Path]]) -> None:
        self.values, self.merged = values, merged
        self.trees: dict[Path, Any] = {}

    def of(self, key: str) -> str:
        """` (typed: ...)`, ` (in FILE:LINE)`, or an empty string if neither is known."""
        above = [t for t in self.values if t.key == key or key.startswith(f"{t.key}.")]
        below = [t for t in self.values if t.key.startswith(f"{key}.")]
        if above or below:
            return typed_as((above or below)[-1].text)
        for package, file in reversed(self.merged):
            line = _line_of(self._tree(file), key.split("."), package)
            if line is not None:
                here = file.is_relative_to(Path.cwd())
                return f" (in {file.relative_to(Path.cwd()) if here else file}:{line})"
        return ""

    def _tree(self, file: Path) -> Any:
        if file not in self.trees:
            self.trees[file] = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        return self.trees[file]


def _line_of(node: Any, key: list[str], package: list[str]) -> int | None:
    """The line on which a file sets a key, or None."""
    if key[: len(package)] != package:
        return None
    line = None
    for part in key[len(package) :]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((k, v) for k, v in pairs if k.value == part), None)
        if found is None:
            return line if isinstance(node, yaml.SequenceNode) else None
        line, node = found[0].start_mark.line + 1, found[1]
    return line
