"""What must be true between keys, after each key was found right by itself.

A check is one small function that gets the typed config and returns a message or None. `@check` names the
keys that it reads: the message is reported under the first, and the check is left out when one of them
is wrong already. Checks are about what can be known without opening a table or a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mmft.config.schema import TrainConfig
from mmft.config.validate import Problem

Rule = Callable[[Any], str | None]


class _Check(NamedTuple):
    keys: tuple[str, ...]
    rule: Rule
    train: bool
    always: bool


_CHECKS: list[_Check] = []


def check_train(*keys: str, always: bool = False) -> Callable[[Rule], Rule]:
    """Registers a check of `mmft train`; the first of `keys` is reported.

    Args:
        keys: what the check reads.
        always: also checked where the config may be incomplete (`--cfg job`, `resume=RUN`).
    """

    def register(rule: Rule) -> Rule:
        _CHECKS.append(_Check(keys, rule, True, always))
        return rule

    return register


def check_use(*keys: str) -> Callable[[Rule], Rule]:
    """Registers a check of the commands that use a run; the first of `keys` is reported."""

    def register(rule: Rule) -> Rule:
        _CHECKS.append(_Check(keys, rule, False, False))
        return rule

    return register


def check(config: Any, wrong: set[str], *, partial: bool = False) -> list[Problem]:
    """All problems between the keys of a config.

    Args:
        config: the typed root.
        wrong: keys that are wrong by themselves; what reads them is not checked.
        partial: the config may be incomplete; only what is wrong all the same is reported.
    """
    from mmft.config import (  # noqa: F401 - they register
        checks_augment,
        checks_auxiliary,
        checks_averages,
        checks_data,
        checks_memory,
        checks_modalities,
        checks_pairs,
        checks_splits,
        checks_task,
        checks_training,
        checks_tune,
    )

    if config is None:
        return []
    paths = {key.removesuffix(".type") for key in wrong}
    train = isinstance(config, TrainConfig)
    problems = []
    for keys, rule, for_train, always in _CHECKS:
        if partial and not always:
            continue
        if for_train is train and _has(config, keys) and not any(_touches(k, p) for k in keys for p in paths):
            text = rule(config)
            if text is not None:
                problems.append(Problem(keys[0], text))
    return problems


def _touches(key: str, path: str) -> bool:
    return key == path or key.startswith(f"{path}.") or path.startswith(f"{key}.")


def _has(config: Any, keys: tuple[str, ...]) -> bool:
    """Whether the chosen options have all the keys that a check reads."""
    for key in keys:
        node = config
        for part in key.split("."):
            if not hasattr(node, part):
                return False
            node = getattr(node, part)
    return True
