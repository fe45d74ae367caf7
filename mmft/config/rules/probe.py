"""Rules about `tune.probe`: what can be solved in place of training, and which keys then change nothing."""

from __future__ import annotations

from collections.abc import Iterable

from mmft.config.rules.base import rule
from mmft.config.rules.shapes import given
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.root import TrainConfig
from mmft.config.schema.tune import FreezeConfig
from mmft.config.validate import Problem
from mmft.config.wording import listed
from mmft.ranks import started

_OF_STEPS = (
    *("optim", "schedule", "data.sampler", "data.augment"),
    *("model.dropout", "model.modality_dropout", "model.auxiliary"),
    *(f"trainer.{name}" for name in ("max_epochs", "max_steps", "max_time", "val_every_epochs", "val_every_steps")),
    *("trainer.log_every_steps", "trainer.gradient_checkpointing"),
    *(f"checkpoint.{name}" for name in ("every_steps", "every_minutes", "use", "alpha", "keep")),
    *(f"callbacks.{name}" for name in ("early_stopping", "ema", "gradient_accumulation", "profile", "extra")),
)
_OF_LOSSES = (
    *("task.class_weights", "task.pos_weight", "task.label_smoothing", "task.focal_gamma", "task.huber_delta"),
    *("task.gamma_pos", "task.gamma_neg", "task.clip"),
)


@rule("tune.probe", *(f"tune.{encoder}" for encoder in ENCODERS))
def _encoders_stay_as_they_are(c: TrainConfig) -> str | None:
    methods = {encoder: getattr(c.tune, encoder) for encoder in ENCODERS}
    trained = [f"tune/{encoder}={one.type}" for encoder, one in methods.items() if not isinstance(one, FreezeConfig)]
    if c.tune.probe is None or not trained:
        return None
    return f"a probe reads frozen encoders, and {listed(trained)} trains. Type tune=probe alone, or tune.probe=null"


@rule("tune.probe", "model.fusion")
def _features_are_joined_as_they_are(c: TrainConfig) -> str | None:
    if c.tune.probe is None or c.model.fusion.type == "linear":
        return None
    return (
        f"a probe reads the encoders' own features, so model/fusion={c.model.fusion.type} would stay untrained. "
        "Type model/fusion=linear, or tune=head_only"
    )


@rule("cache.dtype", "tune.probe")
def _features_are_solved_as_they_are(c: TrainConfig) -> str | None:
    if c.tune.probe is None or c.cache.dtype == "computed":
        return None
    return "a probe is solved on features as they are computed. Leave it out, or type tune=head_only"


@rule("tune.probe", "task")
def _rows_have_labels_of_their_own(c: TrainConfig) -> str | None:
    if c.tune.probe is None or not c.task.needs_both:
        return None
    instead = f"tune=head_only model/fusion={'dual' if c.task.pairwise else 'concat'}"
    return f"a probe predicts a row's label, and task={c.task.type} compares images with texts. Type {instead}"


@rule("trainer.devices", "tune.probe", "trainer.strategy")
def _a_probe_is_solved_by_one_process(c: TrainConfig) -> str | None:
    if c.tune.probe is None or (c.trainer.devices == 1 and started().world == 1 and c.trainer.strategy == "ddp"):
        return None
    return "tune=probe is solved by one process. Type trainer=auto, and trainer.devices=1 or leave it out"


def unused(c: TrainConfig) -> list[str]:
    """The keys that differ from their defaults, by whatever file, and change nothing because of `tune.probe`."""
    return [] if c.tune.probe is None else [key for key, _ in given(c) if _is_unused(c, key)]


def typed_in_vain(c: TrainConfig, typed: Iterable[str]) -> list[Problem]:
    """Problems with the keys and groups on the command line that change nothing because of `tune.probe`."""
    if c.tune is None or c.tune.probe is None:  # None: what was given is no section
        return []
    text = (
        f"changes nothing with tune.probe={c.tune.probe}, which is solved at once. Leave it out, or type tune=head_only"
    )
    return [Problem(key, text) for key in typed if _is_unused(c, key)]


def _is_unused(c: TrainConfig, key: str) -> bool:
    keys = _OF_STEPS if c.tune.probe == "linear" else _OF_STEPS + _OF_LOSSES
    return any(key == one or key.startswith(f"{one}.") for one in keys)
