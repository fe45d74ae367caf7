"""Checks of tasks of pairs (each row a picture and a text) and over pairs of rows: what they need, what they refuse."""

from __future__ import annotations

import re
from typing import Any

from mmft.config.checks import check_train, check_use, smallest_batch
from mmft.config.registry import options
from mmft.config.schema import TestConfig, TrainConfig
from mmft.config.validate import MUST
from mmft.config.wording import listed, show


@check_train("model.fusion", "task")
def fusion_fits_the_task(c: TrainConfig) -> str | None:
    """A task over pairs compares each picture with each text; any other has a head on both together."""
    if c.task.over_pairs == c.model.fusion.for_pairs:
        return None
    fitting = [name for name, o in options("model/fusion").items() if o.schema.for_pairs == c.task.over_pairs]  # type: ignore[attr-defined]
    if c.task.over_pairs:
        why = "compares every picture with every text, so that each must be embedded by itself"
    else:
        why = "has one answer for a row's picture and text together"
    return (
        f"{c.model.fusion.type} does not go with task={c.task.type}, which {why}. "
        f"Type model/fusion={fitting[0]} (fitting: {listed(fitting)})"
    )


@check_train("data.columns", "task")
def both_modalities(c: TrainConfig) -> str | None:
    """A pair has a picture and a text."""
    missing = [name for name in ("image", "text") if getattr(c.data.columns, name) is None]
    if len(missing) != 1 or not c.task.of_pairs:
        return None
    return f"{MUST}: task={c.task.type} pairs pictures with texts. Type data.columns.{missing[0]}=COLUMN"


@check_train("trainer.strategy", "task")
def pairs_are_not_sharded(c: TrainConfig) -> str | None:
    """Their steps do without the model's `forward`, around which sharded weights are put together."""
    if c.trainer.strategy != "fsdp" or not c.task.of_pairs:
        return None
    return f"fsdp does not go with task={c.task.type} yet. Type trainer.strategy=ddp"


@check_train("modality_report", "task", "data.columns.label")
def pairs_have_no_report(c: TrainConfig) -> str | None:
    """What the embeddings of pairs tell is measured on labels; whether two match, neither tells alone without them."""
    if not c.modality_report or not c.task.of_pairs or c.data.columns.label is not None:
        return None
    if c.task.over_pairs:
        return f"true needs labels to measure the embeddings of task={c.task.type} on. Type data.columns.label=COLUMN"
    return "true tells nothing without labels: each text is there once where it matches, once where not. Leave it out"


@check_train("task.templates", "data.columns.label")
def templates_are_used(c: TrainConfig) -> str | None:
    """A prompt has a place for a label's name, and there are labels."""
    templates = getattr(c.task, "templates", None)
    if templates is None:
        return None
    if wrong := _no_templates(templates):
        return wrong
    if c.data.columns.label is None:
        return "changes nothing, because there are no labels. Type data.columns.label=COLUMN, or leave it out"
    return None


def _no_templates(templates: list[str]) -> str | None:
    if templates and all(re.findall(r"\{\}|[{}]", template) == ["{}"] for template in templates):
        return None
    return f"{show(templates)}: each needs one {{}} for the label's name, such as 'a picture of {{}}'"


@check_use("zero_shot.templates", "zero_shot.labels")
def prompts_are_of_labels(c: Any) -> str | None:
    """The same, for labels of this command."""
    templates = c.zero_shot.templates
    if templates is None:
        return None
    if c.zero_shot.labels is None:
        return "changes nothing without labels. Type zero_shot.labels=[NAME,NAME], or leave it out"
    return _no_templates(templates)


@check_use("zero_shot.labels")
def labels_can_be_chosen(c: Any) -> str | None:
    """They are a list, or it is said whose they are."""
    labels, tests = c.zero_shot.labels, isinstance(c, TestConfig)
    if labels is None or labels == "run" or (labels == "rows" and tests):
        return None
    if isinstance(labels, str):
        return f"{show(labels)}: type a list [NAME,NAME], or run{' or rows' if tests else ''}"
    if len(labels) < 2 or len(set(labels)) < len(labels):
        return f"{show(labels)}: two or more that differ are needed. Type zero_shot.labels=[NAME,NAME]"
    return None


@check_use("data.columns.text", "zero_shot.labels")
def pictures_are_enough(c: Any) -> str | None:
    """A text would not be looked at."""
    if getattr(c, "zero_shot", None) is None or c.zero_shot.labels is None or c.data.columns.text is None:
        return None
    return "is not looked at with zero_shot.labels. Leave it out"


@check_train("task.candidates", "data.batch_size", "callbacks.gradient_accumulation.schedule")
def candidates_are_there(c: TrainConfig) -> str | None:
    """A batch has other rows."""
    if not getattr(c.task, "candidates", 0) or smallest_batch(c) > 1:
        return None
    return "they are texts of other rows of the batch, and a batch of one row has none. Type data.batch_size=32"


@check_train("data.batch_size", "task", "callbacks.gradient_accumulation.schedule")
def pairs_are_compared(c: TrainConfig) -> str | None:
    """A loss over pairs of rows is 0 where there is one row."""
    if not c.task.over_pairs or smallest_batch(c) > 1:
        return None
    return f"task={c.task.type} compares rows of a batch, and a batch of one row has no other. Type data.batch_size=32"


@check_train("task.compared_rows", "task.loss", "data.batch_size")
def compared_rows_are_read(c: TrainConfig) -> str | None:
    """It begins the bias, which one loss has."""
    task: Any = c.task
    if not c.task.over_pairs or task.loss == "sigmoid" or task.compared_rows == c.data.batch_size:
        return None
    return f"changes nothing, because task.loss={task.loss}. Type task.loss=sigmoid, or leave it out"


@check_train("task.candidates", "data.columns.label")
def something_does_not_match(c: TrainConfig) -> str | None:
    """There is a pair that does not belong together, of the labels or of other rows."""
    if getattr(c.task, "candidates", 1) or c.data.columns.label is not None:
        return None
    return (
        "0: without labels every row is a pair that belongs together, and nothing is learned. "
        "Type task.candidates=7, or data.columns.label=COLUMN"
    )
