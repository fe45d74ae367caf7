"""Handles Ctrl-C and SIGTERM, and the exit codes they end with.

`stop_signals` handles both while a command runs. Outside the training loop a signal ends the command at once. Inside it
the first one waits for the current step, after which `StopOnSignal` saves; a second one does not wait. A process whose
work is done by others passes signals on to them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mmft.errors import ExitCode, MmftError

_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}
_owner: StopRequest | None = None


class Stopped(MmftError):
    """The command was stopped by a signal."""

    def __init__(self, number: int, saved: str = "", advice: str = "") -> None:
        received = signal.Signals(number)
        super().__init__(f"Stopped by {received.name}{saved}.{advice and ' ' + advice}")
        self.number, self.saved = number, saved
        self.exit_code = _CODES[received]


class StopRequest:
    """A signal that was received, if any.

    Attributes:
        number: the signal's number; None if none was received.
        waits: True while the caller checks `number` at every step.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.waits = False
        self._raised = False
        self._pass_on: Callable[[int], None] | None = None

    def own(self) -> None:
        """Installs the handler for both signals, also over Lightning's, which would end with code 0."""
        if threading.current_thread() is threading.main_thread():  # Python handles signals only there
            for number in _CODES:
                signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        """The signal handler."""
        again = self.number is not None
        self.number = number
        if self._pass_on is not None:
            self._pass_on(number)
        elif again or not self.waits:
            self._raised = True
            raise Stopped(number)

    def check(self) -> None:
        """Stops before new work if a signal was received.

        Raises:
            Stopped: a signal was received.
        """
        if self.number is not None:
            raise Stopped(self.number)

    @contextmanager
    def as_interruption(self) -> Iterator[None]:
        """Treats whatever a library raises when it is interrupted as the interruption.

        Raises:
            Stopped: replaces any other exception once a signal has been raised.
        """
        try:
            yield
        except Stopped:
            raise
        except KeyboardInterrupt as error:  # Python's own handler was restored
            raise Stopped(signal.SIGINT) from error
        except Exception as error:
            if self._raised and self.number is not None:
                raise Stopped(self.number) from error
            raise

    @contextmanager
    def held(self) -> Iterator[None]:
        """Defers signals: the block runs to its end and a signal is only recorded."""
        before, self.waits = self.waits, True
        try:
            yield
        finally:
            self.waits = before

    @contextmanager
    def passed_on(self, to: Callable[[int], None]) -> Iterator[None]:
        """Passes signals on to `to`, with their number, and does nothing else."""
        before, self._pass_on = self._pass_on, to
        try:
            yield
        finally:
            self._pass_on = before


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Handles both signals and restores the handlers afterwards; a nested `stop_signals` shares the outer request."""
    global _owner
    if _owner is not None:
        _owner.own()
        yield _owner
        return
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in _CODES}
    _owner = request
    request.own()
    try:
        yield request
    finally:
        _owner = None
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def leave_signals_to_parent() -> None:
    """Leaves signals to the parent: a terminal or scheduler may signal forked processes too, and the parent ends them.

    The first SIGTERM may come from a scheduler; a second one comes from the parent and ends the process.
    """
    heard: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        heard.append(number)
        if heard.count(signal.SIGTERM) > 1:
            os._exit(ExitCode.TERMINATED)

    for number in _CODES:
        signal.signal(number, note)
