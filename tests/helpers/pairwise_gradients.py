"""The gradient of a loss over all pairs: by gradient caching, and by one graph over everything, written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_splits
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tasks.base import PairwiseTask
from mmft.training.accumulation import seed_dropout
from mmft.training.gradient_cache import accumulate_pairs
from mmft.training.objective import Objective
from mmft.training.parallel.collectives import sum_gradients, summed

ROWS = 29
LOSSES = ("info_nce", "sigmoid")


class PairCase:
    """A model with dropout, in float64, and rows some of which belong together, weighted, one of them with nothing."""

    def __init__(self, overrides: list[str], loss: str, *more: str) -> None:
        kept = [o for o in overrides if not o.startswith("data.columns.label")]
        typed = ["task=contrastive", f"task.loss={loss}", "model.dropout=0.1", f"data.batch_size={ROWS}", *more]
        config = compose("train", [*kept, *typed]).config
        splits = load_splits(config.data, 0)
        task = build.build_task(config.task)
        assert isinstance(task, PairwiseTask)
        self.task, self.objective = task, Objective(task)
        self.model = build.build_model(config.model, task.make_head, seed=0).double()
        build.build_plan(config, self.model)
        self.model.train()
        self.batch: Batch = next(iter(build.build_data(config, splits, self.model, task).train_dataloader()))
        assert self.batch.target is not None
        self.batch.target[3, 0] = self.batch.target[8, 0]  # the same image
        self.batch.target[20, 1] = self.batch.target[8, 1]  # the same text
        self.batch.target[[4, 5, 6], 2] = 77  # a group
        self.batch.weight = torch.linspace(0.1, 2.0, ROWS)
        self.batch.weight[7] = 0.0


def shares(batch: Batch, world: int) -> list[Batch]:
    """Each rank's part of a logical batch."""
    return [batch.map_tensors(lambda t, r=rank: t[r::world]) for rank in range(world)]


def written_out(case: PairCase, micro: int | None, world: int) -> dict[str, Tensor]:
    """The gradient of one graph over the whole logical batch, with the dropout of these micro-batches."""
    model = case.model
    model.zero_grad()
    parts, features = shares(case.batch, world), []
    for rank, share in enumerate(parts):
        for index, rows in enumerate(share.split(micro)):
            seed_dropout(0, 0, rank, index)
            features.append(model.fuse(rows).features)
    image, text = torch.cat(features).chunk(2, dim=1)
    head: Any = model.head
    logits = head.log_scale.exp() * image @ text.T + (0.0 if head.bias is None else head.bias)
    target = torch.cat([share.target for share in parts if share.target is not None])
    weight = torch.cat([share.weight for share in parts]).double()
    _loss(logits, target, weight, sigmoid=head.bias is not None).backward()
    return _gradients(model)


def _loss(logits: Tensor, target: Tensor, weight: Tensor, sigmoid: bool) -> Tensor:
    there = weight > 0
    logits, target, weight = logits[there][:, there], target[there], weight[there]
    same = ((target[:, None] == target[None]) & (target[:, None] >= 0)).any(-1)
    if sigmoid:
        losses = -functional.logsigmoid(torch.where(same, 1.0, -1.0) * logits)
        return (losses * (weight[:, None] + weight[None]) / 2).sum() / weight.sum()
    wanted = same.double() / same.sum(1, keepdim=True)
    both = [functional.cross_entropy(x, wanted.to(x), reduction="none") for x in (logits, logits.T)]
    return ((both[0] + both[1]) / 2 * weight).sum() / weight.sum()


def cached(case: Any, micro: int | None, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """The gradient as training has it: of this rank's share, added up over ranks. `case`: or one of its kind."""
    model, share = case.model, shares(case.batch, world)[rank]
    model.zero_grad()
    accumulate_pairs(
        share,
        micro,
        summed(case.objective.normalisers(share)),
        model,
        case.objective,
        case.objective.weigh,
        Tensor.backward,
        lambda index: seed_dropout(0, 0, rank, index),
    )
    sum_gradients(list(model.parameters()))
    return _gradients(model)


def _gradients(model: VisionLanguageModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def largest_error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest difference of a gradient's element."""
    assert found.keys() == exact.keys(), found.keys() ^ exact.keys()
    return max(float((found[name] - gradient).abs().max()) for name, gradient in exact.items())


def pair_errors(overrides: list[str]) -> dict[str, float]:
    """Called by every rank: by loss and micro-batch, how far the gradient is from that of one graph."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    found = {}
    for loss in LOSSES:
        case = PairCase(overrides, loss)
        for micro in (None, 7, 1):
            exact = written_out(case, micro, world)
            found[f"{loss} {micro}"] = largest_error(cached(case, micro, rank, world), exact)
        case.batch = case.batch.map_tensors(lambda t: t[:1])  # the second rank has no row
        exact = written_out(case, None, world)
        found[f"{loss} one row"] = largest_error(cached(case, None, rank, world), exact)
    return found
