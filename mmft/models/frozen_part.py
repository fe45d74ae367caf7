"""An encoder in two parts: the layers below the lowest one that is trained, and the rest.

What the lower part computes is a fixed function of a row, so it can be computed once and kept (`mmft.cache`). To be the
same to the last bit whether it was kept or not, it must not depend on the rest of the batch either. On the CPU it is
therefore computed in groups of one shape, `ROWS_AT_ONCE` rows of texts of one padded length: kernels round differently
for different shapes, but alike for every row of one shape.

Legend: B batch, R rows with the modality, N tokens, L text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmft.batch import Encoded, Features, padded_length
from mmft.models.encoder import Encoder
from mmft.models.frozen_layers import computing_dtype
from mmft.models.fusion.base import Reads
from mmft.models.image_encoder import ImageEncoder
from mmft.models.layers import block_modules, blocks, evaluated
from mmft.models.stored_form import FORMS, packed, unpacked
from mmft.models.text_encoder import TextEncoder

ROWS_AT_ONCE = 8
"""Rows of a group. A batch is rarely smaller, and the last group of a length is filled up."""

Inputs = tuple[Any, ...]
"""Of an encoder: (R, 3, H, W) images or R images as `Pieces`, or (R, L) ids and mask."""
_TOLERANCE = 1e-4  # of the largest value
_SHORT = 5  # tokens of the shorter text that `check` tries


class FrozenPart:
    """The lower part of an encoder, and how to go on from what it gives.

    Args:
        encoder: on its device, in its own modes.
        layer: the lowest trained layer, at least 2; None if nothing of the encoder is trained.
        reads: what the fusion reads of the encoder's output.
        exact: whether a row's values must not depend on its batch.
        form: in which they are kept, see `mmft.models.stored_form`.

    An encoder can be unfit for it, which `check` finds out.

    Attributes:
        names: what is computed of a row, in order: `pooled`, and `tokens` if the fusion reads them; or `hidden`, the
            output of the last frozen block.
        ragged: for each tensor that is kept, whether rows differ in its second dimension, the tokens.
    """

    _reads_inputs = False  # also of images that are kept

    def __init__(
        self, encoder: Encoder, layer: int | None, reads: Reads, exact: bool = False, form: str = "computed"
    ) -> None:
        self.encoder, self.layer, self.exact, self.form = encoder, layer, exact, form
        padded = isinstance(encoder, TextEncoder) and not encoder.fixed_length
        self.names = ("hidden",) if layer is not None else ("pooled",) if reads == "pooled" else ("tokens", "pooled")
        self._ragged = tuple(padded and name != "pooled" for name in self.names)
        self.ragged = tuple(one for one in self._ragged for _ in range(FORMS[form]))
        self._blocks = [] if layer is None else block_modules(encoder.backbone)[: layer - 1]
        self._outputs: list[Any] = []  # of each frozen block, with None for tensors

    @property
    def modality(self) -> str:
        """`image` or `text`."""
        return "image" if isinstance(self.encoder, ImageEncoder) else "text"

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole encoder."""
        return self.layer is None

    def encoded(self, inputs: Inputs | None, kept: Features | None) -> Encoded:
        """The encoder's output for R rows.

        Args:
            inputs: of the encoder; None for images of which all are kept.
            kept: what is kept of the rows; None for nothing.
        """
        values = self.complete(inputs, kept).values
        if self.form != "computed":  # finding the dtype takes as long as a small step
            values = unpacked(values, self.form, computing_dtype(self.encoder))
        return self._continued(values, inputs)

    def complete(self, inputs: Inputs | None, kept: Features | None) -> Features:
        """`kept` with what is missing computed."""
        if kept is None:
            assert inputs is not None
            return Features.of_all(self.compute(inputs))
        missing = (~kept.there).nonzero().squeeze(1)
        if not len(missing):
            return kept
        assert inputs is not None
        computed = self.compute(tuple(part[missing] for part in inputs))
        pairs = (as_long(old.to(new.dtype), new) for old, new in zip(kept.values, computed, strict=True))
        return Features.of_all(tuple(old.index_copy(0, missing, new) for old, new in pairs))

    def lengths(self, inputs: Inputs) -> list[int]:
        """Tokens of each row in what is kept of it, read if that is ragged."""
        lengths: list[int] = inputs[1].sum(1).tolist() if any(self.ragged) else [1] * len(inputs[0])
        return lengths

    @torch.no_grad()
    def compute(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """What is kept of R rows, each (R, ...), zeros for the padding of texts."""
        if not self.exact:
            found = self._lower(inputs)
        elif isinstance(self.encoder, TextEncoder):
            found = self._by_length(*inputs)
        else:
            found = self._in_groups(inputs)
        if any(self._ragged):
            real = inputs[1]  # (R, L)
            found = tuple(
                value.masked_fill(~_like(real, value), 0) if ragged else value
                for value, ragged in zip(found, self._ragged, strict=True)
            )
        return packed(found, self.form)

    def _by_length(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Texts in groups of one padded length, which is that of the row alone."""
        encoder: Any = self.encoder
        longest, lengths = encoder.tokenizer.model_max_length, mask.sum(1).tolist()
        padded = torch.tensor([padded_length(length, longest) for length in lengths], device=ids.device)
        found: list[Tensor] = []
        for length in sorted(set(padded.tolist())):
            rows = (padded == length).nonzero().squeeze(1)
            values = self._in_groups((ids[rows, :length], mask[rows, :length]))
            if not found:
                shapes = ([ids.shape[1]] if ragged else [] for ragged in self._ragged)
                found = [
                    value.new_zeros(len(ids), *shape, *value.shape[1 + len(shape) :])
                    for value, shape in zip(values, shapes, strict=True)
                ]
            for all_rows, value, ragged in zip(found, values, self._ragged, strict=True):
                if ragged:
                    all_rows[rows, :length] = value
                else:
                    all_rows[rows] = value
        return tuple(found)

    def _in_groups(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Rows of one shape in groups of equally many; the last group is filled up with its last row."""
        rows = len(inputs[0])
        parts = []
        for first in range(0, rows, ROWS_AT_ONCE):
            group = [part[first : first + ROWS_AT_ONCE] for part in inputs]
            count = len(group[0])
            filled = [torch.cat([part, part[-1:].expand(ROWS_AT_ONCE - count, *part.shape[1:])]) for part in group]
            parts.append([value[:count] for value in self._lower(tuple(filled))])
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    def _lower(self, inputs: Inputs) -> tuple[Tensor, ...]:
        if self.is_whole:
            encoded = self.encoder(*inputs)
            return tuple(getattr(encoded, name) for name in self.names)
        found: list[Tensor] = []

        def reached(_: nn.Module, __: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)
            raise _ReachedError

        hook = self._blocks[-1].register_forward_hook(reached)
        try:
            self.encoder(*inputs)
        except _ReachedError:
            pass
        finally:
            hook.remove()
        return (found[0],)

    def _continued(self, values: tuple[Tensor, ...], inputs: Inputs | None) -> Encoded:
        if not self.is_whole:
            with passed_over(self._blocks, self._outputs, values[0]):
                encoded: Encoded = self.encoder(*self._stand_in(len(values[0])) if inputs is None else inputs)
                return encoded
        pooled = values[-1]
        tokens = values[0] if len(values) > 1 else pooled.new_zeros(len(pooled), 1, self.encoder.width)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if len(values) > 1 and isinstance(self.encoder, TextEncoder):
            assert inputs is not None
            mask = nn.functional.pad(inputs[1], (0, tokens.shape[1] - inputs[1].shape[1]), value=False)
        return Encoded(tokens, mask, pooled)

    def _stand_in(self, rows: int) -> Inputs:
        """(R, 3, H, W) uint8 zeros in place of images that are not decoded again: the stem's shapes are needed."""
        encoder: Any = self.encoder
        return (encoder.blank(rows),)

    @torch.no_grad()
    def check(self) -> None:
        """Compares two rows computed in parts with the same computed in one go; call it once, before anything else.

        Raises:
            CannotSplitError: the encoder cannot be continued from the output of that block, or a text's values depend
                on its padding.
        """
        if self.layer is not None and len(block_modules(self.encoder.backbone)) != len(blocks(self.encoder.backbone)):
            raise CannotSplitError("its blocks are not single modules")
        inputs = self._two_rows()
        try:
            with evaluated(self.encoder):
                with _noting(self._blocks, self._outputs):
                    whole = self.encoder(*inputs)
                parts = self._continued(self._lower(inputs), inputs if self._reads_inputs or len(inputs) > 1 else None)
                alone = self.encoder(*(part[1:, :_SHORT] for part in inputs)) if len(inputs) > 1 else None
        except Exception as error:  # architectures whose blocks pass on more than tokens fail in many ways
            raise CannotSplitError(f"its upper layers read more than the output of those below ({error})") from error
        if not (self.is_whole or _alike(whole, parts)):
            raise CannotSplitError("its upper layers read more than the output of those below")
        if alone is not None and not _close(alone.pooled, whole.pooled[1:]):
            raise CannotSplitError("what it makes of a text depends on the padding")

    def _two_rows(self) -> Inputs:
        """Two images of noise, or two texts of different lengths."""
        encoder = self.encoder
        device = next(encoder.parameters()).device
        generator = torch.Generator().manual_seed(0)
        if isinstance(encoder, ImageEncoder):
            shape = (2, 3, encoder.image_size, encoder.image_size)
            return (torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device),)
        ids = torch.randint(3, 64, (2, 8), generator=generator).to(device)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[1, _SHORT:] = False
        return ids, mask


class CannotSplitError(Exception):
    """The frozen part of an encoder cannot be computed apart, and why."""


class _ReachedError(Exception):
    """The last frozen block has run."""


@contextmanager
def _noting(frozen: list[nn.Module], into: list[Any]) -> Iterator[None]:
    """Context in which the frozen blocks' outputs are noted, in order, with None for tensors."""
    into.clear()
    hooks = [block.register_forward_hook(lambda *given: into.append(_without_tensors(given[-1]))) for block in frozen]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _without_tensors(output: Any) -> Any:
    if not isinstance(output, tuple):
        return None
    return tuple(None if isinstance(part, Tensor) else part for part in output)


@contextmanager
def passed_over(frozen: list[nn.Module], outputs: list[Any], hidden: Tensor) -> Iterator[None]:
    """Context in which frozen blocks compute nothing and return `hidden`, in the form of their own outputs."""
    try:
        for block, output in zip(frozen, outputs, strict=True):
            returned = hidden if output is None else (hidden, *output[1:])
            block.forward = partial(_returning, returned)
        yield
    finally:
        for block in frozen:
            vars(block).pop("forward", None)


def _returning(value: Any, *_: Any, **__: Any) -> Any:
    return value


def _alike(one: Encoded, other: Encoded) -> bool:
    """Whether pooled vectors and real tokens are the same up to rounding."""
    return _close(one.tokens[one.mask], other.tokens[one.mask]) and _close(one.pooled, other.pooled)


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and float((one - other).abs().max()) <= _TOLERANCE * float(one.abs().max())


def as_long(*values: Tensor) -> list[Tensor]:
    """Tensors with as many tokens as the longest, if they have tokens."""
    if values[0].ndim < 3:
        return list(values)
    longest = max(value.shape[1] for value in values)
    return [nn.functional.pad(value, (0, 0, 0, longest - value.shape[1])) for value in values]


def _like(mask: Tensor, value: Tensor) -> Tensor:
    """(R, L) as (R, L, 1, ...) with as many dimensions as `value`."""
    return mask.view(*mask.shape, *[1] * (value.ndim - 2))
