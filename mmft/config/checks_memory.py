"""Checks of what saves memory: the optimizers of bitsandbytes, and activations that are computed twice."""

from __future__ import annotations

from mmft.config.checks import check_train
from mmft.config.checks_tune import encoders_are_frozen
from mmft.config.schema import TrainConfig

_OF_BITSANDBYTES = ("adamw_8bit", "paged_adamw", "paged_adamw_8bit")


@check_train("optim", "trainer.strategy", "trainer.precision")
def bitsandbytes_fits(c: TrainConfig) -> str | None:
    """The optimizers of bitsandbytes update whole float32 weights."""
    if c.optim.type not in _OF_BITSANDBYTES:
        return None
    if c.trainer.strategy == "fsdp":
        return f"{c.optim.type} cannot update the parts of weights that fsdp keeps. Type optim=adamw, or trainer=ddp"
    if c.trainer.precision == "64-true":
        return (
            f"{c.optim.type} keeps its moments in 32 bit or 8, which does not go with trainer.precision=64-true. "
            "Type optim=adamw, or trainer.precision=32-true"
        )
    return None


@check_train("trainer.gradient_checkpointing", "tune")
def something_is_computed_twice(c: TrainConfig) -> str | None:
    """Some tower has a backward pass."""
    if not c.trainer.gradient_checkpointing or not encoders_are_frozen(c):
        return None
    return "changes nothing, because both encoders are frozen and keep no activations. Leave it out, or type tune=full"
