"""Checks of what is trained: keys that no method reads, and pairs that cannot work."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import pairwise

from mmft.config.checks import check_train
from mmft.config.schema import TrainConfig
from mmft.config.schema.tune import (
    FreezeConfig,
    GradualConfig,
    LoRA4bitConfig,
    LoRA8bitConfig,
    PatternConfig,
    TargetedConfig,
    TuneConfig,
)
from mmft.config.wording import listed, show

_TOWERS = ("image_encoder", "text_encoder")
_SHARED = [f.name for f in fields(TuneConfig) if f.name not in _TOWERS]


def encoders_are_frozen(c: TrainConfig) -> bool:
    """Whether nothing of either encoder is trained."""
    return all(isinstance(t, FreezeConfig) for t in (c.tune.image_encoder, c.tune.text_encoder))


@check_train("optim.lr", "tune")
def lr_is_used(c: TrainConfig) -> str | None:
    """`optim.lr` is some tower's rate."""
    if c.optim.lr is None:
        return None
    if encoders_are_frozen(c):
        return "changes nothing, because both encoders are frozen. Type optim.head_lr for fusion and head, or tune=full"
    towers = [t for t in (c.tune.image_encoder, c.tune.text_encoder) if not isinstance(t, FreezeConfig)]
    if all(getattr(t, "lr", None) is not None for t in towers):
        own = listed(f"tune.{t.group_path.split('/')[1]}.lr" for t in towers)
        return f"changes nothing, because {own} is given. Leave one of them out"
    return None


@check_train("optim.layer_decay", "tune")
def layer_decay_is_used(c: TrainConfig) -> str | None:
    """`optim.layer_decay` has layers to act on."""
    if c.optim.layer_decay == 1 or not encoders_are_frozen(c):
        return None
    return "changes nothing, because both encoders are frozen. Leave it out, or type tune=full"


def _used(name: str) -> None:
    @check_train(f"tune.{name}", *(f"tune.{tower}" for tower in _TOWERS))
    def is_used(c: TrainConfig) -> str | None:
        """A key for both towers is left to it by one of them."""
        if getattr(c.tune, name) is None:
            return None
        methods = {tower: getattr(c.tune, tower) for tower in _TOWERS}
        having = [method for method in methods.values() if hasattr(method, name)]
        if not having:
            chosen = listed(f"tune/{tower}={method.type}" for tower, method in methods.items())
            return f"changes nothing: {chosen} do not have it"
        if all(getattr(method, name) is not None for method in having):
            return "changes nothing, because the towers' own are given. Leave one of them out"
        return None


for _name in _SHARED:
    _used(_name)


def _of_tower(tower: str, c: TrainConfig) -> str | None:
    """What is wrong with one tower's method."""
    method = getattr(c.tune, tower)
    if isinstance(method, TargetedConfig) and method.pattern is not None and method.targets is not None:
        return "pattern and targets both say which layers. Leave one of them out"
    if isinstance(method, TargetedConfig | PatternConfig) and method.pattern is not None:
        try:
            re.compile(method.pattern)
        except re.error as error:
            return f"pattern={show(method.pattern)} is no regular expression: {error}"
    if isinstance(method, GradualConfig):
        return _gradual(method, c)
    if isinstance(method, LoRA8bitConfig | LoRA4bitConfig):
        return _quantized(tower, method, c)
    return None


def _gradual(method: GradualConfig, c: TrainConfig) -> str | None:
    schedule = method.schedule if method.schedule is not None else c.tune.schedule
    if c.trainer.strategy == "fsdp":
        return "gradual does not go with trainer=fsdp, which parts the weights once. Type trainer=ddp, or tune=last_n"
    if schedule is None:
        return None
    if min(schedule, default=-1) < 0 or 0 not in schedule:
        return f"schedule={show(schedule)} must say what is trained from 0 on. Type {{0:1,...}}"
    counts = [float("inf") if count < 0 else count for _, count in sorted(schedule.items())]
    if any(later <= earlier for earlier, later in pairwise(counts)):
        return f"schedule={show(schedule)}: the numbers of layers must rise; -1 stands for all"
    return None


def _quantized(tower: str, method: LoRA8bitConfig | LoRA4bitConfig, c: TrainConfig) -> str | None:
    if c.trainer.precision == "64-true":
        return f"{method.type} has no use for trainer.precision=64-true. Type tune/{tower}=lora"
    if c.trainer.strategy == "fsdp":
        return f"trainer=fsdp cannot part the weights of {method.type}. Type trainer=ddp, or tune/{tower}=lora"
    if method.dora:
        return f"dora needs the lengths of whole weights. Type tune/{tower}=lora, or leave it out"
    if not getattr(c.model, tower).pretrained:
        return f"model.{tower}.pretrained=false leaves nothing worth being kept frozen. Type tune/{tower}=full"
    return None


@check_train("tune.image_encoder", "tune", "trainer.strategy", "trainer.precision", "model.image_encoder.pretrained")
def image_method_fits(c: TrainConfig) -> str | None:
    """The image encoder's method goes with everything else."""
    return _of_tower("image_encoder", c)


@check_train("tune.text_encoder", "tune", "trainer.strategy", "trainer.precision", "model.text_encoder.pretrained")
def text_method_fits(c: TrainConfig) -> str | None:
    """The text encoder's method goes with everything else."""
    return _of_tower("text_encoder", c)
