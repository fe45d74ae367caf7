"""The types that flow through mmft, one per arrow:

    table -> Row -> Sample -> Batch -> Outputs -> losses, metrics -> Trainer

Legend: B batch (rows of one rank's share of one optimizer step), H W image height and width,
L text tokens (padded up to a multiple of 8), N image tokens, D width, C classes.
Every mask is True where there is something real.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor


class BadRow(NamedTuple):
    """A row that cannot be used, and why. One line of `bad_rows.csv`."""

    row: int
    id: str
    column: str
    reason: str

    @property
    def why(self) -> str:
        """The reason, with the column in front where it is that of one."""
        return f"{self.column}: {self.reason}" if self.column else self.reason


@dataclass(frozen=True, slots=True)
class Row:
    """One example as the table has it; nothing is opened or decoded yet.

    `image` is an absolute path or the encoded bytes; None for `image` or `text` is a missing modality,
    which is not an error. `label` is the table's own value.
    """

    row: int
    id: str
    image: str | bytes | None
    text: str | None
    label: Any = None
    weight: float = 1.0


class Pair(NamedTuple):
    """What makes a row's image and text belong together: the target of a task over pairs, before it is encoded."""

    image: str | bytes | None
    text: str | None
    group: str | None
    label: Any

    def identity(self) -> list[int]:
        """(3,) what image, text and group are known by: 63 bits that are the same for the same one; -1: none.

        Rows of which one of the three is equal belong together.
        """
        return [-1 if part is None else _identity(part) for part in self[:3]]


def _identity(part: str | bytes) -> int:
    content = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little") >> 1


class Candidate(NamedTuple):
    """Another row's text, which may be given to a row's image as one that does not belong to it."""

    row: int
    input_ids: Tensor  # (L,) int64, special tokens included
    chance: float = 0.5  # between 0 and 1, what the draw among several goes by


@dataclass(frozen=True, slots=True)
class Sample:
    """One example, decoded. A sample with `bad` set carries nothing else and takes no part in the loss."""

    row: int
    pixel_values: Tensor | None = None  # (3, H, W) uint8; None: no image
    input_ids: Tensor | None = None  # (L,) int64, special tokens included; None: no text
    target: Tensor | None = None  # as the task encodes it; () int64 for classification
    weight: float = 1.0
    identity: Tensor | None = None  # (3,) int64, see `Pair.identity`; None: nobody asks
    bad: BadRow | None = None
    mixed_target: Tensor | None = None  # of the row that the image is mixed with; None: it is not mixed
    mixed_share: float = 0.0  # how much of the image and of the target is that row's
    candidates: tuple[Candidate, ...] | None = None  # None: none were asked for


class Candidates(NamedTuple):
    """The candidates of each row of a batch, K at most, in the order in which they were asked for."""

    input_ids: Tensor  # (B, K, L) int64, L as of the batch's own texts
    attention_mask: Tensor  # (B, K, L) bool
    row: Tensor  # (B, K) int64 their row numbers; -1: there are fewer
    chance: Tensor  # (B, K) float64, between 0 and 1

    @property
    def present(self) -> Tensor:
        """(B, K) bool."""
        return self.row >= 0


@dataclass(slots=True)
class Batch:
    """One rank's share of one optimizer step, or one evaluation batch; only rows that could be read.

    `pixel_values` is None when no row of the batch has an image, `input_ids` and `attention_mask` are when
    none has a text, so that a modality that a table lacks costs and moves no encoder. Rows that could not be
    read are in `bad` and nowhere else.
    """

    pixel_values: Tensor | None  # (B, 3, H, W) uint8; zeros where an image is missing
    input_ids: Tensor | None  # (B, L) int64; the empty text's tokens where a text is missing
    attention_mask: Tensor | None  # (B, L) bool, True = real token
    image_present: Tensor  # (B,) bool
    text_present: Tensor  # (B,) bool
    row: Tensor  # (B,) int64, the row number that a prediction is reported under
    weight: Tensor  # (B,) float32
    target: Tensor | None = None  # (B, ...) as the task encodes it
    identity: Tensor | None = None  # (B, 3) int64, see `Pair.identity`; None: nobody asks
    mixed_target: Tensor | None = None  # (B, ...) of rows that images are mixed with; None: no image is
    mixed_share: Tensor | None = None  # (B,) float32 how much of a row's target they are, from 0 to 0.5
    candidates: Candidates | None = None  # other rows' texts; None: none were asked for
    bad: tuple[BadRow, ...] = ()

    def __len__(self) -> int:
        return len(self.row)

    def _map(self, change: Any) -> Batch:
        tensors: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "bad"}
        others = tensors.pop("candidates")
        changed: dict[str, Any] = {name: None if t is None else change(t) for name, t in tensors.items()}
        return replace(self, **changed, candidates=None if others is None else Candidates(*map(change, others)))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on `device`. Lightning calls this, and says non_blocking to tensors alone."""
        to_gpu = torch.device(device).type == "cuda"  # from pinned memory, so that the copy need not be waited for
        return self._map(lambda t: t.to(device, non_blocking=non_blocking or to_gpu))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory. `DataLoader` calls this."""
        return self._map(lambda t: t.pin_memory())

    def split(self, size: int | None) -> Iterator[Batch]:
        """Micro-batches of at most `size` rows (None: the batch itself), views in the same order.

        The padded length stays that of the whole batch, so that a row's features do not depend on
        the micro-batch it is in. An empty batch gives no micro-batch.
        """
        if size is None or size >= len(self):
            if len(self):
                yield self
            return
        for start in range(0, len(self), size):
            part = self._map(lambda t, s=start: t[s : s + size])
            yield replace(part, bad=())


class Encoded(NamedTuple):
    """What an image or text encoder returns. `pooled` is `(B, D)`, or `(B, 2 D)` for `pool=cls_mean`."""

    tokens: Tensor  # (B, N, D) after the encoder's final norm
    mask: Tensor  # (B, N) bool, True = real token
    pooled: Tensor  # (B, D)


class Widths(NamedTuple):
    """The widths of what an encoder returns: `tokens` is D of `Encoded.tokens`, `pooled` that of `Encoded.pooled`.

    They differ where pooling puts two vectors side by side (`cls_mean`) or ends in a hidden layer (MobileNetV3).
    """

    tokens: int
    pooled: int


class Fused(NamedTuple):
    """What the fusion makes of a batch, before the head. `image` and `text` are as in `Outputs`."""

    features: Tensor  # (B, F)
    image: Tensor  # (B, D_image)
    text: Tensor  # (B, D_text)


class Auxiliaries(NamedTuple):
    """What losses of training alone read; each None where there is no such loss."""

    image: Tensor | None  # (B, C) outputs of a head on the image's features
    text: Tensor | None  # (B, C) the same of the text's
    shared: Tensor | None  # (B, 2 P) both modalities' features in one space, side by side


class Outputs(NamedTuple):
    """What the model returns."""

    logits: Tensor  # (B, C) or what the task's head gives
    image: Tensor  # (B, D_image) pooled; the stand-in where a row has none, zeros if the fusion reads tokens
    text: Tensor  # (B, D_text) pooled; the same
    auxiliary: Auxiliaries | None = None  # in training, where something besides the task's loss is made small
