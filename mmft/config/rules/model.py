"""Rules about `model` and `tune`: components must fit each other and the task, and methods need something to train."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import pairwise
from operator import attrgetter
from typing import Any

from mmft.config.registry import options
from mmft.config.rules.base import encoders_are_frozen, lone_modality, rule, tuned_by
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.root import TrainConfig
from mmft.config.schema.tune import (
    GradualConfig,
    LoRA4bitConfig,
    LoRA8bitConfig,
    PrefixConfig,
    PromptConfig,
    TuneConfig,
)
from mmft.config.wording import listed, show


@rule("model.fusion", "task", "tune.probe")
def _fusion_fits_the_task(c: TrainConfig) -> str | None:
    def fits(fusion: Any, anywhere: bool = True) -> bool:
        apart = (None, c.task.pairwise) if anywhere else (c.task.pairwise,)
        compares = not (fusion.additive and c.task.needs_both and not c.task.pairwise)
        return fusion.embeds_apart in apart and fusion.generates == c.task.generates and compares

    if fits(c.model.fusion) or (c.tune.probe is not None and not c.task.generates):
        return None
    schemas: dict[str, Any] = {name: found.schema for name, found in options("model/fusion").items()}
    fitting = [name for name, schema in schemas.items() if fits(schema, anywhere=False)]
    if c.task.generates:
        why = "puts the image into the sequence of a causal language model (model.text_encoder)"
    elif c.task.pairwise:
        why = "compares every image with every text, so each must be embedded separately"
    elif c.model.fusion.additive and c.task.needs_both:
        why = "compares a row's image with its text, which a linear head on both side by side cannot"
    else:
        why = "makes one prediction from a row's image and text together"
    return (
        f"{c.model.fusion.type} does not go with task={c.task.type}, which {why}. "
        f"Type model/fusion={fitting[0]} (fitting: {listed(fitting)})"
    )


@rule("model.pair", "task", "model.whole")
def _language_model_stands_alone(c: TrainConfig) -> str | None:
    if c.model.pair is None or not c.task.generates or c.model.whole is not None:
        return None
    return (
        f"does not go with task={c.task.type}, which needs a causal language model. Type model.image_encoder.name=NAME"
    )


@rule("model.whole", "task", "model.pair", "model.fusion")
def _whole_model_generates(c: TrainConfig) -> str | None:
    if c.model.whole is None:
        return None
    if c.model.pair is not None:
        return "does not go with model.pair, which names another model. Leave one of them out"
    if not c.task.generates:
        return f"writes texts, which task={c.task.type} does not learn. Type task=generation"
    if not c.model.fusion.of_whole:
        return f"has its own projector, in place of model/fusion={c.model.fusion.type}. Leave model/fusion out"
    return None


for _key, _unused in (
    ("model.auxiliary.modality_weight", 0.0),
    ("model.auxiliary.alignment", "none"),
    ("model.auxiliary.distillation_weight", 0.0),
):

    @rule(_key, "task")
    def _features_are_pooled(c: TrainConfig, key: str = _key, unused: float | str = _unused) -> str | None:
        if attrgetter(key)(c) == unused or not c.task.generates:
            return None
        return f"does not go with task={c.task.type}, which reads tokens. Leave it out"


@rule("task.packing", "tune.text_encoder")
def _packed_rows_have_no_prompts(c: TrainConfig) -> str | None:
    if not getattr(c.task, "packing", False) or not isinstance(c.tune.text_encoder, (PrefixConfig, PromptConfig)):
        return None
    return (
        f"true does not go with tune/text_encoder={c.tune.text_encoder.type}, which adds tokens to a sequence, not "
        "to a row. Leave it out"
    )


@rule("model.fusion", "model.pair", "model.whole")
def _fusion_has_its_model(c: TrainConfig) -> str | None:
    if c.model.pair is None and c.model.fusion.of_pair:
        return f"{c.model.fusion.type} is part of a pretrained pair. Type model.pair=FOLDER_OR_NAME, or choose another"
    if c.model.whole is None and c.model.fusion.of_whole:
        return f"{c.model.fusion.type} is part of a whole model. Type model.whole=FOLDER_OR_NAME, or choose another"
    return None


for _encoder in ENCODERS:

    @rule(f"model.{_encoder}.pool", "model.pair", "model.fusion")
    def _own_pool_is_used(c: TrainConfig, encoder: str = _encoder) -> str | None:
        if c.model.pair is not None or getattr(c.model, encoder).pool != "own" or c.model.fusion.reads == "pooled":
            return None
        return f"own is not used by model/fusion={c.model.fusion.type}, which reads tokens. Leave it out"


@rule("model.image_encoder.feature_layer", "model.image_encoder.pool", "model.pair", "model.whole")
def _feature_layer_is_a_block(c: TrainConfig) -> str | None:
    layer = getattr(c.model.image_encoder, "feature_layer", None)
    if layer is None:
        return None
    for key in ("model.pair", "model.whole"):
        if attrgetter(key)(c) is not None:
            return f"{layer} does not go with {key}, which says itself what is read of its image encoder. Leave it out"
    if c.model.image_encoder.pool == "own":
        return f"{layer} leaves out what model.image_encoder.pool=own pools with. Leave one of them out"
    return "0 is no block. Type -1 for the last one, or 1 for the first" if layer == 0 else None


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


@rule("model.tiles", "model.whole")
def _tiles_are_of_a_whole_model(c: TrainConfig) -> str | None:
    if not c.model.tiles or c.model.whole is not None:
        return None
    return "is how the processor of a whole model cuts images. Type model.whole=FOLDER_OR_NAME, or leave it out"


for _key in ("model.image_encoder.image_size", "data.resize", "data.resample", "data.crop_pct", "data.jpeg_draft"):

    @rule(_key, "model.tiles")
    def _tiles_have_their_size(c: TrainConfig, key: str = _key) -> str | None:
        if attrgetter(key)(c) is None or not c.model.tiles:
            return None
        return "changes nothing with model.tiles=true, where the model's processor decides. Leave one of them out"


@rule("model.image_encoder.image_size", "model.image_encoder.name")
def _image_is_a_number_of_patches(c: TrainConfig) -> str | None:
    size, found = c.model.image_encoder.image_size, re.search(r"patch(\d+)", c.model.image_encoder.name)
    patch = int(found[1]) if found else 1
    if size is None or patch < 1 or size % patch == 0:
        return None
    below = size // patch * patch
    return f"{size} is not a multiple of the encoder's patch size of {patch}. Type {below or patch} or {below + patch}"


for _key, _unused in (
    ("model.modality_dropout", 0.0),
    ("model.auxiliary.modality_weight", 0.0),
    ("model.auxiliary.alignment", "none"),
):

    @rule(_key, "task", "data.columns.image", "data.columns.text")
    def _there_are_two_modalities(c: TrainConfig, key: str = _key, unused: float | str = _unused) -> str | None:
        if attrgetter(key)(c) == unused:
            return None
        if c.task.needs_both:
            return f"does not go with task={c.task.type}, which needs both modalities in every row. Leave it out"
        missing = lone_modality(c)
        return None if missing is None else f"needs two modalities, but data.columns.{missing} is not set. Leave it out"


@rule("model.auxiliary.distillation_weight", "task")
def _features_are_of_rows(c: TrainConfig) -> str | None:
    if not c.model.auxiliary.distillation_weight or not c.task.needs_both or c.task.pairwise:
        return None
    return f"does not go with task={c.task.type} yet, whose rows get other texts within a step. Leave it out"


# ---------------------------------------------------------------- tuning


for _key in ("tune.fusion", "tune.fusion_lr"):

    @rule(_key, "model.fusion", "tune.fusion")
    def _fusion_is_pretrained(c: TrainConfig, key: str = _key) -> str | None:
        if attrgetter(key)(c) in ("full", None):
            return None
        if not (c.model.fusion.of_pair or c.model.fusion.of_whole):
            return f"needs model/fusion=pretrained; {c.model.fusion.type} starts from random weights. Leave it out"
        if key == "tune.fusion_lr" and c.tune.fusion == "freeze":
            return "changes nothing with tune.fusion=freeze. Leave one of them out"
        return None


@rule("tune.fusion", "task", *(f"tune.{encoder}" for encoder in ENCODERS))
def _something_is_trained(c: TrainConfig) -> str | None:
    if c.tune.fusion == "full" or not c.task.pairwise or not encoders_are_frozen(c):
        return None
    return "freezes all that is left to train: both encoders are frozen too. Type tune.fusion=full, or tune an encoder"


_OF_BOTH = [f.name for f in fields(TuneConfig) if f.name not in (*ENCODERS, "probe", "fusion", "fusion_lr")]

for _key in ("optim.lr", *(f"tune.{name}" for name in _OF_BOTH)):

    @rule(_key, *(f"tune.{encoder}" for encoder in ENCODERS))
    def _key_of_both_encoders_is_used(c: TrainConfig, key: str = _key) -> str | None:
        if attrgetter(key)(c) is None:
            return None
        name = key.partition(".")[2]
        methods = {encoder: getattr(c.tune, encoder) for encoder in ENCODERS}
        having = [method for method in methods.values() if hasattr(method, name)]
        started = c.model.fusion.of_pair or c.model.fusion.of_whole
        if not having and key == "optim.lr" and started and c.tune.fusion_lr is None:
            return None  # it is the pretrained fusion's
        if not having:
            chosen = listed(f"tune/{encoder}={method.type}" for encoder, method in methods.items())
            return f"changes nothing, because {chosen} do not use it. Leave it out"
        if all(getattr(method, name) is not None for method in having):
            return "changes nothing, because the encoders' own keys override it. Leave one of them out"
        return None


for _encoder in ENCODERS:

    @rule(f"tune.{_encoder}", "tune", "trainer.strategy", "trainer.precision", f"model.{_encoder}.pretrained")
    def _method_fits(c: TrainConfig, encoder: str = _encoder) -> str | None:
        method: Any = getattr(c.tune, encoder)
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


@rule("optim.start_decay", *(f"tune.{encoder}" for encoder in ENCODERS))
def _start_is_of_own_weights(c: TrainConfig) -> str | None:
    methods = {encoder: getattr(c.tune, encoder) for encoder in ENCODERS}
    adding = [f"tune/{encoder}={method.type}" for encoder, method in methods.items() if not method.trains_own]
    if not c.optim.start_decay or not adding:
        return None
    return (
        f"is for an encoder's own weights, and {adding[0]} adds others, whose distance from none is what "
        "optim.weight_decay decays. Leave it out, or type tune=full"
    )


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
    if tuned_by(c, encoder, "dora"):
        return f"dora needs the norms of unquantized weights. Type tune/{encoder}=lora, or leave it out"
    if not getattr(c.model, encoder).pretrained:
        return f"model.{encoder}.pretrained=false would freeze random weights. Type tune/{encoder}=full"
    return None
