"""Answers to rows as a file: CSV, JSON Lines or Parquet, written as they come."""

from __future__ import annotations

import base64
import csv
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mmft.commands.output import utf8_stdout
from mmft.files import located, written_aside
from mmft.tasks.labels import text_of

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)
Answer = dict[str, Any]
Columns = dict[str, Any]
"""The columns, and whether each holds integers, text or numbers; the Arrow type of a kept column."""
_ROW_GROUP = 4096


class Counted:
    """Counts answers as they pass through."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._answers = answers
        self.rows = self.bad = 0
        self._first = ""

    def __iter__(self) -> Iterator[Answer]:
        for answer in self._answers:
            self.rows += 1
            if answer["error"] is not None:
                self.bad += 1
                self._first = self._first or answer["error"]
            yield answer

    def log(self) -> None:
        """Logs how many there were."""
        log.info("%d rows, %d of them with an error", self.rows, self.bad)
        if self.bad == self.rows and self.rows:
            log.warning("no row could be used; the first one's error: %s", self._first)


def writer(out: str) -> Callable[[str, Columns, Iterable[Answer]], None]:
    """The writer for a file's extension, which the config's validation has checked; `-` is CSV on stdout."""
    return {".jsonl": _write_jsonl, ".parquet": _write_parquet}.get(Path(out).suffix.lower(), _write_csv)


@contextmanager
def _opened(out: str) -> Iterator[TextIO]:
    """A text stream: stdout for `-`, else a temporary file that becomes `out`."""
    if out == "-":
        yield utf8_stdout()
        return
    with written_aside(located(out)) as new, new.open("w", newline="", encoding="utf-8") as stream:
        yield stream


def _write_csv(out: str, columns: Columns, answers: Iterable[Answer]) -> None:
    with _opened(out) as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _in_csv(value) for name, value in answer.items()} for answer in answers)


def _in_csv(value: Any) -> Any:
    """A list, an object or bytes of a kept column as JSON; other values as they are."""
    return json.dumps(value, ensure_ascii=False, default=_plain) if isinstance(value, (list, dict, bytes)) else value


def _write_jsonl(out: str, columns: Columns, answers: Iterable[Answer]) -> None:  # noqa: ARG001 - one signature
    with _opened(out) as stream:
        stream.writelines(json.dumps(answer, ensure_ascii=False, default=_plain) + "\n" for answer in answers)


def _plain(value: Any) -> Any:
    """A kept value that JSON lacks: bytes as base64, others as text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else text_of(value)


def _write_parquet(out: str, columns: Columns, answers: Iterable[Answer]) -> None:
    import pyarrow as pa

    kinds = {int: pa.int64(), str: pa.string(), float: pa.float32()}
    write_parquet(located(out), pa.schema([(name, kinds.get(kind, kind)) for name, kind in columns.items()]), answers)


def write_parquet(out: Path, schema: pa.Schema, answers: Iterable[Answer]) -> None:
    """Writes a Parquet file of any length, a row group at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    source = iter(answers)
    with written_aside(out) as new, parquet.ParquetWriter(new, schema) as writer:
        while some := list(islice(source, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
