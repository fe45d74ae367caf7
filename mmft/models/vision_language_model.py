"""The model: image encoder + text encoder -> fusion -> head.

Legend: B batch, H W image height and width, L text tokens, N tokens, D width, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from mmft.batch import Batch, Encoded, Features, Fused, Outputs, Widths
from mmft.batch.images import Pieces
from mmft.config.schema.model import ENCODERS
from mmft.models.auxiliary import Auxiliary
from mmft.models.frozen_part import FrozenPart
from mmft.models.frozen_pieces import frozen_part_of
from mmft.models.fusion.base import Fusion, Reads
from mmft.models.image_encoder import ImageEncoder
from mmft.models.text_encoder import TextEncoder

PARTS = (*ENCODERS, "fusion", "head", "auxiliary")
_RATES = ("drop_rate", "attn_drop_p", "attn_drop_rate", "proj_drop_rate")
_DROPPED_OUT = ("out_drop", "attn_drop", "proj_drop", "resid_drop")


class StandIn(nn.Module):
    """A learned vector that replaces a missing image or text.

    If the fusion reads pooled features, it is a pooled feature. If the fusion reads tokens, it is the row's only token
    of that modality. Either way the fusion can recognise a missing modality, and no row has all tokens masked, which
    would make a softmax over one modality NaN. The output that the fusion does not read is zeros.
    """

    def __init__(self, widths: Widths, reads: Reads, start: Tensor | None = None) -> None:
        """Args: the encoder's widths, which of its outputs the fusion reads, the untrained vector (None: zeros)."""
        super().__init__()
        self.widths = widths
        self.reads = reads
        start = torch.zeros(widths.tokens if reads == "tokens" else widths.pooled) if start is None else start
        self.vector = nn.Parameter(start)
        self.start: Tensor
        self.register_buffer("start", start.clone(), persistent=False)

    @property
    def is_untrained(self) -> bool:
        """Whether the vector is as it was at first."""
        return torch.equal(self.vector, self.start)

    def forward(self, encoded: Encoded | None, present: Tensor, rows: Tensor | None) -> Encoded:
        """Scatters the encoded rows to their positions and fills the others with the stand-in.

        Rows with the modality keep their features unchanged.

        Args:
            encoded: of the R rows with the modality; None if no row has it.
            present: (B,) bool, True = the row has the modality.
            rows: (R,) indices of the rows with the modality; None for all.

        Returns:
            tokens (B, N, D), mask (B, N), pooled (B, D).
        """
        tokens, mask, pooled = self._in_their_places(encoded, present, rows)
        there = present.unsqueeze(-1)  # (B, 1)
        if self.reads == "pooled":
            return Encoded(tokens, mask, torch.where(there, pooled, self.vector.to(pooled.dtype)))
        first = torch.where(there, tokens[:, 0], self.vector.to(tokens.dtype))  # (B, D)
        tokens = torch.cat([first.unsqueeze(1), tokens[:, 1:]], dim=1)
        return Encoded(tokens, torch.cat([mask[:, :1] | ~there, mask[:, 1:]], dim=1), pooled)

    def _in_their_places(self, encoded: Encoded | None, present: Tensor, rows: Tensor | None) -> Encoded:
        """All B rows; zeros and an all-False mask for rows without the modality."""
        size = present.shape[0]  # not `len`, which torch.export would fix for good
        if encoded is None:
            zeros = self.vector.detach().new_zeros
            return Encoded(
                zeros(size, 1, self.widths.tokens), torch.zeros_like(present)[:, None], zeros(size, self.widths.pooled)
            )
        if rows is None:
            return encoded
        placed = Encoded(*(part.new_zeros(size, *part.shape[1:]).index_copy(0, rows, part) for part in encoded))
        return placed._replace(mask=placed.mask & present[:, None])  # (B, N)


class VisionLanguageModel(nn.Module):
    """Combines two encoders through a fusion and a head.

    Args:
        image_encoder: uint8 images (B, 3, H, W) -> Encoded.
        text_encoder: ids and mask (B, L) -> Encoded.
        fusion: Encoded image and text -> (B, F).
        head: (B, F) -> (B, C).

    Attributes:
        frozen_parts: by encoder, its lower part that is never trained and computed apart; see `FrozenPart`.
        pretrained: the parts besides the encoders that start from pretrained weights: fusion and head of a pair.
        auxiliary: modules of training-only losses; None without such losses, or after training.
        started: the encoders, the head, and names of single tensors that have some other start that is not random.
        reads_stand_ins: whether to compute with stand-ins also where no row lacks anything, with a gradient of zero.
    """

    reads_stand_ins = False

    def __init__(self, image_encoder: ImageEncoder, text_encoder: TextEncoder, fusion: Fusion, head: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.fusion = fusion
        self.head = head
        self.missing_image = StandIn(image_encoder.widths, fusion.reads)
        self.missing_text = StandIn(text_encoder.widths, fusion.reads)
        self.frozen_parts: dict[str, FrozenPart] = {}
        self.pretrained: frozenset[str] = frozenset()
        self.auxiliary: Auxiliary | None = None
        self.started: set[str] = set()

    def began_pretrained(self, name: str) -> bool:
        """Whether the parameter or buffer of this name, or what it was added to, began from pretrained weights."""
        return not (self.pretrained | self.started).isdisjoint((name, name.partition(".")[0]))

    def forward(self, batch: Batch) -> Outputs:
        """Images (B, 3, H, W) uint8 and texts (B, L) -> logits (B, C) and both pooled features."""
        return self.outputs(self.fuse(batch))

    def score(self, batch: Batch) -> Outputs:
        """`forward`; a model that writes texts does not write any here."""
        found: Outputs = self(batch)
        return found

    def embed_text(self, batch: Batch) -> Tensor:
        """(B, L, D) embeddings of the texts' tokens, as the text encoder's first layer reads them."""
        assert batch.input_ids is not None
        assert batch.attention_mask is not None
        found: Tensor = self._embeddings()(self.text_encoder.padded(batch.input_ids, batch.attention_mask))
        return found

    @contextmanager
    def reading(self, embedded: Tensor) -> Iterator[None]:
        """Context in which texts are read as these embeddings (B, L, D), whatever their tokens."""
        handle = self._embeddings().register_forward_hook(lambda *_: embedded)
        try:
            yield
        finally:
            handle.remove()

    def _embeddings(self) -> nn.Module:
        backbone: Any = self.text_encoder.backbone
        module: nn.Module = backbone.get_input_embeddings()
        return module

    def outputs(self, fused: Fused) -> Outputs:
        """Applies the head, and in training `auxiliary`, to fused features."""
        wanted = self.auxiliary is not None and self.training
        auxiliary = self.auxiliary(fused.image, fused.text) if wanted and self.auxiliary is not None else None
        return Outputs(self.head(fused.features), fused.image, fused.text, auxiliary)  # logits (B, C)

    def fuse(self, batch: Batch) -> Fused:
        """Everything except the head: features (B, F), where each row depends on that row alone."""
        # Both before any encoder runs: on a GPU, the second would wait for the first encoder to finish.
        image_rows, text_rows = present_rows(batch.image_present), present_rows(batch.text_present)
        image = self.encode_image(batch, image_rows)
        text = self.encode_text(batch, text_rows)
        return Fused(self.fusion.checked(self.fusion(image, text)), image.pooled, text.pooled)

    def encode_image(self, batch: Batch, rows: Tensor | None) -> Encoded:
        """Tokens (B, N, D) of the images, stand-ins for missing ones. `rows`: (R,) with an image, None for all."""
        encoded = self._encoded("image_encoder", batch, rows)  # (R, N, D)
        return self._filled(self.missing_image, encoded, batch.image_present, rows)

    def encode_text(self, batch: Batch, rows: Tensor | None) -> Encoded:
        """Tokens (B, L, D) of the texts, stand-ins for missing ones. `rows`: (R,) with a text, None for all."""
        encoded = self._encoded("text_encoder", batch, rows)  # (R, L, D)
        return self._filled(self.missing_text, encoded, batch.text_present, rows)

    def _filled(self, stand_in: StandIn, encoded: Encoded | None, present: Tensor, rows: Tensor | None) -> Encoded:
        if encoded is not None and rows is None and not self.reads_stand_ins:
            return encoded
        filled: Encoded = stand_in(encoded, present, rows)
        return filled

    def count_stand_ins(self) -> None:
        """Starts the gradients of trained stand-ins at zero, so that they take part in a step that misses nothing."""
        for module in self.children():
            if isinstance(module, StandIn) and module.vector.requires_grad:
                module.vector.grad = torch.zeros_like(module.vector)

    def with_frozen(self, batch: Batch) -> Batch:
        """The batch with what wholly frozen encoders compute of it, for several passes over the same rows."""
        image = self._computed_once("image_encoder", batch, batch.image_present)
        text = self._computed_once("text_encoder", batch, batch.text_present)
        return replace(batch, image_features=image, text_features=text)

    def _computed_once(self, name: str, batch: Batch, present: Tensor) -> Features | None:
        """All that is kept of an encoder that is wholly frozen; of any other, what is kept already."""
        rows = present_rows(present)
        given = _given(name, batch, rows)
        part = None if given is None else self._frozen_part(name)
        if given is None or part is None or not part.is_whole:
            return _kept(name, batch)
        found = part.complete(*given)
        return (
            found if rows is None else found.map(lambda t: t.new_zeros(len(batch), *t.shape[1:]).index_copy(0, rows, t))
        )

    def _encoded(self, name: str, batch: Batch, rows: Tensor | None) -> Encoded | None:
        """An encoder's output of the rows (R,) with its modality, None for all B; None if there are none."""
        given = _given(name, batch, rows)
        if given is None:
            return None
        if (part := self._frozen_part(name)) is not None:
            return part.encoded(*given)
        assert given.inputs is not None
        encoded: Encoded = getattr(self, name)(*given.inputs)
        return encoded

    def _encoded_pieces(self, pieces: Pieces, kept: Features | None) -> Encoded:
        """The image encoder's output of images in pieces (I,)."""
        part = self._frozen_part("image_encoder")
        images = pieces if self.image_encoder.reads_pieces else pieces.values
        found: Encoded = self.image_encoder(images) if part is None else part.encoded((images,), kept)
        return found

    def end_training(self) -> None:
        """Lets encoders compute as in a loaded model: none counts as frozen, so what it reads may have gradients."""
        self.frozen_parts.clear()
        self.image_encoder.live = self.text_encoder.live = None

    def _frozen_part(self, name: str) -> FrozenPart | None:
        encoder = getattr(self, name)
        found = self.frozen_parts.get(name)
        return frozen_part_of(encoder, None, self.fusion.reads) if found is None and encoder.frozen else found


def present_rows(present: Tensor) -> Tensor | None:
    """Indices (R,) of the rows with a modality, from `present` (B,) bool; None if all have it.

    The encoder sees only these rows: zeros for missing inputs would change the other rows' features and the running
    statistics of a BatchNorm. Reading the number of rows synchronises with the GPU once per modality and micro-batch,
    before any work of the micro-batch is queued.
    """
    rows = present.nonzero().squeeze(1)
    return None if len(rows) == len(present) else rows


class _Given(NamedTuple):
    """What there is of R rows for an encoder: its inputs, none for images that the store has, and what is kept."""

    inputs: tuple[Tensor, ...] | None
    kept: Features | None


def _given(encoder: str, batch: Batch, rows: Tensor | None) -> _Given | None:
    """For the rows (R,) of a batch, None for all B; None if there is nothing to encode."""
    kept = _kept(encoder, batch)
    every = (batch.pixel_values,) if encoder == "image_encoder" else (batch.input_ids, batch.attention_mask)
    inputs = tuple(part for part in every if part is not None)
    if not (inputs or kept) or (rows is not None and not len(rows)):
        return None
    if rows is not None:
        inputs = tuple(part[rows] for part in inputs)
        kept = None if kept is None else kept.map(lambda t: t[rows])
    return _Given(inputs or None, kept)


def _kept(encoder: str, batch: Batch) -> Features | None:
    return batch.image_features if encoder == "image_encoder" else batch.text_features


def part_of(name: str) -> str:
    """The one of `PARTS` that a parameter belongs to; stand-ins belong to the fusion."""
    first = name.partition(".")[0]
    return first if first in PARTS else "fusion"


def set_dropout(model: nn.Module, probability: float) -> None:
    """Sets every dropout of `model`: embeddings, attention weights, projections, MLPs, fusion and classifier.

    This covers torch's dropout modules, the rates that transformers and timm pass to functions (`...dropout...`,
    `drop_rate`, `attn_drop_p`), and each `nn.Identity` that replaces a dropout of rate 0 (ModernBERT's `out_drop`).
    Stochastic depth (`drop_path`), DropBlock and patch dropout are different methods and stay unchanged. A ConvNet
    without dropout in its blocks gets none.
    """
    for module in list(model.modules()):
        if isinstance(module, _DropoutNd):
            module.p = probability
        for name, child in list(module.named_children()):
            if name in _DROPPED_OUT and type(child) is nn.Identity:
                setattr(module, name, nn.Dropout(probability).train(child.training))
        for name, value in list(vars(module).items()):
            if ("dropout" in name or name in _RATES) and type(value) in (int, float):  # no bool
                setattr(module, name, probability)
