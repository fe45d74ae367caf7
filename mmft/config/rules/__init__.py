"""Rules between keys, checked after each key was validated on its own.

Three common shapes of rules are declared on the fields themselves (`shapes`). All others are functions, by topic:
`rows` (where rows come from), `files` (what is read and written), `model` (the model and its tuning), `probe`
(`tune.probe`), `task`, `decoding` (how answers are written), `serving` (`mmft serve` and `mmft demo`), and `training`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from operator import attrgetter
from typing import Any

from mmft.config.rules import (  # noqa: F401 - they register their rules
    decoding,
    files,
    model,
    probe,
    rows,
    serving,
    task,
    training,
)
from mmft.config.rules.base import RULES, Rule
from mmft.config.rules.shapes import shape_problems
from mmft.config.schema.root import TrainConfig
from mmft.config.validate import Problem


def check(config: Any, wrong: set[str]) -> list[Problem]:
    """All problems between the keys of a config.

    Args:
        config: the typed root.
        wrong: keys that are invalid on their own; rules that read them are skipped.
    """
    paths = {key.removesuffix(".type") for key in wrong}

    def readable(keys: Iterable[str]) -> bool:
        return not any(_touches(key, path) for key in keys for path in paths)

    trains = isinstance(config, TrainConfig)
    asked = [one for one in RULES if one.trains is trains and readable(one.keys)]
    problems = list(_broken(asked, config))
    problems += [problem for problem, keys in shape_problems(config) if readable(keys)]
    parts = config.task.parts if trains and config.task is not None and readable(["task"]) else {}
    for name, part in parts.items():
        problems += _of_part(asked, config, name, part)
    return problems


def _broken(asked: Iterable[Rule], config: Any) -> Iterator[Problem]:
    for one in asked:
        if not _has(config, one.keys):
            continue
        try:
            found = one.judge(config)
        except OSError as error:  # of a path, such as one that is too long
            found = f"cannot be used: {error.strerror}"
        if isinstance(found, str):
            yield Problem(one.keys[0], found)
        else:
            yield from found or ()


def _of_part(asked: Iterable[Rule], config: TrainConfig, name: str, part: Any) -> Iterator[Problem]:
    """Problems between the keys of one of several tasks, checked as if it were the only one."""
    alone = replace(config, task=part, data=replace(config.data, columns=replace(config.data.columns, label=name)))
    here = f"task.tasks.{name}"
    for key, text in _broken((one for one in asked if one.keys[0].partition(".")[0] == "task"), alone):
        yield Problem(key.replace("task", here, 1), text.replace("task.", f"{here}."))


def _touches(key: str, path: str) -> bool:
    return key == path or key.startswith(f"{path}.") or path.startswith(f"{key}.")


def _has(config: Any, keys: tuple[str, ...]) -> bool:
    """Whether the chosen options have every key that a rule reads."""
    try:
        attrgetter(*keys)(config)
    except AttributeError:
        return False
    return True
