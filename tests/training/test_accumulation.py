"""Micro-batches give the gradient of the undivided batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_splits
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tasks.base import Task
from mmft.training.accumulation import accumulate, seed_dropout


@pytest.fixture
def step(shapes_overrides: list[str]) -> tuple[VisionLanguageModel, Task, Batch]:
    """A model without dropout and one logical batch of 32 rows, weighted and partly without images."""
    weights = ["task.class_weights=balanced", "task.label_smoothing=0.1", "model.dropout=0", "data.batch_size=32"]
    config = compose("train", [*shapes_overrides, *weights]).config
    splits = load_splits(config.data, 0)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, task.width, seed=0)
    build.build_plan(config, model)
    batch = next(iter(build.build_data(config, splits, model, task).train_dataloader()))
    batch.weight = torch.linspace(0.1, 2.0, len(batch))
    batch.image_present[::5] = False
    batch.text_present[1::7] = False
    return model, task, batch


def gradients(model: VisionLanguageModel, task: Task, batch: Batch, size: int | None) -> dict[str, Tensor]:
    model.zero_grad()
    accumulate(
        batch,
        size,
        task.normalisers(batch),
        lambda rows: task.loss_sums(model(rows), rows),
        Tensor.sum,
        lambda loss: loss.backward(),
        lambda _: None,
    )
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def total_norm(grads: dict[str, Tensor]) -> float:
    return float(torch.stack([g.double().norm() for g in grads.values()]).norm())


def errors(grads: dict[str, Tensor], reference: dict[str, Tensor]) -> Iterator[tuple[str, float, float]]:
    """Name, error, and what the issue allows it to be relative to, of every tensor."""
    total = total_norm(reference)
    for name, exact in reference.items():
        yield (
            name,
            float((grads[name].double() - exact.double()).norm()),
            max(float(exact.double().norm()), 1e-6 * total),
        )


@pytest.mark.parametrize("size", [7, 1])
def test_in_float64_every_gradient_is_that_of_the_whole_batch(step: Any, size: int) -> None:
    model, task, batch = step
    model.double()
    reference = gradients(model, task, batch, None)
    assert len(reference) > 60
    for name, error, scale in errors(gradients(model, task, batch, size), reference):
        assert error <= 1e-10 * scale, name


@pytest.mark.parametrize("size", [7, 1])
def test_in_float32_the_error_is_at_most_twice_that_of_the_plain_full_batch(step: Any, size: int) -> None:
    model, task, batch = step
    exact = gradients(copy.deepcopy(model).double(), task, batch, None)
    total = total_norm(exact)

    def error(grads: dict[str, Tensor]) -> float:
        return total_norm({name: grads[name].double() - exact[name] for name in exact}) / total

    plain = error(gradients(model, task, batch, None))
    assert error(gradients(model, task, batch, size)) <= 2 * plain


def test_a_batch_without_rows_gives_no_gradient_and_no_loss(step: Any) -> None:
    model, task, batch = step
    empty = next(iter(batch.split(1))).map_tensors(lambda t: t[:0])
    weight = task.normalisers(empty)
    losses = accumulate(empty, None, weight, lambda _: torch.ones(1), Tensor.sum, lambda _: None, lambda _: None)
    assert losses.tolist() == [0]
    assert not gradients(model, task, empty, None)


def test_dropout_depends_on_seed_step_rank_and_micro_batch_alone() -> None:
    def draw(*key: int) -> float:
        seed_dropout(*key)
        return float(torch.rand(()))

    assert draw(1, 2, 3, 4) == draw(1, 2, 3, 4)
    assert len({draw(*key) for key in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))}) == 5
