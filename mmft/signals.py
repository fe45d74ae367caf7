"""Ctrl-C and SIGTERM: who hears them, and which exit code they end with.

`stop_signals` owns both for as long as a command runs, from its first line to its last. Outside the training loop a
signal ends the command at once; inside it the first one waits for the step in progress (`StopOnSignal` saves), a
second one does not; a process that has others do the work passes them on.
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
        self._raised = False
        self._pass_on: Callable[[int], None] | None = None

    def own(self) -> None:
        """Takes both signals, from Lightning too, which would end with code 0."""
        if threading.current_thread() is threading.main_thread():  # Python hears none elsewhere
            for number in _CODES:
                signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        """The signals' handler."""
        again = self.number is not None
        self.number = number
        if self._pass_on is not None:
            self._pass_on(number)
        elif again or not self.waits:
            self._raised = True
            raise Stopped(number)

    def check(self) -> None:
        """Ends what would begin although a signal was received.

        Raises:
            Stopped: it was.
        """
        if self.number is not None:
            raise Stopped(self.number)

    @contextmanager
    def told(self) -> Iterator[None]:
        """What a library makes of being interrupted anywhere is no error of its own.

        Raises:
            Stopped: instead of anything else, once a signal has been raised.
        """
        try:
            yield
        except Stopped:
            raise
        except KeyboardInterrupt as error:  # where Python's own handler was put back
            raise Stopped(signal.SIGINT) from error
        except Exception as error:
            if self._raised and self.number is not None:
                raise Stopped(self.number) from error
            raise

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is done here is done whole; a signal is only noted."""
        before, self.waits = self.waits, True
        try:
            yield
        finally:
            self.waits = before

    @contextmanager
    def passed_on(self, to: Callable[[int], None]) -> Iterator[None]:
        """Signals go to `to`, with their number, and do nothing here."""
        before, self._pass_on = self._pass_on, to
        try:
            yield
        finally:
            self._pass_on = before


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Owns both signals and gives them back; inside another `stop_signals` the same request goes on."""
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
    """In a process that a command has forked, and will end: a terminal or a scheduler may signal all of them.

    One SIGTERM may be a scheduler's; a second one is the parent's, to a process that does not end by itself.
    """
    heard: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        heard.append(number)
        if heard.count(signal.SIGTERM) > 1:
            os._exit(ExitCode.TERMINATED)

    for number in _CODES:
        signal.signal(number, note)
