"""Multi-task training on one model: each task has its own label column, head and loss.

Legend: B batch, R rows, K tasks, C outputs, W numbers of a row's target.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from mmft.batch import Batch, Outputs
from mmft.config.schema.task import SeveralConfig
from mmft.errors import UserError
from mmft.tasks.base import Task
from mmft.tasks.labels import WarnOnce, in_files
from mmft.tasks.metrics.parts import PartMetrics
from mmft.tasks.part_columns import part_column
from mmft.tasks.side_by_side import Heads, SideBySide
from mmft.tasks.subject import Subject

log = logging.getLogger(__name__)


class Several(Task):
    """A weighted sum of the tasks' losses, each a mean over the rows with that task's label.

    A row without the labels of some tasks is used for the others; a row without any label is bad. Metric names are
    prefixed with the task's name. The best checkpoint is chosen by the weighted sum of losses, unless
    `checkpoint.monitor` names a metric such as `price/rmse`.

    Args:
        tasks: by name, which is also the task's label column.
        loss_weights: by name; default 1.

    Attributes:
        places: the slice of each task in targets and outputs, once it is fitted.
    """

    facts = SeveralConfig
    monitor = "loss"
    constant = "always the same"

    def __init__(self, tasks: Mapping[str, Task], loss_weights: Mapping[str, float] | None = None) -> None:
        self._parts = dict(tasks)
        self.minimised = {name for task in tasks.values() for name in task.minimised}
        self.loss_terms = {name: (loss_weights or {}).get(name, 1.0) for name in tasks}
        self.places = SideBySide({})
        self._missing = WarnOnce("no evaluation row has a label for %s: its metrics are nan and loss leaves it out")
        self._untuned = WarnOnce("no validation row has a label for %s: it is not tuned")

    @property
    def parts(self) -> Mapping[str, Task]:
        """The tasks by name."""
        return self._parts

    def part_targets(self, name: str, target: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (R, W) -> (R,) bool, True = the row has a label for the task, and the task's targets of these."""
        there = self.places.labelled(name, target)
        return there, self.places.targets(name, target[there])

    def _place(self) -> None:
        """Lays out targets and outputs, once the tasks know their widths."""
        self.places = SideBySide(self.parts)
        self.width = self.places.outputs

    def make_head(self, width: int) -> nn.Module:
        """(B, width) -> (B, C): the tasks' heads, outputs concatenated."""
        return Heads([task.make_head(width) for task in self.parts.values()])

    def head_prompts(self) -> list[str]:
        """Those of all tasks."""
        return [text for task in self.parts.values() for text in task.head_prompts()]

    def start_head(self, head: nn.Module, fused: Tensor, scale: float) -> None:
        """Starts the heads of the tasks that have prompts."""
        assert isinstance(head, Heads)
        first = 0
        for own, task in zip(head.heads, self.parts.values(), strict=True):
            if count := len(task.head_prompts()):
                task.start_head(own, fused[first : first + count], scale)
                first += count

    def fit(self, labels: Sequence[Any]) -> None:
        """Fits each task on its own column."""
        wrong = []
        for name, task in self.parts.items():
            try:
                task.fit([label[name] for label in labels])
            except UserError as error:
                wrong += [f"task.tasks.{name}: {message}" for message in error.messages]
        if wrong:
            raise UserError(wrong)
        tables = [in_files(name) for name in self.parts]  # prefixes of the tables' file names
        for kind, names in (("column of predictions", self.answer_columns), ("table", tables)):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise UserError(f"task.tasks: two tasks have a {kind} {twice[0]!r}. Rename one of the label columns")
        self._place()

    def encode(self, label: Any) -> Tensor:
        """(W,) float64: for each task whether there is a label, and its target."""
        return self._joined({name: self._encoded(name, task.encode, label[name]) for name, task in self.parts.items()})

    def encode_evaluated(self, label: Any, unseen: list[str]) -> Tensor:
        """(W,) float64, each task's `encode_evaluated`."""
        ways = {name: partial(task.encode_evaluated, unseen=unseen) for name, task in self.parts.items()}
        return self._joined({name: self._encoded(name, encode, label[name]) for name, encode in ways.items()})

    def _joined(self, targets: Mapping[str, Any]) -> Tensor:
        if all(target is None for target in targets.values()):
            raise ValueError("no label for any of the tasks")
        return self.places.join(targets)

    @staticmethod
    def _encoded(name: str, encode: Callable[[Any], Any], label: Any) -> Any:
        """The target, or None without a label. Raises ValueError if the label is unusable."""
        try:
            return encode(label)
        except ValueError as error:
            if label is None:
                return None
            raise ValueError(f"{name}: {error}") from None

    def empty_target(self) -> Tensor:
        """(W,) float64."""
        return self.places.empty()

    def rows_of(self, name: str, batch: Batch) -> Batch:
        """The batch as seen by one task: its own targets, and weight 0 for rows without its label."""
        assert batch.target is not None
        weight = batch.weight * self.places.labelled(name, batch.target)
        return replace(batch, target=self.places.targets(name, batch.target), weight=weight)

    def outputs_of(self, name: str, outputs: Outputs) -> Outputs:
        """One task's slice of the head's outputs."""
        return Outputs(self.places.logits(name, outputs.logits), outputs.image, outputs.text)

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Not defined, because each task has its own normaliser; see `loss_sums`."""
        raise NotImplementedError("each of several tasks has its own loss")

    def loss_sums(self, outputs: Outputs, batch: Batch) -> Tensor:
        """(K,) `loss_sum` of each task."""
        of_parts = [t.loss_sum(self.outputs_of(n, outputs), self.rows_of(n, batch)) for n, t in self.parts.items()]
        return torch.stack(of_parts)

    def normalisers(self, batch: Batch) -> Tensor:
        """(K,) float64 `normaliser` of each task."""
        return torch.stack([task.normaliser(self.rows_of(name, batch)) for name, task in self.parts.items()])

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:
        """(C,) the tasks' constant outputs, concatenated."""
        found = []
        for name, task in self.parts.items():
            there, own = self.part_targets(name, target)
            found.append(task.constant_outputs(own, weight[there]))
        return torch.cat(found)

    def metrics(self) -> MetricCollection:
        """The metrics of every task."""
        return PartMetrics({name: task.metrics() for name, task in self.parts.items()})

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds the rows with a task's label to that task's metrics."""
        assert isinstance(metrics, PartMetrics)
        assert batch.target is not None
        for name, task in self.parts.items():
            there = self.places.labelled(name, batch.target).nonzero()[:, 0]  # (labelled rows,)
            metrics.seen[name].append(len(there) > 0)
            if len(there):
                own = self.outputs_of(name, outputs)
                rows = self.rows_of(name, batch).map_tensors(lambda t, there=there: t[there])
                task.update(metrics.of(name), Outputs(own.logits[there], own.image[there], own.text[there]), rows)

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """`task/metric`; nan if no row has a label for the task."""
        assert isinstance(metrics, PartMetrics)
        found: dict[str, float] = {}
        for name, task in self.parts.items():
            known = metrics.has_rows(name)
            own = task.scalars(metrics.of(name)) if known else dict.fromkeys(task.metric_names(), math.nan)
            found |= {f"{name}/{metric}": value for metric, value in own.items()}
        self._missing.tell(name for name in self.parts if not metrics.has_rows(name))
        return found

    def metric_names(self) -> list[str]:
        """The keys of `scalars`, `task/metric`."""
        return [f"{name}/{metric}" for name, task in self.parts.items() for metric in task.metric_names()]

    @property
    def headlines(self) -> list[str]:
        """The headlines of each task."""
        return [f"{name}/{metric}" for name, task in self.parts.items() for metric in task.headlines]

    def tables(self, metrics: MetricCollection) -> dict[str, list[list[Any]]]:
        """The tables of each task, as `task_table`."""
        assert isinstance(metrics, PartMetrics)
        found: dict[str, list[list[Any]]] = {}
        for name, task in self.parts.items():
            known = task.tables(metrics.of(name)) if metrics.has_rows(name) else {}
            found |= {f"{in_files(name)}_{table}": rows for table, rows in known.items()}
        return found

    @property
    def answer_columns(self) -> list[str]:
        """`prediction`, an empty `score`, and each task's columns with its name after the first word."""
        own = [part_column(column, name) for name, task in self.parts.items() for column in task.answer_columns]
        return ["prediction", "score", *own]

    @property
    def answer_texts(self) -> list[str]:
        """`prediction`, and the text columns of each task."""
        return [
            "prediction",
            *(part_column(column, name) for name, task in self.parts.items() for column in task.answer_texts),
        ]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The tasks' predictions as one JSON object, and each task's columns."""
        by_part = {name: task.answers(self.outputs_of(name, outputs)) for name, task in self.parts.items()}
        answers = []
        for row in zip(*by_part.values(), strict=True):
            one = dict(zip(by_part, row, strict=True))
            together = json.dumps({name: answer["prediction"] for name, answer in one.items()}, ensure_ascii=False)
            own = {part_column(column, name): value for name, answer in one.items() for column, value in answer.items()}
            answers.append({"prediction": together, "score": None, **own})
        return answers

    @property
    def output_names(self) -> list[str]:
        """The output names of all tasks in order; a task's own name for an unnamed output."""
        return [output or name for name, task in self.parts.items() for output in task.output_names]

    def subjects(self, outputs: Outputs, name: str | None) -> list[Subject]:
        """The subjects of each task; with `name`, only of tasks with that output or of the task of that name."""
        return [
            Subject(subject.name or part, partial(self._of_part, part, subject.value), part)
            for part, task in self.parts.items()
            for subject in task.subjects(self.outputs_of(part, outputs), None if name == part else name)
        ]

    def _of_part(self, part: str, value: Callable[[Outputs], Tensor], outputs: Outputs) -> Tensor:
        return value(self.outputs_of(part, outputs))

    @property
    def tunes(self) -> bool:
        """Whether any task does."""
        return any(task.tunes for task in self.parts.values())

    def tune(self, logits: Tensor, target: Tensor, weight: Tensor) -> dict[str, Any]:
        """Tunes each task that asks for it on the rows with its label."""
        found = {}
        for name, task in self.parts.items():
            there = self.places.labelled(name, target)
            if task.tunes and there.any():
                own = self.places.targets(name, target[there])
                log.info("tuned for %s:", name)  # the task logs the result but does not know its name
                found[name] = task.tune(self.places.logits(name, logits[there]), own, weight[there])
        self._untuned.tell(name for name, task in self.parts.items() if task.tunes and name not in found)
        return found

    def untuned(self) -> Self:
        """A copy with every task untuned."""
        other = copy.copy(self)
        other._parts = {name: task.untuned() for name, task in self.parts.items()}
        return other

    def state(self) -> dict[str, Any]:
        """The state of each task."""
        return {"parts": {name: task.state() for name, task in self.parts.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the state of each task."""
        for name, task in self.parts.items():
            task.load_state(state["parts"][name])
        self._place()

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether tasks, their order and their outputs are the same."""
        own = state.get("parts", {})
        return list(own) == list(self.parts) and all(t.same_outputs(own[n]) for n, t in self.parts.items())
