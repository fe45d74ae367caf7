"""The training objective: a weighted sum of mean losses, each of which is logged.

Each term is a sum over rows divided by the rows' weight, both over the whole logical batch; a term that covers few rows
(those with an image) is thus a mean over these.

Legend: B rows of this rank's share, R rows of the logical batch, K terms, C outputs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mmft.batch import Batch, Outputs
from mmft.config.wording import listed
from mmft.errors import UserError
from mmft.models.precision import at_least_float32
from mmft.tasks.base import PairwiseTask, Task
from mmft.tasks.constants import Constant
from mmft.tasks.pair_losses import Rows, info_nce_sum
from mmft.training.distillation import Distillation

Alignment = Literal["none", "kl", "contrastive"]


class Objective:
    """The task's loss terms and the auxiliary ones of training.

    Args:
        task: its `loss_terms` come first.
        modality_weight: weight of the task's terms on the image alone and on the text alone; 0 disables them.
        alignment: loss that aligns the features of a row's image and text.
        alignment_weight: its weight.
        distillation: of the encoders' features, if any.

    Raises:
        UserError: a subtask has the name of another term.

    Attributes:
        terms: weight by name, in the order of the K terms.
        pairwise: whether a term covers all pairs of rows of the logical batch.
    """

    def __init__(
        self,
        task: Task,
        modality_weight: float = 0.0,
        alignment: Alignment = "none",
        alignment_weight: float = 0.0,
        distillation: Distillation | None = None,
    ) -> None:
        self.task, self.alignment, self.distillation = task, alignment, distillation
        self._by_modality = modality_weight > 0
        self.terms = {name or "task": weight for name, weight in task.loss_terms.items()}
        if self._by_modality:
            for modality in ("image", "text"):
                named = {f"{modality}/{name}" if name else modality: w for name, w in task.loss_terms.items()}
                self.terms |= {name: modality_weight * weight for name, weight in named.items()}
        if alignment != "none":
            self.terms["alignment"] = alignment_weight
        distilled = {} if distillation is None else distillation.terms
        self.terms |= distilled
        count = len(task.loss_terms) * (3 if self._by_modality else 1) + (alignment != "none") + len(distilled)
        if len(self.terms) < count:
            raise UserError(
                "model.auxiliary: a task of task.tasks has the name of an auxiliary loss. The losses are: "
                f"{listed(self.terms)}. Rename its column"
            )
        self._weights = Constant(torch.tensor(list(self.terms.values()), dtype=torch.float64))
        self._is_plain = list(self.terms.values()) == [1.0]
        self.pairwise = task.facts.pairwise or alignment == "contrastive"

    def weigh(self, means: Tensor) -> Tensor:
        """(K,) mean terms -> () their weighted sum."""
        if self._is_plain:
            return means[0]
        return (means * self._weights.like(means)).sum()

    def normalisers(self, batch: Batch) -> Tensor:
        """(K,) float64, the weight of the rows of `batch` in each term."""
        found = [self.task.normalisers(batch)]
        if self._by_modality:
            found += [self.task.normalisers(alone) for alone in _by_modality(batch)]
        if self.alignment != "none":
            found.append(_weight_of_pairs(batch).double().sum()[None])
        if self.distillation is not None:
            found.append(self.distillation.normalisers(batch))
        return torch.cat(found)

    def sums(self, outputs: Outputs, batch: Batch) -> Tensor:
        """(K,) sums over the rows (B), for terms that are computed row by row."""
        return self.pairwise_sums(outputs, batch, slice(None), batch)

    def pairwise_sums(self, outputs: Outputs, rows: Batch, own: slice, batch: Batch) -> Tensor:
        """(K,) sums over this rank's rows; pairwise terms compare each with all rows.

        Args:
            outputs: of all R rows of the logical batch.
            rows: what ranks share of these rows: targets, weights, which modalities they have.
            own: slice of the B rows of this rank.
            batch: these B rows.
        """
        if isinstance(self.task, PairwiseTask):
            found = [self.task.pairwise_loss_sum(outputs, rows, own)[None]]
        else:
            own_logits = outputs.logits if rows is batch else outputs.logits[own]
            found = [self.task.loss_sums(_with_logits(outputs, own_logits), batch)]
        auxiliary = outputs.auxiliary
        if self._by_modality:
            assert auxiliary is not None
            for logits, alone in zip((auxiliary.image, auxiliary.text), _by_modality(batch), strict=True):
                assert logits is not None
                found.append(self.task.loss_sums(_with_logits(outputs, logits[own]), alone))
        if self.alignment != "none":
            assert auxiliary is not None
            assert auxiliary.shared is not None
            found.append(self._alignment_sum(at_least_float32(auxiliary.shared), rows, own)[None])
        if self.distillation is not None:
            here = outputs._replace(image=outputs.image[own], text=outputs.text[own])
            found.append(self.distillation.sums(here, batch))
        return found[0] if len(found) == 1 else torch.cat([sums.to(found[0]) for sums in found])

    def _alignment_sum(self, shared: Tensor, rows: Batch, own: slice) -> Tensor:
        """() alignment loss of the projections (R, 2 P), over rows with both modalities."""
        weight = _weight_of_pairs(rows)
        with torch.autocast(shared.device.type, enabled=False):
            image, text = shared.chunk(2, dim=-1)
            if self.alignment == "kl":
                return (symmetric_kl(image[own], text[own]) * weight[own].to(shared)).sum()
            assert rows.identity is not None
            return info_nce_sum(image, text, Rows(rows.identity, weight), own)


def step_losses(objective: Objective, losses: Tensor, weights: Tensor) -> dict[str, float]:
    """What the loggers get of a step's losses: each term's if there are several, then their weighted sum.

    Args:
        objective: of training.
        losses: (K,) means over the rows of all ranks.
        weights: (K,) of the rows in each term; a term without any is nan.
    """
    known, told = weights > 0, {}
    if len(losses) > 1:
        means = torch.where(known, losses, torch.nan).tolist()
        told = {f"train/loss/{name}": mean for name, mean in zip(objective.terms, means, strict=True)}
    # As val/loss: 0 would look perfect.
    return told | {"train/loss": float(objective.weigh(losses)) if known.any() else math.nan}


def symmetric_kl(one: Tensor, other: Tensor) -> Tensor:
    """Features (B, P) as logits of two distributions -> (B,) half the sum of both Kullback-Leibler divergences."""
    one, other = one.log_softmax(-1), other.log_softmax(-1)
    both = functional.kl_div(one, other, reduction="none", log_target=True)
    both = both + functional.kl_div(other, one, reduction="none", log_target=True)
    return both.sum(-1) / 2


def _by_modality(batch: Batch) -> tuple[Batch, Batch]:
    """The rows with the weights of the image-only and of the text-only terms; texts are never mixed."""
    return (
        replace(batch, weight=batch.weight * batch.image_present),
        replace(batch, weight=batch.weight * batch.text_present, mixed_target=None, mixed_share=None),
    )


def _weight_of_pairs(batch: Batch) -> Tensor:
    """(B,) row weights, 0 for a row that lacks a modality."""
    return batch.weight * (batch.image_present & batch.text_present)


def _with_logits(outputs: Outputs, logits: Tensor) -> Outputs:
    return Outputs(logits, outputs.image, outputs.text)
