"""What may fail without changing how a training ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmft.signals import Stopped

log = logging.getLogger(__name__)


@contextmanager
def logged_not_raised(what: str = "the report") -> Iterator[None]:
    """Context in which an error is logged as a warning: the model is trained and saved, `what` is extra."""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        log.warning("%s failed: %s: %s. To try again: mmft report run=RUN", what, type(error).__name__, error)
