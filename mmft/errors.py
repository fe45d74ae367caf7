"""Errors and the exit code that the command ends with.

`UserError` is for what the user can fix, `TrainingError` for training that failed although configuration and data were
right. Any other exception is a bug in mmft.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from traceback import walk_tb


class ExitCode(IntEnum):
    """Exit codes of the `mmft` command."""

    DONE = 0
    DEFECT = 1
    USER = 2
    TRAINING = 3
    INTERRUPTED = 130
    TERMINATED = 143


class MmftError(Exception):
    """Base of errors that end a command with a short message and no traceback."""

    exit_code = ExitCode.DEFECT


class UserError(MmftError):
    """The configuration or the data is wrong. Holds all messages, so that they are reported at once.

    Args:
        messages: one message or several; each names the key or row, what was given, what is allowed, and what to type.
    """

    exit_code = ExitCode.USER

    def __init__(self, messages: str | Iterable[str]) -> None:
        given = [messages] if isinstance(messages, str) else messages
        self.messages = [m.encode("utf-8", "backslashreplace").decode() for m in given]  # a shell's stray bytes
        super().__init__("\n".join(self.messages))


class TrainingError(MmftError):
    """Training failed although configuration and data were right (non-finite loss, out of memory)."""

    exit_code = ExitCode.TRAINING


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def of_the_disk(error: BaseException, written: Path = Path("the output")) -> MmftError | None:
    """A full disk, or a file or folder that may not be used, as an error that the user can act on; else None.

    A full disk is a `TrainingError`, a refused path a `UserError`.

    Args:
        error: any error.
        written: what was written, if the error names no file.
    """
    if not isinstance(error, OSError) or error.errno not in (*_FULL, *_REFUSED):
        return None
    path = written if error.filename is None else Path(os.fsdecode(error.filename))
    why = error.strerror or os.strerror(error.errno)
    if error.errno in _REFUSED:
        return UserError(f"{path} cannot be used: {why}. Name another, or change its permissions")
    return TrainingError(f"{path} cannot be written: {why} ({free_bytes(path):,} bytes are free there).")


def free_bytes(path: Path) -> int:
    """Free bytes of the disk that holds `path`, which need not exist."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(there for there in (path.absolute(), *path.absolute().parents) if there.exists())


@contextmanager
def dead_workers() -> Iterator[None]:
    """Turns torch's error for a dead `data.num_workers` process into one the user can act on, wherever torch raises it.

    Raises:
        TrainingError: replaces torch's RuntimeError, or a connection error if torch has not noticed the death.
    """
    try:
        yield
    except (RuntimeError, EOFError, OSError) as error:
        told = next((text for text in map(_death, _chain(error)) if text), None)
        if told is None:
            raise
        from multiprocessing import active_children

        for other in active_children():  # it may wait forever for a lock of the dead one
            other.kill()
        raise TrainingError(
            f"A process that decodes images has died: {told} Usually the machine ran out of memory: "
            "type a smaller data.num_workers."
        ) from error


def _death(error: BaseException) -> str | None:
    """A sentence on how a worker died; None if the error is not about a worker."""
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        return str(error).splitlines()[0].strip()
    # Batches arrive through a socket of the worker. A worker's own errors do not pass through this frame.
    if isinstance(error, EOFError | ConnectionError | FileNotFoundError) and any(
        frame.f_code.co_name == "_try_get_data" for frame, _ in walk_tb(error.__traceback__)
    ):
        return f"it ended while sending a batch ({type(error).__name__})."
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and its causes and contexts: Lightning's clean-up may fail after the first error."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def first_line(error: BaseException) -> str:
    """The first line of a library's error (two, if it ends with a colon), or its type; ends with a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else type(error).__name__
    return line if line.endswith(".") else f"{line}."


def exit_code_of(error: BaseException | None) -> int:
    """The exit code of a command that ends with `error`; None means success."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else ExitCode.DONE if error.code is None else ExitCode.DEFECT
    if isinstance(error, MmftError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return ExitCode.DONE if error is None else ExitCode.DEFECT
