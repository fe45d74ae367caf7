"""Checks of tasks of pairs (each row a picture and a text) and over pairs of rows: what they need, what they refuse."""

from __future__ import annotations

import re

from mmft.config.checks import check_train
from mmft.config.registry import options
from mmft.config.schema import TrainConfig
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
    if not templates or any(re.findall(r"\{\}|[{}]", template) != ["{}"] for template in templates):
        return f"{show(templates)}: each needs one {{}} for the label's name, such as 'a picture of {{}}'"
    if c.data.columns.label is None:
        return "changes nothing, because there are no labels. Type data.columns.label=COLUMN, or leave it out"
    return None


@check_train("task.candidates", "data.batch_size", "callbacks.gradient_accumulation.schedule")
def candidates_are_there(c: TrainConfig) -> str | None:
    """A batch has other rows."""
    sizes = c.callbacks.gradient_accumulation.schedule or {0: c.data.batch_size}
    if not getattr(c.task, "candidates", 0) or min(sizes.values()) > 1:
        return None
    return "they are texts of other rows of the batch, and a batch of one row has none. Type data.batch_size=32"


@check_train("task.candidates", "data.columns.label")
def something_does_not_match(c: TrainConfig) -> str | None:
    """There is a pair that does not belong together, of the labels or of other rows."""
    if getattr(c.task, "candidates", 1) or c.data.columns.label is not None:
        return None
    return (
        "0: without labels every row is a pair that belongs together, and nothing is learned. "
        "Type task.candidates=7, or data.columns.label=COLUMN"
    )
