"""Reports errors on stderr and maps them to exit codes."""

# ruff: noqa: BLE001 - every error becomes an exit code
from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from mmft.config.registry import modules_of_users
from mmft.errors import ExitCode, MmftError, UserError, of_the_disk
from mmft.signals import stop_signals


def report(error: Exception) -> int:
    """Reports an error on stderr, with a traceback only for bugs; returns the exit code."""
    error = of_the_disk(error) or error
    debug = os.environ.get("MMFT_DEBUG") == "1"
    if debug or not isinstance(error, MmftError):
        traceback.print_exception(error)
    if not isinstance(error, MmftError):
        print(f"mmft: error: {_whose_bug()}: {type(error).__name__}: {error}", file=sys.stderr)
        return ExitCode.DEFECT
    report_messages(error.messages if isinstance(error, UserError) else [str(error)])
    return error.exit_code


def outcome_of(work: Callable[[], int]) -> tuple[int, list[str]]:
    """Runs `work` for another process to report: returns the exit code, and messages if it raised."""
    try:
        with stop_signals() as request, request.as_interruption():
            return int(work()), []
    except UserError as error:
        return int(error.exit_code), error.messages
    except MmftError as error:
        return int(error.exit_code), [str(error)]
    except Exception as error:
        if disk := of_the_disk(error):
            return int(disk.exit_code), [str(disk)]
        where = "".join(traceback.format_exception(error))
        return int(ExitCode.DEFECT), [f"{_whose_bug()}: {type(error).__name__}: {error}\n{where}"]


def _whose_bug() -> str:
    """Of mmft, unless there are options of users, whose results may be what it fails on."""
    own = sorted(modules_of_users())
    return f"this is a bug in mmft, or in options of your own ({', '.join(own)})" if own else "this is a bug in mmft"


def report_messages(messages: Sequence[str]) -> None:
    """Reports errors on stderr."""
    print(_numbered(messages), file=sys.stderr)


def _numbered(messages: Sequence[str]) -> str:
    if len(messages) == 1:
        return f"mmft: error: {messages[0]}"
    lines = [f"  {n}. {message}" for n, message in enumerate(messages, 1)]
    return "\n".join([f"mmft: error: {len(messages)} problems", *lines])
