"""Files and folders that are either there in full or not at all: written aside, flushed, renamed."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def write_text(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) to `path`; a reader, or a kill at any moment, finds the old or the new text."""
    aside = path.with_name(f".{path.name}.new")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)


def locked(path: Path, patience: float = 0.0) -> IO[str]:
    """Locks the file `path` against other processes, until what is returned is closed or this process has ended.

    Args:
        path: made where it is not there.
        patience: seconds to wait for another; processes that a killed one had forked hold its lock while they last.

    Raises:
        BlockingIOError: another process has it.
    """
    lock, end = path.open("w"), time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                lock.close()
                raise
            time.sleep(0.1)
        else:
            return lock


def replace_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Makes `target` the folder that `fill` writes; at every moment `settled(target)` finds a whole one.

    A folder cannot be renamed over another, so the old one steps aside for the blink between two renames.
    """
    target = Path(target)
    settled(target)
    aside, old = _aside(target), _old(target)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    fill(aside)
    for file in aside.rglob("*"):
        if file.is_file():  # safetensors writes files that only their owner can read
            file.chmod(aside.stat().st_mode & 0o666)
        _flush(file)
    _flush(aside)
    if target.exists():
        target.rename(old)
    aside.rename(target)
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def settled(target: Path) -> Path | None:
    """`target` if it is there, after undoing what a kill inside `replace_folder` may have left; else None."""
    old = _old(target)
    if old.exists():
        if target.exists():
            shutil.rmtree(old)
        else:
            old.rename(target)
    return target if target.exists() else None


def link_files(source: Path) -> Callable[[Path], None]:
    """A `fill` that hard-links the files of `source` (copies them where the file system has no links)."""

    def fill(target: Path) -> None:
        for file in source.iterdir():
            try:
                os.link(file, target / file.name)
            except OSError:
                shutil.copy2(file, target / file.name)

    return fill


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.new")


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def records_as_csv(records: Sequence[Mapping[str, Any]], columns: Iterable[str] = ()) -> str:
    """Records as CSV: the given columns, then the others as they come."""
    stream = io.StringIO()
    names = dict.fromkeys([*columns, *(key for record in records for key in record)])
    writer = csv.DictWriter(stream, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def write_records(path: Path, records: Sequence[Mapping[str, Any]], columns: Iterable[str] = ()) -> None:
    """Writes records, one line each: JSON lines where `path` ends in `.jsonl`, else CSV."""
    if path.suffix.lower() == ".jsonl":
        lines = (json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
        write_text(path, "".join(lines))
    else:
        write_text(path, records_as_csv(records, columns))


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A file to write that takes the name `path` once it is whole; nothing of it is left if that fails."""
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
