"""Checks of averaged weights: moving averages and soups."""

from __future__ import annotations

from mmft.config.checks import check_train
from mmft.config.checks_training import SPLITS, no_val
from mmft.config.schema import TrainConfig


@check_train("callbacks.ema.decay", "trainer.strategy")
def average_is_whole(c: TrainConfig) -> str | None:
    """There are whole weights to average."""
    if c.callbacks.ema.decay is None or c.trainer.strategy != "fsdp":
        return None
    return "needs whole weights, of which trainer=fsdp keeps parts. Type trainer=ddp, or callbacks.ema.decay=null"


@check_train("callbacks.ema.warmup", "callbacks.ema.decay")
def average_has_a_decay(c: TrainConfig) -> str | None:
    """`warmup` belongs to a decay."""
    if c.callbacks.ema.warmup or c.callbacks.ema.decay is not None:
        return None
    return "changes nothing without callbacks.ema.decay. Type callbacks.ema.decay=0.999"


@check_train("checkpoint.keep", "checkpoint.use")
def soup_has_ingredients(c: TrainConfig) -> str | None:
    """A soup is of several checkpoints."""
    if not c.checkpoint.use.startswith("soup") or c.checkpoint.keep > 1:
        return None
    return f"{c.checkpoint.use} is the mean of at least 2 checkpoints. Type checkpoint.keep=3"


@check_train("checkpoint.use", "trainer.max_epochs", "trainer.val_every_epochs")
def soup_has_validations(c: TrainConfig) -> str | None:
    """There is more than one checkpoint to choose among."""
    epochs, every = c.trainer.max_epochs, c.trainer.val_every_epochs
    if not c.checkpoint.use.startswith("soup") or epochs // every != 1:
        return None
    return (
        f"{c.checkpoint.use} is the mean of several validated checkpoints, and there is one in trainer.max_epochs="
        f"{epochs}. Type trainer.max_epochs={2 * every}, or checkpoint.use=best"
    )


@check_train("checkpoint.keep", "checkpoint.use", *SPLITS)
def keeping_can_see(c: TrainConfig) -> str | None:
    """The best so many, and soups of them, need validation rows."""
    soup = c.checkpoint.use.startswith("soup")
    if (c.checkpoint.keep == 1 and not soup) or (why := no_val(c)) is None:
        return None
    return f"the {c.checkpoint.use if soup else 'best so many'} needs validation rows, but {why}"
