"""What can go wrong, and the exit code that the command ends with.

Everything that the user can cure is a `UserError`; everything that went wrong in training although
the configuration and the data were right is a `TrainingError`. Any other exception is a defect of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the `mmft` command."""

    DONE = 0
    DEFECT = 1
    USER = 2
    TRAINING = 3
    INTERRUPTED = 130
    TERMINATED = 143


class MmftError(Exception):
    """Base of the errors that end a command with a short message and no traceback."""

    exit_code = ExitCode.DEFECT


class UserError(MmftError):
    """The configuration or the data is wrong. Carries every message, so that all are shown at once.

    Args:
        messages: one message or several; each names the key or the row, what was given, what is
            allowed, and what to type.
    """

    exit_code = ExitCode.USER

    def __init__(self, messages: str | Iterable[str]) -> None:
        self.messages = [messages] if isinstance(messages, str) else list(messages)
        super().__init__("\n".join(self.messages))


class TrainingError(MmftError):
    """Training failed although configuration and data were right (non-finite loss, out of memory)."""

    exit_code = ExitCode.TRAINING


def exit_code_of(error: BaseException | None) -> int:
    """The exit code of a command that ends with `error`; None: it ends well."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else ExitCode.DONE if error.code is None else ExitCode.DEFECT
    if isinstance(error, MmftError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return ExitCode.DONE if error is None else ExitCode.DEFECT
