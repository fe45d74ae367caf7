"""How a rule is written, and what several rules ask.

A rule is a function of the typed config that gives a message or None. `@rule` names the keys that it reads: the
message is reported under the first, and the rule is left out where one of them is wrong already, or where the chosen
options do not have them all. Rules are about what can be known without opening a table or a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mmft.config.schema import TrainConfig
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.tune import FreezeConfig

Judge = Callable[[Any], str | None]


class Rule(NamedTuple):
    """One rule.

    Attributes:
        keys: what it reads, and the key that it is reported under first.
        judge: gives what is wrong.
        trains: it is of `mmft train` and `mmft check`; else of the commands that use a run.
        always: it holds for a config that may be incomplete, too (`--cfg job`, `resume=RUN`).
    """

    keys: tuple[str, ...]
    judge: Judge
    trains: bool
    always: bool


RULES: list[Rule] = []


def rule(*keys: str, always: bool = False) -> Callable[[Judge], Judge]:
    """Registers a rule of `mmft train` and `mmft check`; see `Rule`."""

    def register(judge: Judge) -> Judge:
        RULES.append(Rule(keys, judge, True, always))
        return judge

    return register


def use_rule(*keys: str) -> Callable[[Judge], Judge]:
    """Registers a rule of the commands that use a run."""

    def register(judge: Judge) -> Judge:
        RULES.append(Rule(keys, judge, False, False))
        return judge

    return register


SPLITS = ("data.train", "data.val", "data.test", "data.columns.split", "data.fractions", "data.folds")
"""What `no_val` reads."""


def no_val(c: TrainConfig) -> str | None:
    """Why there are no validation rows; None: there are, as far as the config tells."""
    if c.data.folds is not None and c.data.test is not None:
        return None  # the fold that is held out
    if c.data.folds is None and c.data.train is not None and c.data.val is None:
        return "there is no data.val"
    if (c.data.train is None or c.data.folds) and c.data.columns.split is None and c.data.fractions.val == 0:
        return "data.fractions.val is 0"
    return None


def smallest_batch(c: TrainConfig) -> int:
    """Rows of the smallest batch in training, but for the last one of an epoch."""
    return min((c.callbacks.gradient_accumulation.schedule or {0: c.data.batch_size}).values())


BATCHES = ("data.batch_size", "callbacks.gradient_accumulation.schedule")
"""What `smallest_batch` reads."""


def encoders_are_frozen(c: TrainConfig) -> bool:
    """Whether nothing of either encoder is trained."""
    return all(isinstance(getattr(c.tune, encoder), FreezeConfig) for encoder in ENCODERS)


def lone_modality(c: TrainConfig) -> str | None:
    """The modality that has no column while the other has one; None: both have one, or neither."""
    missing = [name for name in ("image", "text") if getattr(c.data.columns, name) is None]
    return missing[0] if len(missing) == 1 else None
