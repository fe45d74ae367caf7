"""What became of one damaged input: read, refused with a sentence, or a failure of mmft."""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import extract_tb
from types import FrameType
from typing import NamedTuple

from mmft.data.images.mending import BadImage
from mmft.errors import UserError

REFUSED = "refused"
FAILURES = ("traceback", "hang", "unclear message", "wrong content")
_LONGEST = 4000  # characters of a message
_STACKS = os.fdopen(os.dup(2), "w")  # standard error, even while it is silenced


class Wrong(Exception):
    """mmft has read something that it should have refused."""


class Unclear(Exception):
    """A message that is no sentence for a user."""


class Hang(BaseException):
    """The time limit has passed; not an Exception, so that nobody handles it."""


@dataclass
class Case:
    """One damaged input.

    Attributes:
        number: the case's, from which and the seed it can be made again.
        what: how it was damaged.
        work: reads it; returns the outcome in a word or two.
    """

    number: int
    what: str
    work: Callable[[], str]


class Outcome(NamedTuple):
    """`kind` is one of `FAILURES`, or what `Case.work` returned, or `REFUSED`."""

    part: str
    number: int
    what: str
    kind: str
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether mmft is at fault."""
        return self.kind in FAILURES


def generator(seed: int, part: str, number: int) -> random.Random:
    """The randomness of one case, independent of the others'."""
    return random.Random(f"{seed} {part} {number}")


def judge(part: str, case: Case, seconds: float) -> Outcome:
    """Runs a case within a time limit."""

    def outcome(kind: str, detail: str = "") -> Outcome:
        return Outcome(part, case.number, case.what, kind, " ".join(detail.split())[:300])

    try:
        with _limit(seconds):
            return outcome(case.work())
    except Hang:
        return outcome("hang", f"took more than {seconds:.0f} s")
    except Wrong as error:
        return outcome("wrong content", str(error))
    except (UserError, BadImage) as error:
        try:
            check_clear(error.messages if isinstance(error, UserError) else [str(error)])
        except Unclear as unclear:
            return outcome("unclear message", str(unclear))
        return outcome(REFUSED, str(error))
    except Unclear as error:
        return outcome("unclear message", str(error))
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        *_, last = extract_tb(error.__traceback__)
        return outcome("traceback", f"{type(error).__name__} in {last.filename}:{last.lineno}: {error}")


def check_clear(messages: Iterable[str]) -> None:
    """Checks that each message can be shown to a user.

    Raises:
        Unclear: one is empty, cannot be encoded, names an address in memory, or fills the screen.
    """
    for message in messages:
        try:
            message.encode()
        except UnicodeEncodeError:
            raise Unclear(f"a message that is not Unicode: {message!a}") from None
        if not message.strip() or " object at 0x" in message or "Traceback" in message or len(message) > _LONGEST:
            raise Unclear(f"a message of {len(message)} characters: {message!a}")


@contextmanager
def silenced() -> Iterator[None]:
    """Nothing is logged or written to standard error, where libtiff and others write whatever they find."""
    kept, null, disabled = os.dup(2), os.open(os.devnull, os.O_WRONLY), logging.root.manager.disable
    os.dup2(null, 2)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raises `Hang` after `seconds`; a hang outside Python ends the process with its stack."""

    def over(_: int, __: FrameType | None) -> None:
        raise Hang

    before, timer = signal.signal(signal.SIGALRM, over), signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(5 * seconds, exit=True, file=_STACKS)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
