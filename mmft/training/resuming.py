"""Where an interrupted run resumes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmft.data.same_rows import differences, digests_of_rows
from mmft.data.splitting.splits import Split
from mmft.errors import UserError
from mmft.files import damage, settled
from mmft.run_folder import RunFolder
from mmft.training.callbacks.checkpointing import resumed_best
from mmft.training.checkpoint import read

log = logging.getLogger(__name__)


class ResumePoint(NamedTuple):
    """Where a run starts; all None for a new run.

    Attributes:
        checkpoint: its folder.
        rows: rows of metrics.csv up to it.
        step: optimizer steps done.
        planned: optimizer steps of the whole run, as planned when it was saved; None in one of an earlier mmft.
    """

    checkpoint: Path | None = None
    rows: int | None = None
    step: int | None = None
    planned: int | None = None


def resume_point(folder: RunFolder) -> ResumePoint:
    """Where a run resumes.

    The checkpoint is the last one, or the newest whole one if the last is damaged. A new run's folder is created for it
    alone, so anything in it is from an earlier attempt.

    Raises:
        UserError: there are checkpoints, but all are damaged.
    """
    last = folder.checkpoints / "last"
    settled(last)
    found = folder.newest_checkpoint()
    if found is None:
        return _without_checkpoint(folder, last)
    checkpoint, step = found
    if checkpoint != last:
        wrong = damage(last) or f"{last} is missing or unreadable"
        log.warning("%s; %s is the newest whole checkpoint and takes its place", wrong, checkpoint)
    kept = read(checkpoint, plain=True)["callbacks"]["Checkpointing"]
    if folder.writes:
        resumed_best(checkpoint, kept, step)  # a kill may have interrupted the copies
    resumed = [*folder.read_summary().get("resumed_from", []), step]
    folder.update_summary(resumed_from=resumed)
    log.info("resuming %s after optimizer step %d", folder.path, step)
    return ResumePoint(checkpoint, kept["metrics_rows"], step, kept.get("planned_steps"))


def check_rows(folder: RunFolder, splits: Mapping[str, Split], start: ResumePoint) -> None:
    """Checks that a run resumes on the rows that it was started with, and records those of a run that starts.

    Raises:
        UserError: they differ.
    """
    now, before = digests_of_rows(splits), folder.read_summary().get("rows_digests")
    if start.checkpoint is not None and before and (found := differences(before, now)):
        raise UserError(
            f"resume: the rows are not those that {folder.path} was started with: {'; '.join(found)}. Give it the rows "
            "that it had, or start a new run without resume (init=RUN starts from its weights)"
        )
    folder.update_summary(rows_digests=now)


def _without_checkpoint(folder: RunFolder, last: Path) -> ResumePoint:
    there = sorted(folder.checkpoints.glob("[!.]*"))
    if there:
        wrong = damage(last) or damage(there[0]) or f"{there[0]} cannot be read"
        raise UserError(f"resume: {wrong}, and {folder.path} has no whole checkpoint. Start a new run without resume.")
    if not folder.metrics.exists():
        return ResumePoint()
    log.info("%s was stopped before its first checkpoint; it starts from the beginning", folder.path)
    return ResumePoint(rows=0)
