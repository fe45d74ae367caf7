"""Leaves a Python session as it was before a function of mmft."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mmft.config.plugins import code_allowed
from mmft.logs import LIBRARIES
from mmft.signals import Stopped


@contextmanager
def as_it_was(allow_code: bool = False) -> Iterator[None]:
    """Context that leaves random generators, logging and warnings as they were, and interrupts as Python has them.

    Raises:
        KeyboardInterrupt: in place of `Stopped`.
    """
    import numpy as np
    import torch

    loggers = [logging.getLogger(name) for name in ("mmft", "bitsandbytes", *LIBRARIES)]
    levels = [(logger, logger.level, logger.propagate) for logger in loggers]
    drawn, numpy_drawn = random.getstate(), np.random.get_state()  # noqa: NPY002 - of other people's code
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with code_allowed(allow_code), warnings.catch_warnings(), torch.random.fork_rng():
            yield
    except Stopped as stop:
        raise KeyboardInterrupt(str(stop)) from stop
    finally:
        random.setstate(drawn)
        np.random.set_state(numpy_drawn)  # noqa: NPY002
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        for logger, level, propagates in levels:
            logger.setLevel(level)
            logger.propagate = propagates
