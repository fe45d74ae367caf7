"""Which metrics are better when lower: all that tasks have is known, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from task_batches import batch, outputs

from mmft.tasks.classification import Classification
from mmft.tasks.contrastive import Contrastive
from mmft.tasks.matching import Matching
from mmft.tasks.metrics.names import _LOWER, lower_is_better
from mmft.tasks.metrics.texts import text_metric_names
from mmft.tasks.multi_label import MultiLabel
from mmft.tasks.question_answering import QuestionAnswering
from mmft.tasks.regression import Regression


def test_every_metric_of_every_task_has_a_direction() -> None:
    tasks = Classification(), Regression(), MultiLabel(), Classification(calibration="temperature")
    tasks += (QuestionAnswering(min_count=1),)
    labels: list[list[Any]] = [["a", "b"], [1, 2], ["a", "b"], ["a", "b"], ["a", "b"]]
    for task, given in zip(tasks, labels, strict=True):
        task.fit(given)
    names = {str(name) for task in tasks for name in task.metrics()} | {"loss"}
    names |= set(Matching().metric_names())
    names |= {name.rpartition("/")[2] for name in Contrastive().metric_names()}  # tests/tasks/metrics/test_retrieval.py
    names |= {*text_metric_names(), "perplexity"}  # tests/tasks/metrics/test_text_metrics.py
    higher = {name for name in names if not lower_is_better(name)}
    assert names - higher == _LOWER
    for task, given in zip(tasks, labels, strict=True):
        # A perfect prediction is at least as good as a constant one, in the direction that is said.
        target = torch.stack([torch.as_tensor(task.encode(label)) for label in given])
        perfect = target if isinstance(task, Regression) else torch.eye(2) * 18 - 9
        values = []
        for found in (perfect, perfect[:1].expand_as(perfect)):
            metrics = task.metrics()
            task.update(metrics, outputs(found), batch(target))
            values.append(task.scalars(metrics))
        for name in values[0]:
            better, worse = values[0][name], values[1][name]
            assert not (better > worse if lower_is_better(name) else better < worse), name


def test_with_and_without_the_split() -> None:
    assert lower_is_better("val/rmse")
    assert lower_is_better("loss")
    assert not lower_is_better("test/accuracy")
