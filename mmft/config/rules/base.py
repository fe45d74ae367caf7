"""How rules are written, and helpers that several rules share.

A rule is a function of the typed config that returns a message, several problems with their keys, or None. `@rule`
names the keys that it reads. A message is reported under the first; the rule is skipped if any of them is invalid or
missing from the chosen options.
Rules cover what can be checked without opening a table or a model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from mmft.config.schema.model import ENCODERS, MODALITY
from mmft.config.schema.root import TrainConfig
from mmft.config.schema.tune import FreezeConfig
from mmft.config.validate import Problem

Judge = Callable[[Any], str | list[Problem] | None]


class Rule(NamedTuple):
    """One rule.

    Attributes:
        keys: the keys that it reads; problems are reported under the first.
        judge: returns what is wrong: a message, or several problems; None if nothing is.
        trains: it applies to `mmft train` and `mmft check`; otherwise to the commands that use a run.
    """

    keys: tuple[str, ...]
    judge: Judge
    trains: bool


RULES: list[Rule] = []


def rule(*keys: str, trains: bool = True) -> Callable[[Judge], Judge]:
    """Registers a rule; see `Rule`."""

    def register(judge: Judge) -> Judge:
        RULES.append(Rule(keys, judge, trains))
        return judge

    return register


use_rule = partial(rule, trains=False)
"""Registers a rule for the commands that use a run."""


SPLITS = ("data.train", "data.val", "data.test", "data.columns.split", "data.fractions", "data.folds")
"""The keys that `no_val` reads."""


def no_val(c: TrainConfig) -> str | None:
    """Why there are no validation rows; None if the config allows for some."""
    if c.data.folds is not None and c.data.test is not None:
        return None  # the held-out fold is the validation split
    if c.data.folds is None and c.data.train is not None and c.data.val is None:
        return "data.val is not set"
    if (c.data.train is None or c.data.folds) and c.data.columns.split is None and c.data.fractions.val == 0:
        return "data.fractions.val is 0"
    return None


def encoders_are_frozen(c: TrainConfig) -> bool:
    """Whether both encoders are frozen."""
    return all(isinstance(getattr(c.tune, encoder), FreezeConfig) for encoder in ENCODERS)


def tuned_by(c: TrainConfig, encoder: str, name: str) -> Any:
    """The value of a key of an encoder's tuning method: its own, or that of `tune`; None if both are null."""
    own = getattr(getattr(c.tune, encoder), name, None)
    return getattr(c.tune, name, None) if own is None else own


def lone_modality(c: TrainConfig) -> str | None:
    """The modality that rows lack if they have the other; None if they have both or neither."""
    missing = [name for name in MODALITY.values() if not c.reads(name)]
    return missing[0] if len(missing) == 1 else None
