"""Routes log messages to stderr and the run's train.log; stdout is reserved for the command's own output."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress
from pathlib import Path

LIBRARIES = ("lightning", "lightning.pytorch", "lightning.fabric", "transformers", "timm")
# Hints of Lightning and torch that do not apply here, with the reason.
_IGNORED = (
    ".*does not have many workers.*",  # data.num_workers is the user's choice
    r".*module(\(s\)|s)? in eval mode at the start of training.*",  # frozen encoders are in eval mode on purpose
    ".*your dataloader is not resumable.*",  # it is: row order is a function of the optimizer step
    ".*recommended to use `self.log.*sync_dist.*",  # every rank has the same value already
    ".*smaller than the logging interval.*",
    ".*The `srun` command is available.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*No positive samples in targets.*",  # AUROC of a class missing from a small split
    ".*were not found in .* will be ignored.*Average.*",
    ".*Checkpoint directory .* exists and is not empty.*",
)

_opened: list[logging.Handler] = []


class LogFile(logging.FileHandler):
    """A log file that stops, with one line on stderr, once it cannot be written (on a full disk)."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's signature
        """Stops writing; logging's own prints a traceback for every message."""
        root = logging.getLogger("mmft")
        root.removeHandler(self)
        root.warning("%s cannot be written (%s); it ends here", self.baseFilename, sys.exc_info()[1])

    def close(self) -> None:
        """Closes the file; what could not be written before is lost."""
        with suppress(OSError):
            super().close()


def configure(log_file: Path | None, rank: int = 0) -> None:
    """Logs mmft's messages to stderr and, with timestamps, to `log_file`; quiets the libraries.

    Args:
        log_file: the run's; None for no file.
        rank: ranks other than 0 log nothing to stderr, and only warnings to a file of their own.
    """
    root = logging.getLogger("mmft")
    close()
    root.setLevel(logging.DEBUG)
    root.propagate = False
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.INFO)  # the file also gets what the command prints: tables, errors
    terminal.setFormatter(logging.Formatter("%(message)s"))
    if rank == 0:
        root.addHandler(terminal)
        _opened.append(terminal)
    if log_file is not None:
        own = log_file if rank == 0 else log_file.with_suffix(f".rank{rank}.log")
        file = LogFile(own, encoding="utf-8", delay=rank > 0)
        file.setLevel(logging.DEBUG if rank == 0 else logging.WARNING)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(file)
        _opened.append(file)
    quiet_libraries()


def quiet_libraries() -> None:
    """Leaves of the libraries' messages only warnings that apply here."""
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    quiet_bitsandbytes()
    for pattern in _IGNORED:
        warnings.filterwarnings("ignore", message=pattern)


def quiet_bitsandbytes() -> None:
    """Silences a warning per layer and batch that inputs are cast to float16; see mmft.tuning.quantize."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def close() -> None:
    """Closes what `configure` opened, so that the next run of this process gets its own log."""
    root = logging.getLogger("mmft")
    while _opened:
        handler = _opened.pop()
        root.removeHandler(handler)
        handler.close()
