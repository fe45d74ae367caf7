"""Micro-batches of so many tokens: how they are cut, and that they change nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from generative_rows import made, plain_loss, rows_of_all_lengths

from mmft import build
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.training.token_budget import by_length, rows_within

Folder = Callable[..., Path]


@pytest.mark.parametrize("packed", [False, True])
def test_no_micro_batch_has_too_many_tokens_unless_it_is_one_row(packed: bool) -> None:
    for seed in range(200):
        draw = random.Random(seed)
        lengths = [draw.randint(1, 50) for _ in range(draw.randint(0, 30))]
        budget = draw.randint(1, 120)
        sizes = rows_within(budget, lengths, packed)
        assert sum(sizes) == len(lengths)
        parts = [lengths[sum(sizes[:at]) :][:size] for at, size in enumerate(sizes)]
        costs = [sum(part) if packed else max(part) * len(part) for part in parts]
        assert all(cost <= budget or len(part) == 1 for cost, part in zip(costs, parts, strict=True))
        for at, part in enumerate(parts[:-1]):  # not cut too early
            more = [*part, parts[at + 1][0]]
            assert (sum(more) if packed else max(more) * len(more)) > budget


def test_rows_of_one_length_stay_in_order() -> None:
    assert by_length([3, 5, 3, 5, 1]) == [1, 3, 0, 2, 4]


def module_of(folder: Path, shapes: Any, *overrides: str) -> tuple[Any, Any]:
    """The module of a run, in float64, and rows for it."""
    model, task, config = made(folder, shapes, "optim.clip_norm=null", *overrides)
    module: Any = build.build_module(config, model, task, build.build_plan(config, model))
    module.model.double().train()
    module.micro_batch_size, module.micro_batch_tokens = config.data.micro_batch_size, config.data.micro_batch_tokens
    return module, rows_of_all_lengths(model, task)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("tokens", [1, 60, 100, 10_000])
def test_the_gradient_does_not_depend_on_the_budget(
    tokens: int, packing: bool, shapes: Any, language_model_folder: Folder
) -> None:
    typed = [f"data.micro_batch_tokens={tokens}", f"task.packing={packing}"]
    module, batch = module_of(language_model_folder("llama"), shapes, *typed)
    wanted_loss = plain_loss(module.model, batch)
    wanted_loss.backward()
    wanted = {name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None}
    read: list[int] = []
    layer = module.model.text_encoder.backbone.model.layers[0]
    layer.register_forward_pre_hook(lambda _, given: read.append(given[0].shape[0] * given[0].shape[1]))
    kept: Any = SimpleNamespace(zero_grad=module.model.zero_grad, step=lambda: None)
    losses, *_ = module.update(batch, kept, 0, lambda value: value.backward())
    assert float(losses) == pytest.approx(float(wanted_loss.detach()), abs=1e-10)
    found = {name: p.grad for name, p in module.model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    assert max(float((found[name] - wanted[name]).abs().max()) for name in found) < 1e-10
    lengths = module.model.sequence_lengths(batch)
    assert len(read) == {1: 15, 60: len(read), 100: len(read), 10_000: 1}[tokens]
    padded = 0 if packing else 8 * int(lengths.max())  # lengths are padded to a multiple of 8
    assert max(read) <= max(tokens, int(lengths.max())) + padded


def test_lengths_are_those_of_the_sequences(shapes: Any, language_model_folder: Folder) -> None:
    model, task, _ = made(language_model_folder("qwen3", chat=True), shapes)
    batch = rows_of_all_lengths(model, task)
    whole = model._joined(batch, model.project_image(batch), batch.target)
    assert torch.equal(model.sequence_lengths(batch), whole.mask.sum(1))


def test_rules(shapes: Any) -> None:
    with pytest.raises(UserError) as error:
        compose("train", [*shapes.overrides, "data.micro_batch_tokens=100"])
    assert any("images and texts are no one sequence" in told for told in error.value.messages)
    typed = ["task=generation", "model/fusion=projector", "data.micro_batch_tokens=9", "data.micro_batch_size=2"]
    with pytest.raises(UserError) as error:
        compose("train", [*shapes.overrides, *typed])
    assert any("rows or tokens at once" in told for told in error.value.messages)
