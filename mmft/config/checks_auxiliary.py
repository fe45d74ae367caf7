"""Checks of `model.auxiliary`: losses of training besides the task's have what they need, and change something."""

from __future__ import annotations

from mmft.config.checks import check_train, smallest_batch
from mmft.config.schema import TrainConfig
from mmft.config.schema.tune import FreezeConfig


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


@check_train("model.auxiliary", "tune.image_encoder", "tune.text_encoder")
def something_can_follow(c: TrainConfig) -> str | None:
    """A loss on the encoders' features moves an encoder."""
    auxiliary = c.model.auxiliary
    asked = auxiliary.modality_weight > 0 or auxiliary.alignment != "none"
    towers = (c.tune.image_encoder, c.tune.text_encoder)
    if not asked or not all(isinstance(tower, FreezeConfig) for tower in towers):
        return None
    return "changes nothing, because both encoders are frozen. Type tune=full (or lora, last_n, ...), or leave it out"


@check_train("model.auxiliary.alignment", "data.augment")
def alignment_is_not_mixed(c: TrainConfig) -> str | None:
    """A picture that is mixed belongs to two texts."""
    mixed = [name for name in ("mixup", "cutmix") if getattr(c.data.augment, name) > 0]
    if c.model.auxiliary.alignment == "none" or not mixed:
        return None
    return f"does not go with data.augment.{mixed[0]}, after which a picture belongs to two texts. Choose one"


@check_train("model.auxiliary.alignment", "data.batch_size", "callbacks.gradient_accumulation.schedule")
def there_are_others(c: TrainConfig) -> str | None:
    """A contrastive loss compares rows of a batch."""
    if c.model.auxiliary.alignment != "contrastive" or smallest_batch(c) > 1:
        return None
    return "contrastive compares rows of a batch, and a batch of one row has no other. Type data.batch_size=32"


@check_train("model.auxiliary.alignment_width", "model.auxiliary.alignment")
def there_is_something_to_align(c: TrainConfig) -> str | None:
    """The softmax of one number is 1."""
    if c.model.auxiliary.alignment != "kl" or c.model.auxiliary.alignment_width != 1:
        return None
    return "1: kl compares distributions over so many, and over one there is nothing to differ. Type null for 256"


def _belongs_to_alignment(key: str) -> None:
    """Registers the check that a key of the alignment is not given without one."""

    @check_train(f"model.auxiliary.{key}", "model.auxiliary.alignment")
    def rule(c: TrainConfig) -> str | None:
        if getattr(c.model.auxiliary, key) is None or c.model.auxiliary.alignment != "none":
            return None
        return "changes nothing without an alignment. Type model.auxiliary.alignment=contrastive, or leave it out"


for _key in ("alignment_weight", "alignment_width"):
    _belongs_to_alignment(_key)
