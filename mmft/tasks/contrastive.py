"""Contrastive retrieval: which picture and which text belong together, over all pairs of the logical batch.

Legend: B batch, R rows of the logical batch, V width of the vectors that the head gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from mmft.batch import Batch, Outputs, Pair
from mmft.models.similarity import SimilarityHead, embeddings_of
from mmft.tasks.base import PairTask, at_least_float32
from mmft.tasks.pair_losses import Rows, info_nce_sum, sigmoid_sum
from mmft.tasks.retrieval import RetrievalMetric

_LOSSES = {"info_nce": info_nce_sum, "sigmoid": sigmoid_sum}
_TEMPERATURES = {"info_nce": 0.07, "sigmoid": 0.1}  # CLIP's and SigLIP's


class Contrastive(PairTask):
    """CLIP's InfoNCE or SigLIP's sigmoid loss between every picture and every text of the logical batch.

    What belongs together besides a row's own picture and text: rows with the same picture, the same text, or the same
    group (`data.columns.group`); they are positives and never negatives. A row that lacks its picture or its text has
    no pair: a bad row. Sample weights are described in `mmft.tasks.pair_losses`; they do not count in metrics.

    Args:
        loss: `info_nce` or `sigmoid`.
        temperature: what similarities are divided by at first; None: 0.07 for `info_nce`, 0.1 for `sigmoid`.
        batch_size: rows of a logical batch; the bias of `sigmoid` begins where one pair in so many is a positive one.
    """

    monitor = "mean_recall"
    constant = "always the same"
    predicts_numbers = True

    def __init__(self, loss: str = "info_nce", temperature: float | None = None, batch_size: int = 32) -> None:
        self._loss_sum = _LOSSES[loss]
        self.temperature = _TEMPERATURES[loss] if temperature is None else temperature
        self.bias = -math.log(batch_size) if loss == "sigmoid" else None

    def make_head(self, width: int) -> nn.Module:  # noqa: ARG002 - it has no more for a larger one
        """Scale and bias of similarities."""
        return SimilarityHead(self.temperature, self.bias)

    def fit(self, labels: Sequence[Any]) -> None:
        """Learns nothing of the labels."""

    def encode(self, label: Any) -> list[int]:
        """(3,) what the row's picture, text and group are known by; -1: it is of no group."""
        pair: Pair = label
        for modality, given in (("picture", pair.image), ("text", pair.text)):
            if given is None:
                raise ValueError(f"no {modality}, so that there is no pair")
        return [-1 if part is None else _identity(part) for part in (pair.image, pair.text, pair.group)]

    def pair_loss_sum(self, outputs: Outputs, batch: Batch, own: slice) -> Tensor:
        """Vectors (R, V) and identities (R, 3) -> () the weighted sum of the own rows' losses."""
        assert batch.target is not None
        vectors = at_least_float32(outputs.logits)
        with torch.autocast(vectors.device.type, enabled=False):  # bfloat16 is too coarse for a softmax of many
            image, text = vectors.chunk(2, dim=-1)
            return self._loss_sum(image, text, Rows(batch.target, batch.weight), own)

    def metrics(self) -> MetricCollection:
        """Recall at 1, 5 and 10, median rank and mean reciprocal rank, both ways."""
        return MetricCollection({"retrieval": RetrievalMetric()})

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds embeddings and identities."""
        assert batch.target is not None
        metrics.update(*self.embeddings(outputs), batch.target)

    def embeddings(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """(B, P) each, of length 1: the pictures' and the texts' in their shared space."""
        return embeddings_of(at_least_float32(outputs.logits), has_bias=self.bias is not None)

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """`image_to_text/...`, `text_to_image/...`, and the mean of the six recalls."""
        return {name: float(value) for name, value in metrics["retrieval"].compute().items()}

    def metric_names(self) -> list[str]:
        """The names of `scalars`."""
        return RetrievalMetric.names()

    @property
    def answer_columns(self) -> list[str]:
        """`prediction` and an empty `score`."""
        return ["prediction", "score"]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The cosine of each row's picture and text."""
        image, text = self.embeddings(outputs)
        return [{"prediction": value, "score": None} for value in (image * text).sum(1).tolist()]

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes nothing."""

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Scale and bias always mean the same."""
        return not state


def _identity(part: str | bytes) -> int:
    """63 bits that are the same for the same content alone."""
    content = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little") >> 1
