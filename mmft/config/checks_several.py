"""Checks of `task=several`: its tasks, their columns, their weights."""

from __future__ import annotations

from mmft.config.checks import check_train
from mmft.config.quoted import list_of
from mmft.config.schema import TrainConfig
from mmft.config.schema.data import names_of
from mmft.config.schema.task import SeveralConfig
from mmft.config.wording import did_you_mean, listed, show

_TAKEN = frozenset({"loss", "train", "val", "test"})


@check_train("task.tasks")
def there_are_several(c: TrainConfig) -> str | None:
    """At least two, each of which learns from a column of its own."""
    assert isinstance(c.task, SeveralConfig)
    for name, part in c.task.tasks.items():
        if isinstance(part, SeveralConfig) or part.of_pairs:
            return f"task={part.type} ({name}) cannot be one of several tasks. Leave it out"
    if len(c.task.tasks) < 2:
        name, part = next(iter(c.task.tasks.items()))
        return f"there is one task. Type task={part.type} data.columns.label={name}"
    return None


@check_train("task.tasks")
def names_are_not_taken(c: TrainConfig) -> str | None:
    """Metrics are named by split and task (`val/price/rmse`), and what has a part `loss` is a loss."""
    assert isinstance(c.task, SeveralConfig)
    for name in c.task.tasks:
        for word in name.split("/"):
            if word in _TAKEN:
                return (
                    f"{name}: no task can be called {word}, because metrics are named by it already, such as val/loss. "
                    "Give the column of labels another name"
                )
    return None


@check_train("data.columns.label", "task.tasks")
def columns_are_the_tasks(c: TrainConfig) -> str | None:
    """The columns of labels are those of the tasks."""
    assert isinstance(c.task, SeveralConfig)
    given = c.data.columns.label
    if given is None or set(names_of(given)) == set(c.task.tasks):
        return None
    right = f"data.columns.label={list_of(c.task.tasks)}"
    typed = f'"{right}"' if "'" in right else right
    return f"{show(given)}: task.tasks has the columns {listed(c.task.tasks)}. Type {typed}"


@check_train("task.loss_weights", "task.tasks")
def weights_are_of_tasks(c: TrainConfig) -> str | None:
    """Each weight is a task's, and counts."""
    assert isinstance(c.task, SeveralConfig)
    weights = c.task.loss_weights or {}
    for name, weight in weights.items():
        if name not in c.task.tasks:
            return f"{name} is no task.{did_you_mean(name, c.task.tasks)} There are: {listed(c.task.tasks)}"
        if weight <= 0:
            return f"{name}: {show(weight)} is not above 0. To leave a task out, leave it out of task.tasks"
    return None
