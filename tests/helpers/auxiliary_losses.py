"""Losses of training beside the task's: a model with all of them, and their gradient by one graph, written out."""

from __future__ import annotations

from typing import Any

import torch
from pairwise_gradients import ROWS, cached, largest_error, shares
from torch import Tensor, distributed
from torch.nn import functional

from mmft import build
from mmft.batch import Batch, Fused
from mmft.build.training import build_objective
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_splits
from mmft.training.accumulation import seed_dropout

WEIGHT, ALIGNED = 0.3, 0.7


class AlignedCase:
    """Classification by both modalities and by each alone, and an alignment, in float64, with dropout, weighted rows.

    Some rows lack a modality; two have the same image.
    """

    def __init__(self, overrides: list[str], alignment: str, *more: str) -> None:
        auxiliary = [f"modality_weight={WEIGHT}", f"alignment={alignment}", f"alignment_weight={ALIGNED}"]
        typed = [f"model.auxiliary.{key}" for key in (*auxiliary, "alignment_width=8")]
        options = ["task.class_weights=balanced", "model.dropout=0.1", f"data.batch_size={ROWS}"]
        config = compose("train", [*overrides, *typed, *options, *more]).config
        splits = load_splits(config.data, 0)
        self.task = build.build_task(config.task)
        self.task.fit(splits["train"].table.labels(splits["train"].rows))
        self.model = build.build_model(config.model, self.task.make_head, seed=0)
        build.add_auxiliary(config, self.model, self.task)
        build.build_plan(config, self.model)
        self.model.double().train()
        self.objective = build_objective(config, self.task)
        batch: Batch = next(iter(build.build_data(config, splits, self.model, self.task).train_dataloader()))
        batch.weight = torch.linspace(0.1, 2.0, ROWS)
        batch.image_present[::5] = False
        batch.text_present[1::7] = False
        if batch.identity is not None:
            batch.identity[3, 0] = batch.identity[8, 0]
        self.batch = batch


def written_out(case: AlignedCase, micro: int | None, world: int) -> dict[str, Tensor]:
    """The gradient of one graph over the whole logical batch, with the dropout of these micro-batches."""
    model: Any = case.model
    model.zero_grad()
    parts, fused = shares(case.batch, world), []
    for rank, share in enumerate(parts):
        for index, rows in enumerate(share.split(micro)):
            seed_dropout(0, 0, rank, index)
            fused.append(model.fuse(rows))
    features, image, text = (torch.cat(column) for column in zip(*fused, strict=True))
    whole = parts[0].map_tensors(lambda t: t)
    for name in ("target", "weight", "image_present", "text_present", "identity"):
        found = [getattr(share, name) for share in parts]
        setattr(whole, name, None if found[0] is None else torch.cat(found))
    loss = _of_task(case.task, model.head(features), whole, whole.weight)
    for head, x, there in (
        (model.auxiliary.image_head, image, whole.image_present),
        (model.auxiliary.text_head, text, whole.text_present),
    ):
        loss = loss + WEIGHT * _of_task(case.task, head(x), whole, whole.weight * there)
    loss = loss + ALIGNED * _alignment(model.auxiliary, Fused(features, image, text), whole)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _of_task(task: Any, logits: Tensor, batch: Batch, weight: Tensor) -> Tensor:
    """Cross-entropy with class weights, over rows of these weights."""
    of_class = task.weights.value.double()
    losses = functional.cross_entropy(logits, batch.target, of_class, reduction="none")  # type: ignore[arg-type]
    weight = weight.double()
    return (losses * weight).sum() / (of_class[batch.target] * weight).sum()


def _alignment(auxiliary: Any, fused: Fused, batch: Batch) -> Tensor:
    both = batch.image_present & batch.text_present
    weight = batch.weight[both].double()
    image, text = auxiliary.image_projection(fused.image[both]), auxiliary.text_projection(fused.text[both])
    if auxiliary.similarity is None:
        p, q = image.softmax(-1), text.softmax(-1)
        losses = ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)) / 2
        return (losses * weight).sum() / weight.sum()
    assert batch.identity is not None
    identity = batch.identity[both]
    same = ((identity[:, None] == identity[None]) & (identity[:, None] >= 0)).any(-1)
    wanted = same.double() / same.sum(1, keepdim=True)
    logits = functional.normalize(image, dim=-1) @ functional.normalize(text, dim=-1).T
    logits = logits * auxiliary.similarity.log_scale.exp()
    ways = [functional.cross_entropy(x, wanted.to(x), reduction="none") for x in (logits, logits.T)]
    return ((ways[0] + ways[1]) / 2 * weight).sum() / weight.sum()


def aligned_errors(overrides: list[str]) -> dict[str, float]:
    """Called by every rank: by micro-batch, how far the gradient is from that of one graph."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    case = AlignedCase(overrides, "contrastive")
    return {
        str(micro): largest_error(cached(case, micro, rank, world), written_out(case, micro, world))
        for micro in (None, 7)
    }
