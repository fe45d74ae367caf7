"""Image-text matching: does this text belong to this image?

Legend: B batch, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryAveragePrecision

from mmft.batch import Batch, Outputs, Pair
from mmft.config.schema.task import MatchingConfig
from mmft.errors import UserError
from mmft.models.precision import at_least_float32
from mmft.tasks.base import Task
from mmft.tasks.identities import MATCH, identities
from mmft.tasks.labels import in_order, label_name, shown

_NAMES = ("no match", "match")
_MEANT = dict.fromkeys(("1", "1.0", "true", "yes", "y", _NAMES[1]), 1) | dict.fromkeys(
    ("0", "0.0", "false", "no", "n", _NAMES[0]), 0
)


class Matching(Task):
    """Whether an image and a text belong together, by binary cross-entropy on what the fusion makes of both.

    The matching loss of ALBEF (Li et al. 2021, arXiv 2107.07651) and BLIP (Li et al. 2022, arXiv 2201.12086). Each
    row is a pair that belongs together, and gives one that does not: its image with the text of one of `candidates`
    other rows of the logical batch, drawn by the odds that the model gives them (`mmft.training.hard_negatives`).
    Both count with the row's sample weight. Unlike there, negatives are mined one way, texts for an image: a text is
    encoded for a fraction of what an image costs, and which ones are tried does not depend on a second model.

    With labels (0/1, true/false, yes/no) a row of label 0 is a pair that does not belong together, and gives no other.

    Evaluation rows without labels count twice, with their own text and with one of another row, which is the same
    for ever (`mmft.data.mismatches`); rows with labels as they are. Sample weights do not count in metrics.

    Args:
        candidates: other rows' texts that are drawn from; 1: it is any, 0: there are only the labels' negatives.
    """

    facts = MatchingConfig
    monitor = "auroc"  # accuracy at 0.5 suffers where negatives are not as hard as those of training; ranks do not
    constant = "constant"
    width = 1

    def __init__(self, candidates: int = 7) -> None:
        self.candidates = candidates
        self.labelled = False

    def fit(self, labels: Sequence[Any]) -> None:
        """Looks whether there are labels, and pairs that belong together among them."""
        known = [label for label in labels if label is not None]
        self.labelled = bool(known)
        if not known and not self.candidates:
            raise UserError("task.candidates=0: no training row has a label that says which do not match.")
        if known and not any(_MEANT.get(_word(label)) == 1 for label in known):
            raise UserError(
                "data.columns.label: no training row says 1, true or yes: that its text and image match. They say "
                f"{shown(in_order({label_name(label) for label in known}))}. Without labels "
                "(data.columns.label=null) every row is a pair that matches"
            )

    def encode(self, label: Any) -> list[int]:
        """(4,) what the row's image, text and group are known by, and whether they match."""
        pair: Pair = label
        known = identities(pair)
        if pair.label is None:
            if self.labelled:
                raise ValueError("no label")
            return [*known, -1]
        if (meant := _MEANT.get(_word(pair.label))) is None:
            raise ValueError(f"label {pair.label!r:.40} is neither 1, true, yes nor 0, false, no")
        return [*known, meant]

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Outputs (B, 1) and targets (B, 4) -> () sum over rows of weight times binary cross-entropy."""
        logits = at_least_float32(outputs.logits)[:, 0]
        losses = functional.binary_cross_entropy_with_logits(logits, _belongs(batch).to(logits), reduction="none")
        return (losses * batch.weight.to(logits)).sum()

    def normaliser(self, batch: Batch) -> Tensor:
        """() float64 the sum of the rows' weights, and of those that have a candidate once more."""
        weight = batch.weight.double()
        return weight.sum() if batch.candidates is None else (weight * (1 + batch.candidates.present.any(1))).sum()

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:
        """Targets (R, 4) and weights (R,) -> (1,) the logit of the share that belongs together."""
        belongs = (target[:, MATCH] != 0).to(weight)
        return (belongs @ weight / weight.sum()).logit(eps=1e-6)[None]

    @property
    def closing_report(self) -> Literal["modalities", "embeddings", "none"]:
        """None without labels: each text is there once where it matches and once where not, and tells nothing alone."""
        return "modalities" if self.labelled else "none"

    def metrics(self) -> MetricCollection:
        """Accuracy at 0.5, area under the ROC curve, average precision."""
        collection: dict[str, Any] = {
            "accuracy": BinaryAccuracy(),
            "auroc": BinaryAUROC(),
            "average_precision": BinaryAveragePrecision(),
        }
        return MetricCollection(collection)

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds probabilities (B,), in float64, so that sure ones are not all 1, and whether they belong together."""
        metrics.update(_probabilities(outputs), _belongs(batch).long())

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """One number each; what ranks is nan where all rows belong together, or none does."""
        target = torch.cat(cast("list[Tensor]", metrics["auroc"].target))
        if bool((target == target[0]).all()):
            return {"accuracy": float(metrics["accuracy"].compute()), "auroc": math.nan, "average_precision": math.nan}
        return {name: float(value) for name, value in metrics.compute().items()}

    def label_names(self, label: Any) -> list[str]:
        """What `prediction` says for it."""
        if label is None:
            return []
        meant = _MEANT.get(_word(label))
        return [label_name(label) if meant is None else _NAMES[meant]]

    @property
    def answer_columns(self) -> list[str]:
        """`prediction` and `score`."""
        return ["prediction", "score"]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """`match` above one half, else `no match`; the score is the probability of a match."""
        return [{"prediction": _NAMES[score > 0.5], "score": score} for score in _probabilities(outputs).tolist()]

    @property
    def output_names(self) -> list[str]:
        """A match."""
        return [_NAMES[1]]

    def state(self) -> dict[str, Any]:
        """Whether training rows had labels."""
        return {"labelled": self.labelled}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes it."""
        self.labelled = state["labelled"]

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether it is of this task."""
        return "labelled" in state


def _word(label: Any) -> str:
    return label_name(label).strip().lower()


def _belongs(batch: Batch) -> Tensor:
    """(B,) bool."""
    assert batch.target is not None
    return batch.target[:, MATCH] != 0


def _probabilities(outputs: Outputs) -> Tensor:
    """(B,) float64 that each text belongs to its image."""
    return outputs.logits[:, 0].double().sigmoid()
