"""Ctrl-C and SIGTERM: who hears them, and which exit code they end with.

`stop_signals` owns both for as long as a command runs. Outside the training loop a signal ends the command at
once; inside it the first one waits for the step in progress (`StopOnSignal` saves), a second one does not.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mmft.errors import ExitCode, MmftError

_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class Stopped(MmftError):
    """The command was asked to stop."""

    def __init__(self, number: int, saved: str = "") -> None:
        received = signal.Signals(number)
        super().__init__(f"Stopped by {received.name}{saved}.")
        self.exit_code = _CODES[received]


class StopRequest:
    """A signal that was received, if any.

    Attributes:
        number: of the signal; None: none so far.
        waits: True while whoever runs looks at `number` at every step.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.waits = False

    def own(self) -> None:
        """Takes both signals, from Lightning too, which would end with code 0."""
        if threading.current_thread() is threading.main_thread():  # Python hears none elsewhere
            for number in _CODES:
                signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        """The signals' handler."""
        again = self.number is not None
        self.number = number
        if again or not self.waits:
            raise Stopped(number)


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Owns both signals and gives them back."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in _CODES}
    request.own()
    try:
        yield request
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
