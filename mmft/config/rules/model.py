"""Rules about `model` and `tune`: components must fit each other and the task, and methods need something to train."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import pairwise
from typing import Any

from mmft.config.registry import options
from mmft.config.rules.base import BATCHES, encoders_are_frozen, lone_modality, rule, smallest_batch
from mmft.config.schema import TrainConfig
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.tune import (
    FreezeConfig,
    GradualConfig,
    LoRA4bitConfig,
    LoRA8bitConfig,
    TargetedConfig,
    TuneConfig,
)
from mmft.config.wording import listed, show


@rule("model.fusion", "task")
def _fusion_fits_the_task(c: TrainConfig) -> str | None:
    if c.task.pairwise == c.model.fusion.embeds_apart:
        return None
    schemas: dict[str, Any] = {name: found.schema for name, found in options("model/fusion").items()}
    fitting = [name for name, schema in schemas.items() if schema.embeds_apart == c.task.pairwise]
    if c.task.pairwise:
        why = "compares every image with every text, so each must be embedded separately"
    else:
        why = "makes one prediction from a row's image and text together"
    return (
        f"{c.model.fusion.type} does not go with task={c.task.type}, which {why}. "
        f"Type model/fusion={fitting[0]} (fitting: {listed(fitting)})"
    )


@rule("model.fusion.dropout", "model.dropout")
def _one_dropout(c: TrainConfig) -> str | None:
    dropout = getattr(c.model.fusion, "dropout", None)
    default = getattr(type(c.model.fusion), "dropout", None)
    if c.model.dropout is None or dropout in (default, c.model.dropout):
        return None
    return f"changes nothing, because model.dropout={c.model.dropout} sets dropout everywhere. Leave one of them out"


@rule("model.fusion.heads", "model.fusion.width")
def _heads_share_the_width(c: TrainConfig) -> str | None:
    heads, width = getattr(c.model.fusion, "heads", 1), getattr(c.model.fusion, "width", 1)
    if width % heads == 0:
        return None
    more = -(-width // heads) * heads
    return f"{heads} heads do not divide model.fusion.width={width} evenly. Type model.fusion.width={more}"


@rule("model.image_encoder.image_size", "model.image_encoder.name")
def _image_is_a_number_of_patches(c: TrainConfig) -> str | None:
    size, found = c.model.image_encoder.image_size, re.search(r"patch(\d+)", c.model.image_encoder.name)
    patch = int(found[1]) if found else 1
    if size is None or patch < 1 or size % patch == 0:
        return None
    below = size // patch * patch
    return f"{size} is not a multiple of the encoder's patch size of {patch}. Type {below or patch} or {below + patch}"


@rule("model.modality_dropout", "task", "data.columns.image", "data.columns.text")
def _a_modality_can_be_dropped(c: TrainConfig) -> str | None:
    if not c.model.modality_dropout:
        return None
    if c.task.needs_both:
        return f"does not go with task={c.task.type}, which needs both modalities in every row. Leave it out"
    if missing := lone_modality(c):
        return f"changes nothing without data.columns.{missing}: the only modality is never dropped. Leave it out"
    return None


# ---------------------------------------------------------------- auxiliary losses

for _name, _nothing in (("modality_weight", 0.0), ("alignment", "none")):

    @rule(f"model.auxiliary.{_name}", "task", "data.columns.image", "data.columns.text")
    def _auxiliary_loss_has_two_modalities(
        c: TrainConfig, name: str = _name, nothing: float | str = _nothing
    ) -> str | None:
        if getattr(c.model.auxiliary, name) == nothing:
            return None
        if c.task.needs_both:
            return f"does not go with task={c.task.type}, whose own loss compares images and texts. Leave it out"
        missing = lone_modality(c)
        return None if missing is None else f"needs two modalities, but data.columns.{missing} is not set. Leave it out"


@rule("model.auxiliary.alignment", "trainer.strategy")
def _alignment_is_not_sharded(c: TrainConfig) -> str | None:
    # Gradient caching bypasses the model's `forward`, around which sharded weights are gathered.
    if c.model.auxiliary.alignment != "contrastive" or c.trainer.strategy != "fsdp":
        return None
    return "contrastive does not go with trainer.strategy=fsdp yet. Type trainer.strategy=ddp"


@rule("model.auxiliary", "tune.image_encoder", "tune.text_encoder")
def _auxiliary_losses_train_an_encoder(c: TrainConfig) -> str | None:
    auxiliary = c.model.auxiliary
    if not (auxiliary.modality_weight > 0 or auxiliary.alignment != "none") or not encoders_are_frozen(c):
        return None
    return "changes nothing, because both encoders are frozen. Type tune=full (or lora, last_n, ...), or leave it out"


@rule("model.auxiliary.alignment", "data.augment")
def _aligned_images_are_not_mixed(c: TrainConfig) -> str | None:
    mixed = [name for name in ("mixup", "cutmix") if getattr(c.data.augment, name) > 0]
    if c.model.auxiliary.alignment == "none" or not mixed:
        return None
    return f"does not go with data.augment.{mixed[0]}, which makes an image belong to two texts. Choose one"


@rule("model.auxiliary.alignment", *BATCHES)
def _alignment_has_other_rows(c: TrainConfig) -> str | None:
    if c.model.auxiliary.alignment != "contrastive" or smallest_batch(c) > 1:
        return None
    return "contrastive compares the rows of a batch, so a batch needs at least two. Type data.batch_size=32"


@rule("model.auxiliary.alignment_width", "model.auxiliary.alignment")
def _distributions_can_differ(c: TrainConfig) -> str | None:
    if c.model.auxiliary.alignment != "kl" or c.model.auxiliary.alignment_width != 1:
        return None
    return "1: kl compares distributions over this many values, which needs at least 2. Type null for 256"


# ---------------------------------------------------------------- tuning


@rule("optim.lr", "tune")
def _lr_is_used(c: TrainConfig) -> str | None:
    if c.optim.lr is None:
        return None
    if encoders_are_frozen(c):
        return "changes nothing, because both encoders are frozen. Type tune=full, or optim.head_lr for fusion and head"
    trained = [t for t in (c.tune.image_encoder, c.tune.text_encoder) if not isinstance(t, FreezeConfig)]
    if all(getattr(t, "lr", None) is not None for t in trained):
        own = listed(f"tune.{t.group_path.split('/')[1]}.lr" for t in trained)
        return f"changes nothing, because {own} overrides it. Leave one of them out"
    return None


for _key, _unused in (("optim.layer_decay", 1), ("trainer.gradient_checkpointing", False)):

    @rule(_key, "tune")
    def _an_encoder_is_trained(c: TrainConfig, key: str = _key, unused: float = _unused) -> str | None:
        section, _, name = key.partition(".")
        if getattr(getattr(c, section), name) == unused or not encoders_are_frozen(c):
            return None
        return "changes nothing, because both encoders are frozen. Leave it out, or type tune=full"


for _key in [f.name for f in fields(TuneConfig) if f.name not in ENCODERS]:

    @rule(f"tune.{_key}", *(f"tune.{encoder}" for encoder in ENCODERS))
    def _key_of_both_encoders_is_used(c: TrainConfig, name: str = _key) -> str | None:
        if getattr(c.tune, name) is None:
            return None
        methods = {encoder: getattr(c.tune, encoder) for encoder in ENCODERS}
        having = [method for method in methods.values() if hasattr(method, name)]
        if not having:
            chosen = listed(f"tune/{encoder}={method.type}" for encoder, method in methods.items())
            return f"changes nothing: {chosen} do not have this key"
        if all(getattr(method, name) is not None for method in having):
            return "changes nothing, because the encoders' own keys override it. Leave one of them out"
        return None


for _encoder in ENCODERS:

    @rule(
        *(f"tune.{_encoder}", "tune", "trainer.strategy", "trainer.precision", f"model.{_encoder}.pretrained"),
    )
    def _method_fits(c: TrainConfig, encoder: str = _encoder) -> str | None:
        method: Any = getattr(c.tune, encoder)
        if isinstance(method, TargetedConfig) and method.pattern is not None and method.targets is not None:
            return "pattern and targets both choose the layers. Leave one of them out"
        if getattr(method, "pattern", None) is not None:
            try:
                re.compile(method.pattern)
            except re.error as error:
                return f"pattern={show(method.pattern)} is not a regular expression: {error}"
        if isinstance(method, GradualConfig):
            return _gradual(method, c)
        if isinstance(method, LoRA8bitConfig | LoRA4bitConfig):
            return _quantized(encoder, method, c)
        return None


def _gradual(method: GradualConfig, c: TrainConfig) -> str | None:
    schedule = method.schedule if method.schedule is not None else c.tune.schedule
    if c.trainer.strategy == "fsdp":
        return "gradual does not go with trainer=fsdp, which shards the weights once. Type trainer=ddp, or tune=last_n"
    if schedule is None:
        return None
    if min(schedule, default=-1) < 0 or 0 not in schedule:
        return f"schedule={show(schedule)} must start at 0. Type {{0:1,...}}"
    counts = [float("inf") if count < 0 else count for _, count in sorted(schedule.items())]
    if any(later <= earlier for earlier, later in pairwise(counts)):
        return f"schedule={show(schedule)}: the numbers of layers must increase; -1 means all"
    return None


def _quantized(encoder: str, method: LoRA8bitConfig | LoRA4bitConfig, c: TrainConfig) -> str | None:
    if c.trainer.precision == "64-true":
        return f"{method.type} does not go with trainer.precision=64-true. Type tune/{encoder}=lora"
    if c.trainer.strategy == "fsdp":
        return f"trainer=fsdp cannot shard the weights of {method.type}. Type trainer=ddp, or tune/{encoder}=lora"
    if method.dora:
        return f"dora needs the norms of unquantized weights. Type tune/{encoder}=lora, or leave it out"
    if not getattr(c.model, encoder).pretrained:
        return f"model.{encoder}.pretrained=false would freeze random weights. Type tune/{encoder}=full"
    return None
