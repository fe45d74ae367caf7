"""Where an interrupted run resumes."""

from __future__ import annotations

import logging
from pathlib import Path

from mmft.files import settled
from mmft.run_folder import RunFolder
from mmft.training.callbacks.checkpointing import resumed_best
from mmft.training.checkpoint import read

log = logging.getLogger(__name__)


def resume_point(folder: RunFolder) -> tuple[Path | None, int | None]:
    """The last checkpoint of a resumed run, and the rows of metrics.csv up to it; None, None for a new run.

    A new run's folder is created for it alone, so anything in it is from an earlier attempt.
    """
    if not folder.metrics.exists() and settled(folder.checkpoints / "last") is None:
        return None, None
    if settled(folder.checkpoints / "last") is None:
        log.info("%s was stopped before its first checkpoint; it starts from the beginning", folder.path)
        return None, 0
    last = folder.checkpoints / "last"
    state = read(last, plain=True)
    kept = state["callbacks"]["Checkpointing"]
    if folder.writes:
        resumed_best(folder.checkpoints, kept, state["global_step"])  # a kill may have interrupted the copies
    resumed = [*folder.read_summary().get("resumed_from", []), state["global_step"]]
    folder.update_summary(resumed_from=resumed)
    log.info("resuming %s after optimizer step %d", folder.path, state["global_step"])
    return last, kept["metrics_rows"]
