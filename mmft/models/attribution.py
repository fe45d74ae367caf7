"""Integrated gradients of one row: how much each pixel and each token contributes to an output of the model.

Sundararajan et al. 2017 (arXiv 1703.01365): the gradient integrated along the straight line from a baseline to the
row, times the difference. Attributions sum to f(row) - f(baseline) over image and text together, so both modalities
share one unit. Only gradients at the inputs are needed, so every encoder works. In eval mode rows of a batch are
independent, so the points of the line are computed as a batch.

The baseline is an image of one colour and a text of equally many mask tokens, special tokens kept.
Integers have no gradient, so pixels are passed as floats and tokens as input embeddings.

Legend: H W image height and width, P pieces of images, L text tokens, D width, S points of the line.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmft.batch import Batch, Outputs
from mmft.models.vision_language_model import VisionLanguageModel

Value = Callable[[Outputs], Tensor]


class Attribution(NamedTuple):
    """Contributions to one output of a row."""

    image: Tensor | None  # (H, W), or (P, ...) of images in pieces; None if the row has no image
    text: Tensor | None  # (L,); None if the row has no text
    value: float  # the output
    baseline: float  # the output of the baseline

    @property
    def missed(self) -> float:
        """`value - baseline` minus the sum of attributions: the error of approximating the integral by S points."""
        return self.value - self.baseline - sum(float(part.sum()) for part in self[:2] if part is not None)


class Baseline(NamedTuple):
    """An uninformative row."""

    colour: tuple[int, int, int]
    input_ids: Tensor  # (L,) int64
    pieces: Tensor | None = None  # (P, ...) of images of that colour, for a row whose images are in pieces


def integrated_gradients(
    model: VisionLanguageModel, batch: Batch, value: Value, baseline: Baseline, points: int, at_once: int
) -> Attribution:
    """Attributes a scalar function of the model's outputs to the inputs of the single row in `batch`.

    Args:
        model: in eval mode.
        batch: one row.
        value: outputs of S rows -> (S,) the scalar of each row, which depends on that row alone.
        baseline: of the row.
        points: S, number of Gauss-Legendre nodes; for smooth functions far fewer are needed than with equal steps.
        at_once: number of points per forward pass.
    """
    nodes, weights = np.polynomial.legendre.leggauss(points)
    places = torch.tensor(np.concatenate([(nodes + 1) / 2, [0.0, 1.0]]), dtype=torch.float64)  # (S + 2,) with both ends
    shares = torch.tensor(np.concatenate([weights / 2, [0.0, 0.0]]), dtype=torch.float64)
    line = _Line(model, batch, baseline)
    values = []
    for some, share in zip(places.split(at_once), shares.split(at_once), strict=True):
        values.append(line.walk(some, share, value))
    ends = torch.cat(values)[-2:].tolist()
    return Attribution(line.image_sum(), line.text_sum(), value=ends[1], baseline=ends[0])


class _Line:
    """The straight line from the baseline to a row, and the gradients accumulated along it."""

    def __init__(self, model: VisionLanguageModel, batch: Batch, baseline: Baseline) -> None:
        self.model, self.batch = model, batch
        self.device = batch.row.device
        self.image = self.text = None  # (from, to): (1, 3, H, W) or (1, P, ...) each, (1, L, D) each
        if bool(batch.image_present.all()):
            self.image = self._image(baseline, next(model.parameters()).dtype)
        if bool(batch.text_present.all()) and batch.input_ids is not None:
            nothing = replace(batch, input_ids=baseline.input_ids[None].to(self.device))
            with torch.no_grad():
                self.text = model.embed_text(nothing), model.embed_text(batch)
        self.gradients: dict[str, Tensor] = {}

    def _image(self, baseline: Baseline, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        if self.batch.images is not None:
            assert baseline.pieces is not None
            start, end = baseline.pieces, self.batch.images.pieces.values
            return start[None].to(self.device, dtype), end[None].to(dtype)
        if self.batch.pixel_values is None:
            return None
        image = self.batch.pixel_values.to(dtype)
        colour = torch.tensor(baseline.colour, dtype=dtype, device=self.device).view(1, 3, 1, 1)
        return colour.expand_as(image), image

    def walk(self, places: Tensor, shares: Tensor, value: Value) -> Tensor:
        """Accumulates the weighted gradients at `places` (S,) in [0, 1]; returns the values there, (S,) float64."""
        made: dict[str, Tensor] = {}
        for name, ends in (("image", self.image), ("text", self.text)):
            if ends is not None:
                start, end = ends
                at = places.to(device=self.device, dtype=end.dtype).view(-1, *[1] * (end.ndim - 1))
                made[name] = (start + at * (end - start)).requires_grad_()
        text = made.get("text")
        with torch.enable_grad(), nullcontext() if text is None else self.model.reading(text):
            outputs = self.model.score(self._repeated(len(places), made.get("image")))
            values = value(outputs._replace(logits=outputs.logits.double()))  # (S,)
        found = torch.autograd.grad((values * shares.to(values)).sum(), list(made.values()))
        for name, gradient in zip(made, found, strict=True):
            self.gradients[name] = self.gradients.get(name, 0) + gradient.double().sum(0)
        return values.detach().cpu()

    def _repeated(self, times: int, pixels: Tensor | None) -> Batch:
        alone = self.batch.images
        batch = replace(self.batch, images=None).map_tensors(lambda t: t.expand(times, *t.shape[1:]))
        if alone is not None:
            repeated = alone.map(lambda t: t.repeat(times, *[1] * (t.ndim - 1)))
            if pixels is not None:
                repeated = replace(repeated, pieces=replace(repeated.pieces, values=pixels.flatten(0, 1)))
            return replace(batch, images=repeated)
        return batch if pixels is None else replace(batch, pixel_values=pixels)

    def image_sum(self) -> Tensor | None:
        """(H, W) float64, summed over colour channels; or (P, ...)."""
        if self.image is None:
            return None
        found = (self.gradients["image"] * (self.image[1] - self.image[0])[0].double()).cpu()
        return found.sum(0) if self.batch.images is None else found

    def text_sum(self) -> Tensor | None:
        """(L,) float64, summed over the embedding width."""
        if self.text is None:
            return None
        return (self.gradients["text"] * (self.text[1] - self.text[0])[0].double()).sum(-1).cpu()
