"""The step that gives each row a negative: against a plain loop, and however the batch is split."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_fusions import small
from torch import Tensor
from torch.nn import functional

from mmft import build
from mmft.batch import Batch, Candidates
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_splits
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tasks.base import Task
from mmft.tasks.identities import MATCH
from mmft.training.accumulation import accumulate
from mmft.training.hard_negatives import with_negatives

ROWS = 23
Step = tuple[VisionLanguageModel, Task, Batch]


def made(overrides: list[str], *more: str) -> Step:
    """A model in float64 without dropout, and a weighted logical batch, in which two rows have fewer candidates."""
    kept = [o for o in overrides if not o.startswith("data.columns.label")]
    typed = ["task=matching", "task.candidates=4", "model.dropout=0", f"data.batch_size={ROWS}", *more]
    config = compose("train", [*kept, *typed]).config
    splits = load_splits(config.data, 0)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, task.make_head, seed=0).double()
    build.build_plan(config, model)
    for parameter in model.parameters():
        if not parameter.any():  # a head of zeros would score all alike
            torch.nn.init.normal_(parameter, std=0.1)
    batch = next(iter(build.build_data(config, splits, model, task).train_dataloader()))
    batch.weight = torch.linspace(0.1, 2.0, len(batch))
    batch.candidates.row[3, 2:] = batch.candidates.row[9] = -1
    batch.candidates.attention_mask[3, 2:] = batch.candidates.attention_mask[9] = False
    return model.train(), task, batch


@pytest.fixture(params=["concat", "cross"])
def step(request: pytest.FixtureRequest, shapes_overrides: list[str]) -> Step:
    return made(shapes_overrides, f"model/fusion={request.param}", *small(request.param))


def row_of(batch: Batch, at: int, candidate: int | None) -> Batch:
    """One row by itself, with its own text or a candidate's."""
    alone: Batch = batch.map_tensors(lambda t: t[at : at + 1])
    others = alone.candidates
    assert others is not None
    if candidate is not None:
        alone.input_ids, alone.attention_mask = others.input_ids[:, candidate], others.attention_mask[:, candidate]
    alone.candidates = None
    return alone


def by_hand(model: VisionLanguageModel, batch: Batch) -> tuple[Tensor, list[int | None]]:
    """() the loss, row by row, and which candidate each row's negative is."""
    assert batch.candidates is not None
    total, chosen = torch.zeros((), dtype=torch.float64), []
    for at, weight in enumerate(batch.weight.tolist()):
        own = model(row_of(batch, at, None)).logits[0, 0]
        total = total + weight * functional.softplus(-own)
        there = [k for k, row in enumerate(batch.candidates.row[at].tolist()) if row >= 0]
        logits = [model(row_of(batch, at, k)).logits[0, 0] for k in there]
        luck = [-math.log(-math.log(chance)) for chance in batch.candidates.chance[at].tolist()]
        sums = [logit.item() + luck[k] for k, logit in zip(there, logits, strict=True)]
        best = sums.index(max(sums)) if sums else None
        chosen.append(None if best is None else there[best])
        if best is not None:
            total = total + weight * functional.softplus(logits[best])
    weights = batch.weight.double()
    return total / (weights.sum() + weights[torch.arange(len(batch)) != 9].sum()), chosen


def gradients(step: Step, size: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    """() the loss of the step, and the gradient by name."""
    model, task, batch = step
    model.zero_grad()
    losses = accumulate(
        batch,
        size,
        task.normalisers(batch),
        lambda rows: task.loss_sums(*with_negatives(model, rows)),
        Tensor.sum,
        Tensor.backward,
        lambda _: None,
    )
    return losses.sum(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradient_are_those_of_a_plain_loop(step: Step) -> None:
    model, _, batch = step
    expected, chosen = by_hand(model, batch)
    assert len({one for one in chosen if one is not None}) > 1
    assert chosen[9] is None
    model.zero_grad()
    expected.backward()
    exact = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    loss, found = gradients(step, None)
    assert float(loss) == pytest.approx(expected.item(), rel=1e-12)
    assert found.keys() == exact.keys()
    for name, gradient in exact.items():
        assert float((found[name] - gradient).abs().max()) <= 1e-10, name


@pytest.mark.parametrize("size", [7, 1])
def test_micro_batches_change_nothing(step: Step, size: int) -> None:
    reference_loss, reference = gradients(step, None)
    loss, found = gradients(step, size)
    assert float(loss) == pytest.approx(float(reference_loss), rel=1e-12)
    scale = float(torch.stack([g.norm() for g in reference.values()]).norm())
    for name, exact in reference.items():
        assert float((found[name] - exact).norm()) <= 1e-10 * max(float(exact.norm()), 1e-6 * scale), name


@pytest.mark.slow
def test_negatives_are_told_as_such_and_drawn_by_their_odds(shapes_overrides: list[str]) -> None:
    model, _, batch = made(shapes_overrides)
    assert batch.candidates is not None
    assert batch.target is not None
    others = [at for at in range(ROWS) if at != 9]
    odds = torch.zeros(ROWS, 4, dtype=torch.float64)
    for at in others:
        for k in range(int(batch.candidates.present[at].sum())):
            odds[at, k] = float(model(row_of(batch, at, k)).logits.detach().exp())
    assert float(odds[others].max(1).values.div(odds[others].sum(1)).max()) > 0.3  # they are not all the same
    counted, generator = torch.zeros_like(odds), torch.Generator().manual_seed(0)
    for _ in range(300):
        chance = torch.rand(ROWS, 4, generator=generator, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        batch.candidates = batch.candidates._replace(chance=chance)
        with torch.no_grad():
            outputs, rows = with_negatives(model, batch)
        assert rows.target is not None
        assert rows.row.tolist() == [*batch.row.tolist(), *batch.row[others].tolist()]
        assert rows.target[:, MATCH].tolist() == [-1] * ROWS + [0] * (ROWS - 1)
        near = (outputs.logits[ROWS:].exp() - odds[others]).abs().masked_fill(odds[others] == 0, torch.inf)
        assert float(near.min(1).values.max()) <= 1e-8
        counted[others, near.argmin(1)] += 1
    assert batch.target[:, MATCH].tolist() == [-1] * ROWS
    expected = odds / odds.sum(1, keepdim=True)
    assert float((counted / 300 - expected)[others].abs().mean()) < 0.03
    assert float((counted / 300)[odds == 0].sum()) == 0


def test_choosing_leaves_every_mode_as_it_is_and_draws_no_dropout(shapes_overrides: list[str]) -> None:
    model, _, batch = made(shapes_overrides)
    model.head.eval()
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    seen: list[bool] = []
    handle = model.fusion.register_forward_hook(lambda module, *_: seen.append(module.training))
    with_negatives(model, batch)
    handle.remove()
    assert seen == [False] * 4 + [True]
    assert [module.training for module in model.modules()] == modes


def test_in_bfloat16_fusion_and_head_get_their_gradients(shapes_overrides: list[str]) -> None:
    model, task, batch = made(shapes_overrides)
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.loss_sum(*with_negatives(model, batch))
    loss.backward()
    for part in (model.fusion, model.head):
        assert all(p.grad is not None and bool(p.grad.any()) for p in part.parameters())


def test_rows_without_candidates_are_the_rows_themselves(step: Step) -> None:
    model, task, batch = step
    assert float(task.normaliser(batch)) == pytest.approx(float(2 * batch.weight.sum() - batch.weight[9]))
    others: Any = batch.candidates
    batch.candidates = Candidates(*(part[:, :0] for part in others))
    outputs, rows = with_negatives(model, batch)
    batch.candidates = None
    same, unchanged = with_negatives(model, batch)
    assert unchanged is batch
    assert torch.allclose(outputs.logits, same.logits, atol=1e-12)
    assert float(task.normaliser(rows)) == pytest.approx(float(batch.weight.sum()))
