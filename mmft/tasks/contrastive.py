"""Contrastive retrieval: which image and which text belong together, over all pairs of the logical batch.

Legend: B batch, R rows of the logical batch, C labels, P width of an embedding, V width of the head's output vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from mmft.batch import Batch, Outputs, Pair
from mmft.config.schema.task import ContrastiveConfig
from mmft.errors import UserError
from mmft.models.precision import at_least_float32
from mmft.models.similarity import SimilarityHead, embeddings_of
from mmft.tasks.base import PairwiseTask
from mmft.tasks.identities import IDENTITY, LABEL, TEXT, identities
from mmft.tasks.labels import in_order, label_name
from mmft.tasks.metrics.retrieval import RetrievalMetric
from mmft.tasks.pair_losses import Rows, info_nce_sum, sigmoid_sum
from mmft.tasks.prompts import label_embeddings, prompts_of, templates_of
from mmft.tasks.subject import Subject

_LOSSES = {"info_nce": info_nce_sum, "sigmoid": sigmoid_sum}
_ZERO_SHOT = "zero_shot/accuracy"
_SIMILARITY = "similarity"
_TEMPERATURES = {"info_nce": 0.07, "sigmoid": 0.1}  # CLIP's and SigLIP's


class Contrastive(PairwiseTask):
    """CLIP's InfoNCE or SigLIP's sigmoid loss between every image and every text of the logical batch.

    Positive pairs are a row's own image and text, and rows that share an image, a text (unless `same_text` is
    `negative`), or a group (`data.columns.group`); these are never negatives. A row without an image or without a text
    is a bad row. For sample weights see `mmft.tasks.pair_losses`; metrics ignore them.

    Labels are not trained on, unless captions are made of them (`texts`). If the training rows have labels,
    `zero_shot/accuracy` is the share of labelled rows whose image is nearest to its own label's prompts (Radford et al.
    2021, arXiv 2103.00020).

    Args:
        loss: `info_nce` or `sigmoid`; None for `info_nce`.
        temperature: initial temperature; None for 0.07 with `info_nce`, 0.1 with `sigmoid`.
        templates: prompt templates, `{}` for the label's name, or the name of a set; None for the bare name.
        compared_rows: batch size; the initial bias of `sigmoid` assumes one positive pair in this many.
        same_text: whether rows that share a text are each other's `positive` or `negative` pairs.
        texts: `column`, or `templates`: a row's text is its label in one of the templates. Recall over such captions
            says little, so the only metric is `zero_shot/accuracy`.
    """

    facts = ContrastiveConfig
    monitor = "mean_recall"
    constant = "always the same"

    def __init__(
        self,
        loss: str | None = None,
        temperature: float | None = None,
        templates: str | list[str] | None = None,
        compared_rows: int = 32,
        same_text: Literal["positive", "negative"] = "positive",
        texts: Literal["column", "templates"] = "column",
    ) -> None:
        loss = loss or "info_nce"
        self._loss_sum = _LOSSES[loss]
        self._has_temperature = temperature is not None
        self.temperature = _TEMPERATURES[loss] if temperature is None else temperature
        self.bias = -math.log(compared_rows) if loss == "sigmoid" else None
        self.templates: list[str] = templates_of(templates)
        self._same_text = same_text
        self._by_captions = texts == "templates"
        if self._by_captions:
            self.monitor = _ZERO_SHOT
        self._set_labels([])

    def _set_labels(self, labels: list[str]) -> None:
        self.labels = labels
        self._index = {name: number for number, name in enumerate(labels)}
        self._prompts: Tensor | None = None  # (C, P) mean prompt embedding of each label, unit length

    def make_head(self, width: int) -> nn.Module:  # noqa: ARG002 - independent of the width
        """The scale and bias of similarities."""
        return SimilarityHead(self.temperature, self.bias, is_default=not self._has_temperature)

    def fit(self, labels: Sequence[Any]) -> None:
        """Collects the label names, if any, for zero-shot evaluation and captions.

        Raises:
            UserError: captions are made of labels, and there are fewer than two.
        """
        self._set_labels(in_order({label_name(label) for label in labels if label is not None}))
        if self._by_captions and len(self.labels) < 2:
            raise UserError(
                f"task.texts=templates: the training rows have {len(self.labels)} different labels, but captions "
                "tell at least two apart. Check data.columns.label"
            )

    @property
    def captions_of(self) -> Callable[[Any], list[str]] | None:
        """A label in every template, with `task.texts=templates`."""
        return (lambda label: prompts_of([label_name(label)], self.templates)) if self._by_captions else None

    def encode(self, label: Any) -> list[int]:
        """(4,) identities of the row's image, text and group, and its label's number, -1 without a label.

        Captions of one label have one identity, whatever the template.
        """
        pair: Pair = label
        if self._by_captions:
            if pair.label is None:
                raise ValueError("no label to make a caption of")
            pair = pair._replace(text=label_name(pair.label))
        return [*identities(pair), -1 if pair.label is None else self._index.get(label_name(pair.label), -1)]

    def encode_evaluated(self, label: Any, unseen: list[str]) -> list[int]:
        """As `encode`; a label that no training row has is noted, if others have one."""
        pair: Pair = label
        if self.labels and pair.label is not None and label_name(pair.label) not in self._index:
            unseen.append(label_name(pair.label))
        return self.encode(pair)

    def pairwise_loss_sum(self, outputs: Outputs, batch: Batch, own: slice) -> Tensor:
        """Vectors (R, V) and targets (R, 4) -> () the weighted sum of the losses of the rows `own`."""
        assert batch.target is not None
        vectors = at_least_float32(outputs.logits)
        with torch.autocast(vectors.device.type, enabled=False):  # bfloat16 is too coarse for a softmax of many
            image, text = vectors.chunk(2, dim=-1)  # (R, V / 2) each
            return self._loss_sum(image, text, Rows(self._identity(batch.target), batch.weight), own)

    def _identity(self, target: Tensor) -> Tensor:
        """Targets (R, 4) -> (R, 3) the identities that make rows positive pairs."""
        identity = target[:, IDENTITY].clone()
        if self._same_text == "negative":
            identity[:, TEXT] = -1
        return identity

    @property
    def closing_report(self) -> Literal["modalities", "embeddings", "none"]:
        """How well embeddings separate labels, if there are labels; one modality alone predicts nothing here."""
        return "embeddings" if self.labels else "none"

    def metrics(self) -> MetricCollection:
        """Recall at 1, 5 and 10, median rank and mean reciprocal rank, in both directions."""
        return MetricCollection({"retrieval": RetrievalMetric()})

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds embeddings and targets."""
        assert batch.target is not None
        metrics.update(*self.embeddings(outputs), batch.target)

    def embeddings(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """(B, P) each, unit length: images and texts in the shared space."""
        return embeddings_of(at_least_float32(outputs.logits), has_bias=self.bias is not None)

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """`image_to_text/...`, `text_to_image/...`, the mean of the six recalls, and `zero_shot/accuracy`."""
        metric = cast("RetrievalMetric", metrics["retrieval"])
        if self._by_captions:
            return {_ZERO_SHOT: self._zero_shot(metric)}
        found = {name: float(value) for name, value in metric.compute().items()}
        return found | ({} if self._prompts is None else {_ZERO_SHOT: self._zero_shot(metric)})

    def _zero_shot(self, metric: RetrievalMetric) -> float:
        """The share of labelled rows whose image is nearest to its label's prompts; nan if no row has a label."""
        assert self._prompts is not None
        label, image = torch.cat(metric.target)[:, LABEL], torch.cat(metric.image)
        right = (image @ self._prompts.to(image).T).argmax(1) == label  # (rows,) bool
        return right[label >= 0].double().mean().item()

    def prompts(self) -> list[str]:
        """Every template of every label, label by label."""
        return prompts_of(self.labels, self.templates)

    def take_prompts(self, fused: Tensor) -> None:
        """Stores label embeddings from the text half of the prompts' fused features (prompts, 2 P)."""
        self._prompts = label_embeddings(fused, len(self.labels))

    def metric_names(self) -> list[str]:
        """The names of `scalars`."""
        if self._by_captions:
            return [_ZERO_SHOT]
        return [*RetrievalMetric.names(), *([_ZERO_SHOT] if self.labels else [])]

    @property
    def answer_columns(self) -> list[str]:
        """`prediction` and an empty `score`."""
        return ["prediction", "score"]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The cosine of each row's image and text."""
        return [{"prediction": value, "score": None} for value in self._cosine(outputs).tolist()]

    @property
    def output_names(self) -> list[str]:
        """The similarity of a row's image and text."""
        return [_SIMILARITY]

    def subjects(self, outputs: Outputs, name: str | None) -> list[Subject]:  # noqa: ARG002 - the same for every row
        """The cosine of the row's image and text."""
        return [Subject(_SIMILARITY, self._cosine)] if name in (None, _SIMILARITY) else []

    def _cosine(self, outputs: Outputs) -> Tensor:
        image, text = self.embeddings(outputs)
        return (image * text).sum(1)

    def state(self) -> dict[str, Any]:
        """Label names, and whether similarities have a bias."""
        return {"labels": self.labels, "has_bias": self.bias is not None}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the label names."""
        self._set_labels(list(state["labels"]))

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether the state is of this task and agrees on having a bias."""
        return state.get("has_bias") == (self.bias is not None)
