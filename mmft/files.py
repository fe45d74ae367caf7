"""Files: where a typed path is, and atomic writes.

A path that begins with `mmft:` names a file or folder of `mmft/samples`, so that a run on the shipped rows or encoders
can be repeated on any machine with mmft installed.

Files and folders are written aside, flushed and renamed, so they exist completely or not at all. A sealed folder lists
the length and SHA-256 of its files, so that a cut or altered one is found before it is used.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

PREFIX = "mmft:"
SAMPLES = Path(__file__).parent / "samples"


def located(typed: str | Path, base: Path | None = None) -> Path:
    """Resolves a path: `mmft:NAME` in mmft's own samples, `~` in the home folder, anything else relative to `base`.

    Args:
        typed: as in a config.
        base: base of a relative path; None keeps it relative to the working directory.
    """
    if str(typed).startswith(PREFIX):
        return SAMPLES / str(typed).removeprefix(PREFIX)
    path = Path(os.path.expanduser(typed))  # noqa: PTH111 - Path's raises at `~nobody`; this leaves it as it is
    return path if base is None else base / path


def write_text(path: Path, text: str, shared: bool = False) -> None:
    """Writes `text` (UTF-8) to `path` atomically: a reader, or a kill at any moment, leaves the old or the new text.

    Args:
        path: the file.
        text: all of it.
        shared: whether several processes may write it at once.
    """
    with written_aside(path, shared) as aside, aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def locked(path: Path, patience: float = 0.0) -> IO[str]:
    """Locks the file `path` against other processes until the returned handle is closed or this process ends.

    Args:
        path: created if missing.
        patience: seconds to wait for the lock; children of a killed process hold it until they end.

    Raises:
        BlockingIOError: another process holds the lock.
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
    """Replaces the folder `target` by what `fill` writes; at every moment `settled(target)` finds a complete one.

    A folder cannot be renamed over another, so the old one is moved aside between two renames.
    """
    target = Path(target)
    settled(target)
    aside, old = _aside(target), _old(target)
    shutil.rmtree(aside, ignore_errors=True)
    with naming(target):
        try:
            aside.mkdir(parents=True)
            fill(aside)
            for file in aside.rglob("*"):
                if file.is_file():  # safetensors creates files readable by their owner only
                    file.chmod(aside.stat().st_mode & 0o666)
                _flush(file)
            _flush(aside)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)  # a full disk has room for the run's record again
            raise
        if target.exists():
            target.rename(old)
        aside.rename(target)
        _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def settled(target: Path) -> Path | None:
    """`target` if it exists, after cleaning up a `replace_folder` that was killed; else None."""
    old = _old(target)
    if old.exists():
        if target.exists():
            shutil.rmtree(old)
        else:
            old.rename(target)
    return target if target.exists() else None


def link_files(source: Path) -> Callable[[Path], None]:
    """Returns a `fill` that hard-links the files of `source`, or copies them if the file system has no links."""

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
    """Formats records as CSV: the given columns first, then the others in order of appearance."""
    stream = io.StringIO()
    names = dict.fromkeys([*columns, *(key for record in records for key in record)])
    writer = csv.DictWriter(stream, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def write_records(path: Path, records: Sequence[Mapping[str, Any]], columns: Iterable[str] = ()) -> None:
    """Writes one line per record: JSON lines if `path` ends in `.jsonl`, else CSV."""
    if path.suffix.lower() == ".jsonl":
        lines = (json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
        write_text(path, "".join(lines))
    else:
        write_text(path, records_as_csv(records, columns))


@contextmanager
def written_aside(path: Path, shared: bool = False) -> Iterator[Path]:
    """Yields a temporary path that is renamed to `path` on success and removed on failure.

    Args:
        path: the file.
        shared: whether several processes may write it at once.
    """
    new = _aside(path.with_name(f"{path.name}.{uuid4().hex}") if shared else path)
    with naming(path):
        try:
            yield new
            new.replace(path)
        finally:
            with suppress(OSError):
                new.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds `path` to an operating system's error about it: a failed write names no file, others the one aside."""
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or str(error.filename).startswith(str(_aside(path)))):
            error.filename = str(path)
        raise


def in_units(size: int) -> str:
    """A number of bytes, readable: `1.8 MB`."""
    for unit, name, digits in ((10**9, "GB", 1), (10**6, "MB", 1), (10**3, "kB", 0)):
        if round(size / unit, digits) >= 1:  # as it is shown: nothing has 1000.0 MB
            return f"{size / unit:.{digits}f} {name}"
    return f"{size} bytes"


# ---------------------------------------------------------------- sealed folders

CHECKSUMS = "checksums.json"
"""The file of a sealed folder that lists the others; without it, the folder cannot be verified."""


def seal(folder: Path) -> None:
    """Lists the length and SHA-256 of every file of `folder` in its `checksums.json`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CHECKSUMS)
    listed = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files
    }
    write_text(folder / CHECKSUMS, _as_listed(listed))


def is_sealed(folder: Path) -> bool:
    """Whether `damage` can tell; folders written by an earlier mmft have no checksums."""
    return (folder / CHECKSUMS).exists()


def damage(folder: Path, thorough: bool = True) -> str | None:
    """A sentence about the first file that is not as `seal` found it; None if all are, or if nothing is listed.

    Args:
        folder: one that `seal` was called on, or not.
        thorough: False compares lengths only, which takes no time.
    """
    if not is_sealed(folder):
        return None
    try:
        text = (folder / CHECKSUMS).read_text(encoding="utf-8")
        listed = {str(name): (int(fact["bytes"]), str(fact["sha256"])) for name, fact in json.loads(text).items()}
        if text != _as_listed({name: {"bytes": size, "sha256": digest} for name, (size, digest) in listed.items()}):
            raise ValueError("not as written")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        size = (folder / CHECKSUMS).stat().st_size
        return f"{folder / CHECKSUMS} ({size:,} bytes) is not as it was written"
    changes = (_changed(folder / name, size, digest, thorough) for name, (size, digest) in listed.items())
    return next((change for change in changes if change), None)


def _changed(file: Path, size: int, digest: str, thorough: bool) -> str | None:
    try:
        found = file.stat().st_size
        if found != size:
            return f"{file} has {found:,} bytes but was written with {size:,}"
        return (
            None
            if not thorough or _sha256(file) == digest
            else f"{file} ({size:,} bytes) was altered since it was written"
        )
    except FileNotFoundError:
        return f"{file} ({size:,} bytes) is missing"
    except OSError as error:
        return f"{file} ({size:,} bytes) cannot be read: {error.strerror}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _as_listed(listed: Mapping[str, Mapping[str, Any]]) -> str:
    return json.dumps(listed, indent=2, ensure_ascii=False) + "\n"
