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
    """Whether an image and a text belong together: binary cross-entropy on the fused features.

    The matching loss of ALBEF (Li et al. 2021, arXiv 2107.07651) and BLIP (Li et al. 2022, arXiv 2201.12086). Each
    row is a positive pair and also yields a hard negative: its image with the text of one of `candidates` other rows
    of the logical batch, drawn in proportion to the model's odds (`mmft.training.hard_negatives`). Both carry the
    row's sample weight. Unlike in those papers, negatives are mined in one direction, texts for an image: a text costs
    a fraction of an image to encode, and the candidates do not depend on a second model.

    With labels (0/1, true/false, yes/no), a row with label 0 is a negative pair and yields no other.

    Unlabelled evaluation rows count twice, with their own text and with a fixed text of another row
    (`mmft.data.mismatches`); labelled rows count once, as they are. Metrics ignore sample weights.

    Args:
        candidates: number of other rows' texts to draw from; 1 is a random negative, 0 uses only labelled negatives.
    """

    facts = MatchingConfig
    monitor = "auroc"  # evaluation negatives are easier than training's: that shifts accuracy at 0.5, not ranks
    constant = "constant"
    width = 1

    def __init__(self, candidates: int = 7) -> None:
        self.candidates = candidates
        self.labelled = False

    def fit(self, labels: Sequence[Any]) -> None:
        """Checks whether there are labels, and positive pairs among them."""
        known = [label for label in labels if label is not None]
        self.labelled = bool(known)
        if not known and not self.candidates:
            raise UserError("task.candidates=0 needs labelled mismatches, but no training row has a label.")
        if known and not any(_MEANT.get(_word(label)) == 1 for label in known):
            raise UserError(
                "data.columns.label: no training row has the label 1, true or yes of a match. Labels found: "
                f"{shown(in_order({label_name(label) for label in known}))}. Without labels "
                "(data.columns.label=null) every row counts as a match"
            )

    def encode(self, label: Any) -> list[int]:
        """(4,) identities of the row's image, text and group, and whether they match."""
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
        logits = at_least_float32(outputs.logits)[:, 0]  # (B,)
        losses = functional.binary_cross_entropy_with_logits(logits, _belongs(batch).to(logits), reduction="none")
        return (losses * batch.weight.to(logits)).sum()

    def normaliser(self, batch: Batch) -> Tensor:
        """() float64 the sum of the rows' weights, counting rows with a candidate twice."""
        weight = batch.weight.double()
        return weight.sum() if batch.candidates is None else (weight * (1 + batch.candidates.present.any(1))).sum()

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:
        """Targets (R, 4) and weights (R,) -> (1,) the logit of the share of positive pairs."""
        belongs = (target[:, MATCH] != 0).to(weight)
        return (belongs @ weight / weight.sum()).logit(eps=1e-6)[None]

    @property
    def closing_report(self) -> Literal["modalities", "embeddings", "none"]:
        """None without labels: each text occurs once in a match and once in a mismatch, and alone predicts nothing."""
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
        """Adds float64 probabilities (B,), so that confident ones do not all round to 1, and targets (B,)."""
        metrics.update(_probabilities(outputs), _belongs(batch).long())

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """One number each; ranking metrics are nan if all rows match or none does."""
        target = torch.cat(cast("list[Tensor]", metrics["auroc"].target))
        if bool((target == target[0]).all()):
            return {"accuracy": float(metrics["accuracy"].compute()), "auroc": math.nan, "average_precision": math.nan}
        return {name: float(value) for name, value in metrics.compute().items()}

    def label_names(self, label: Any) -> list[str]:
        """The label in the words of `prediction`."""
        if label is None:
            return []
        meant = _MEANT.get(_word(label))
        return [label_name(label) if meant is None else _NAMES[meant]]

    @property
    def answer_columns(self) -> list[str]:
        """`prediction` and `score`."""
        return ["prediction", "score"]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """`match` above a probability of 0.5, else `no match`; the score is the probability of a match."""
        return [{"prediction": _NAMES[score > 0.5], "score": score} for score in _probabilities(outputs).tolist()]

    @property
    def output_names(self) -> list[str]:
        """The single output, `match`."""
        return [_NAMES[1]]

    def state(self) -> dict[str, Any]:
        """Whether the training rows had labels."""
        return {"labelled": self.labelled}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `state`."""
        self.labelled = state["labelled"]

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether the state is of this task."""
        return "labelled" in state


def _word(label: Any) -> str:
    return label_name(label).strip().lower()


def _belongs(batch: Batch) -> Tensor:
    """(B,) bool, True = image and text match; unlabelled rows do."""
    assert batch.target is not None
    return batch.target[:, MATCH] != 0


def _probabilities(outputs: Outputs) -> Tensor:
    """(B,) float64 probability that the text matches the image."""
    return outputs.logits[:, 0].double().sigmoid()
