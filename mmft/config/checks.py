"""What must be true between keys, after each key was found right by itself.

A check is one small function that gets the typed config and returns a message or None. `@check` names the
keys that it reads: the message is reported under the first, and the check is left out when one of them
is wrong already. Checks are about what can be known without opening a table or a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from mmft.config.schema import TrainConfig
from mmft.config.schema.task import SeveralConfig, TaskConfig
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


def smallest_batch(c: TrainConfig) -> int:
    """Rows of the smallest batch that training has, but for the last one of an epoch."""
    return min((c.callbacks.gradient_accumulation.schedule or {0: c.data.batch_size}).values())


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
        checks_several,
        checks_splits,
        checks_task,
        checks_training,
        checks_tune,
    )

    if config is None:
        return []
    paths = {key.removesuffix(".type") for key in wrong}
    train = isinstance(config, TrainConfig)
    asked = [one for one in _CHECKS if one.train is train and (one.always or not partial)]
    asked = [one for one in asked if not any(_touches(k, p) for k in one.keys for p in paths)]
    problems = _problems(config, asked)
    if train and isinstance(config.task, SeveralConfig) and config.task.tasks:
        of_tasks = [one for one in asked if one.keys[0].partition(".")[0] == "task"]
        for name, task in config.task.tasks.items():
            problems += _of_part(config, name, task, of_tasks)
    return problems


def _problems(config: Any, asked: Iterable[_Check]) -> list[Problem]:
    found = ((one.keys[0], one.rule(config)) for one in asked if _has(config, one.keys))
    return [Problem(key, text) for key, text in found if text is not None]


def _of_part(config: TrainConfig, name: str, task: TaskConfig | None, asked: Iterable[_Check]) -> list[Problem]:
    """What is wrong between the keys of one of several tasks, which is checked as if it were the only one."""
    if task is None:
        return []
    alone = replace(config.data, columns=replace(config.data.columns, label=name))
    found, here = _problems(replace(config, task=task, data=alone), asked), f"task.tasks.{name}"
    return [Problem(key.replace("task", here, 1), text.replace("task.", f"{here}.")) for key, text in found]


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
