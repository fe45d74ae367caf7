"""Checks of `model.modality_dropout`: there are two modalities, and a task that can be done with one."""

from __future__ import annotations

from mmft.config.checks import check_train
from mmft.config.schema import TrainConfig


@check_train("model.modality_dropout", "task")
def pairs_keep_both(c: TrainConfig) -> str | None:
    """A row that lacks a modality is no pair."""
    if not c.model.modality_dropout or not c.task.of_pairs:
        return None
    return f"does not go with task={c.task.type}, which needs both modalities of every row. Leave it out"


@check_train("model.modality_dropout", "data.columns.image", "data.columns.text")
def one_is_left(c: TrainConfig) -> str | None:
    """A row loses one modality only where it has both."""
    missing = [name for name in ("image", "text") if getattr(c.data.columns, name) is None]
    if not c.model.modality_dropout or len(missing) != 1:
        return None
    return f"changes nothing without data.columns.{missing[0]}: there is one modality, which is kept. Leave it out"
