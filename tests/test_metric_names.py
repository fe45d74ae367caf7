"""Which metrics are better when lower: all that tasks have is known, and nothing else."""

from __future__ import annotations

import torch

from mmft.metric_names import _LOWER, lower_is_better
from mmft.tasks.classification import Classification
from mmft.tasks.regression import Regression


def test_every_metric_of_every_task_has_a_direction() -> None:
    tasks = Classification(), Regression()
    tasks[0].fit(["a", "b"])
    tasks[1].fit([1, 2])
    names = {str(name) for task in tasks for name in task.metrics()} | {"loss"}
    higher = {name for name in names if not lower_is_better(name)}
    assert names - higher == _LOWER
    for task in tasks:  # a perfect prediction is at least as good as a constant one, in the direction that is said
        target = torch.tensor([task.encode(label) for label in (["a", "b"] if task is tasks[0] else [1, 2])])
        perfect = torch.eye(2) * 9 if task is tasks[0] else target
        values = []
        for found in (perfect, perfect[:1].expand_as(perfect)):
            metrics = task.metrics()
            metrics.update(found.softmax(-1) if task is tasks[0] else found, target)
            values.append(task.scalars(metrics))
        for name in values[0]:
            better, worse = values[0][name], values[1][name]
            assert not (better > worse if lower_is_better(name) else better < worse), name


def test_with_and_without_the_split() -> None:
    assert lower_is_better("val/rmse")
    assert lower_is_better("loss")
    assert not lower_is_better("test/accuracy")
