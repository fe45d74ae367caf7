"""Checks of `model.auxiliary`: losses of training besides the task's have what they need, and change something."""

from __future__ import annotations

from mmft.config.checks import check_train
from mmft.config.schema import TrainConfig


def _goes_with_the_task(key: str, nothing: float | str) -> None:
    """Registers the check that a loss is not asked for beside a task of pairs, nor where there is one modality."""

    @check_train(f"model.auxiliary.{key}", "task", "data.columns.image", "data.columns.text")
    def rule(c: TrainConfig) -> str | None:
        if getattr(c.model.auxiliary, key) == nothing:
            return None
        if c.task.of_pairs:
            return f"does not go with task={c.task.type}, whose own loss is between pictures and texts. Leave it out"
        missing = [name for name in ("image", "text") if getattr(c.data.columns, name) is None]
        if len(missing) == 1:
            return f"needs two modalities, and there is no data.columns.{missing[0]}. Leave it out"
        return None


_goes_with_the_task("modality_weight", 0.0)
_goes_with_the_task("alignment", "none")


@check_train("model.auxiliary.alignment", "trainer.strategy")
def alignment_is_not_sharded(c: TrainConfig) -> str | None:
    """Gradient caching fuses without the model's `forward`, around which sharded weights are put together."""
    if c.model.auxiliary.alignment != "contrastive" or c.trainer.strategy != "fsdp":
        return None
    return "contrastive does not go with trainer.strategy=fsdp yet. Type trainer.strategy=ddp"


def _belongs_to_alignment(key: str) -> None:
    """Registers the check that a key of the alignment is not given without one."""

    @check_train(f"model.auxiliary.{key}", "model.auxiliary.alignment")
    def rule(c: TrainConfig) -> str | None:
        if getattr(c.model.auxiliary, key) is None or c.model.auxiliary.alignment != "none":
            return None
        return "changes nothing without an alignment. Type model.auxiliary.alignment=contrastive, or leave it out"


for _key in ("alignment_weight", "alignment_width"):
    _belongs_to_alignment(_key)
