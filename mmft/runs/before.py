"""What the run that `init` names achieves on the test tables: the figures before the training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from mmft.config.schema.data import DataConfig
from mmft.data.splits import Split
from mmft.errors import UserError
from mmft.runs.initialise import init_folder
from mmft.runs.saved_model import load_model
from mmft.tasks.base import Task
from mmft.training.table_evaluation import evaluate_tables

log = logging.getLogger(__name__)


def results_before(
    run: str,
    runs: Path,
    task: Task,
    splits: Mapping[str, Split],
    data: DataConfig,
    device: torch.device,
    precision: str,
) -> dict[str, dict[str, float]] | None:
    """The metrics of the model that a training started from, by table, in this process alone.

    Args:
        run: as typed for `init`.
        runs: see `init_folder`.
        task: the finished model's.
        splits: the test splits by name, as `test/photo`.
        data: the finished model's.
        device: where the model runs.
        precision: it runs in.

    Returns:
        None, after saying why, if that run is gone, or its results mean something else.
    """
    try:
        saved = load_model(init_folder(run, runs))
    except UserError as error:
        log.warning("no figures from before the training: init=%s: %s", run, error)
        return None
    if not comparable(saved.task, task):
        log.info("no figures from before the training: init=%s has another task, or other labels or targets", run)
        return None
    found = evaluate_tables(saved.model, saved.task, splits, data, device, precision)
    return {table: evaluated.metrics for table, evaluated in found.items()}


def comparable(one: Task, other: Task) -> bool:
    """Whether the metrics of two fitted tasks mean the same."""
    if type(one) is not type(other) or one.output_names != other.output_names:
        return False
    # With several targets, metrics are means in units of the training rows' deviations.
    return len(one.output_names) == 1 or one.same_outputs(other.state())
