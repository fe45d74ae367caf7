"""A finished model as graphs that torch.export traces: uint8 images and token ids in, a task's answers out.

One graph for each row of images and texts, or, for retrieval, one for images and one for texts.

Legend: B batch, H W image height and width, L text tokens, P width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional

from mmft.batch import Batch, Encoded, Fused, Outputs, Widths
from mmft.errors import UserError, first_line
from mmft.models.vision_language_model import StandIn, VisionLanguageModel
from mmft.tasks.base import Task
from mmft.tasks.graph_outputs import GraphOutput, graph_outputs

SHORTEST = 4
"""Tokens of the shortest text that a graph takes, padding included: torch.export allows for all lengths from there."""
PRESENT = ("image_present", "text_present")
_IMAGE = ("pixel_values",)
_TEXT = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Graph:
    """A graph before it is traced.

    Attributes:
        name: of its file.
        module: inputs as named -> a tuple of outputs as named; in eval mode, float32, on the CPU.
        inputs: the names of its inputs.
        outputs: what it returns.
    """

    name: str
    module: nn.Module
    inputs: Sequence[str]
    outputs: Sequence[GraphOutput]

    @property
    def axes(self) -> dict[str, dict[int, str]]:
        """The dimensions of each input that vary, by name: `batch` and, of texts, `length`."""
        return {name: {0: "batch", 1: "length"} if name in _TEXT else {0: "batch"} for name in self.inputs}

    def inputs_of(self, batch: Batch) -> dict[str, Tensor]:
        """What it is given of a batch; rows without texts may have fewer tokens than `SHORTEST`, and are padded."""
        found = {name: getattr(batch, name) for name in self.inputs}
        for name in found.keys() & set(_TEXT):
            found[name] = functional.pad(found[name].long(), (0, max(0, SHORTEST - found[name].shape[1])))
        return found


def graphs_of(model: VisionLanguageModel, task: Task) -> list[Graph]:
    """The graphs of a model: `model`, or `image` and `text` for retrieval.

    Args:
        model: in eval mode, in float32, on the CPU.
        task: fitted.
    """
    if task.facts.pairwise:
        image, text = graph_outputs(task)
        return [
            Graph("image", _Images(model, image), _IMAGE, [image]),
            Graph("text", _Texts(model, text), _TEXT, [text]),
        ]
    present = () if task.facts.needs_both else PRESENT
    return [Graph("model", _Rows(model, task), (*_IMAGE, *_TEXT, *present), graph_outputs(task))]


class _Rows(nn.Module):
    """Answers to rows of an image and a text, either of which may be missing."""

    def __init__(self, model: VisionLanguageModel, task: Task) -> None:
        super().__init__()
        self.model = model
        self.computes = [output.compute for output in graph_outputs(task)]

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_present: Tensor | None = None,
        text_present: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) uint8, ids and mask (B, L) int64, presence (B,) bool -> the task's outputs."""
        model, mask = self.model, attention_mask.bool()
        if text_present is not None:  # a missing text's tokens count for nothing, but without any softmax would be NaN
            mask = mask | ~text_present[:, None]
        image = _filled(model.image_encoder(pixel_values), model.missing_image, image_present)
        text = _filled(model.text_encoder(input_ids, mask), model.missing_text, text_present)
        outputs = model.outputs(Fused(model.fusion(image, text), image.pooled, text.pooled))
        return tuple(compute(outputs) for compute in self.computes)


def _filled(encoded: Encoded, missing: StandIn, present: Tensor | None) -> Encoded:
    """All rows' encoding, with the stand-in where `present` (B,) is false, as if only the others had been encoded."""
    if present is None:
        return encoded
    there = present[:, None]
    tokens = torch.where(there[:, None], encoded.tokens, torch.zeros_like(encoded.tokens))
    filled: Encoded = missing(Encoded(tokens, encoded.mask & there, encoded.pooled), present, None)
    return filled


class _Images(nn.Module):
    """Embeddings of images in the space that they share with texts."""

    def __init__(self, model: VisionLanguageModel, embedding: GraphOutput) -> None:
        super().__init__()
        self.encoder, self.fusion, self.head = model.image_encoder, model.fusion, model.head
        self.others, self.compute = model.text_encoder.widths, embedding.compute

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        """Images (B, 3, H, W) uint8 -> (B, P) of unit length."""
        image = self.encoder(pixel_values)
        text = _nothing(image, self.others)
        return (self.compute(Outputs(self.head(self.fusion(image, text)), image.pooled, text.pooled)),)


class _Texts(nn.Module):
    """Embeddings of texts in the space that they share with images."""

    def __init__(self, model: VisionLanguageModel, embedding: GraphOutput) -> None:
        super().__init__()
        self.encoder, self.fusion, self.head = model.text_encoder, model.fusion, model.head
        self.others, self.compute = model.image_encoder.widths, embedding.compute

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        """Ids and mask (B, L) int64 -> (B, P) of unit length."""
        text = self.encoder(input_ids, attention_mask.bool())
        image = _nothing(text, self.others)
        return (self.compute(Outputs(self.head(self.fusion(image, text)), image.pooled, text.pooled)),)


def _nothing(like: Encoded, widths: Widths) -> Encoded:
    """An encoding of the other modality, on which an embedding does not depend, for the rows of `like`."""
    rows = like.pooled.shape[0]
    tokens = like.pooled.new_zeros(rows, 1, widths.tokens)
    return Encoded(tokens, tokens.new_zeros(rows, 1, dtype=torch.bool), like.pooled.new_zeros(rows, widths.pooled))


def trace(graph: Graph, batch: Batch, longest: int, named: str) -> ExportedProgram:
    """The graph, for any number of rows and any length of texts.

    Args:
        graph: as of `graphs_of`.
        batch: two or more rows with images and texts.
        longest: the longest text of the encoder, in tokens.
        named: the model's encoders, for messages.

    Raises:
        UserError: torch.export cannot trace the model.
    """
    free = {"batch": Dim("batch", min=1), "length": Dim("length", min=SHORTEST, max=longest)}
    shapes = {name: {axis: free[of] for axis, of in axes.items()} for name, axes in graph.axes.items()}
    try:
        with torch.no_grad():
            return torch.export.export(graph.module, (), graph.inputs_of(batch), dynamic_shapes=shapes)
    except Exception as error:  # each architecture that cannot be traced fails in its own way
        raise UserError(
            f"torch.export cannot trace this run's model of {named}, so there is no graph to write: "
            f"{first_line(error).rstrip('.')}. Type format=hf for the encoders alone"
        ) from error
