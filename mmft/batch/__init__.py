"""The types that flow through mmft, one per arrow:

    table -> Row -> Sample -> Batch -> Outputs -> losses, metrics -> Trainer

Legend: B batch (one rank's rows in an optimizer step), H W image height and width, L text tokens (padded to a multiple
of 8), N image tokens, D width, C classes. Every mask is True where there is real data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmft.batch.features import Features as Features
from mmft.batch.images import Images, Pieces


class BadRow(NamedTuple):
    """A row that cannot be used, and why: one line of `bad_rows.csv`."""

    row: int
    id: str
    column: str
    reason: str
    split: str = ""  # whose file the row is in; empty if all splits share one table

    @property
    def why(self) -> str:
        """The reason, prefixed by the column if it concerns one."""
        return f"{self.column}: {self.reason}" if self.column else self.reason


class Turn(NamedTuple):
    """One turn of a conversation. `IMAGE_PLACE` in its text is where the image stands."""

    role: str  # system, user or assistant
    text: str


Conversation = tuple[Turn, ...]
"""At most one system turn, then turns of user and assistant by turns; at least one of a user."""

IMAGE_PLACE = "<image>"


@dataclass(frozen=True, slots=True)
class Row:
    """One example as the table has it, before anything is opened or decoded.

    `image` is an absolute path or the encoded bytes. `image` or `text` is None if the row lacks that modality, which is
    not an error. `label` is the table's own value.
    """

    row: int
    id: str
    image: str | bytes | None
    text: str | None
    label: Any = None
    weight: float = 1.0


class Pair(NamedTuple):
    """What decides whether an image and a text match: the target of a pairwise task, before it is encoded."""

    image: str | bytes | None
    text: str | None
    group: str | None
    label: Any

    def identity(self) -> list[int]:
        """(3,) 63-bit hashes of image, text and group; -1 for one that is missing.

        Rows that share any of the three match each other.
        """
        return [-1 if part is None else _identity(part) for part in self[:3]]


def _identity(part: str | bytes) -> int:
    content = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little") >> 1


class Candidate(NamedTuple):
    """The text of another row, as a possible negative for a row's image."""

    row: int
    input_ids: Tensor  # (L,) int64, special tokens included
    chance: float = 0.5  # between 0 and 1, its weight when one of several is drawn


@dataclass(frozen=True, slots=True)
class Sample:
    """One example, decoded. If `bad` is set, the other fields are empty and the row is excluded from the loss."""

    row: int
    pixel_values: Tensor | None = None  # (3, H, W) uint8; None if the row has no image
    input_ids: Tensor | None = None  # (L,) int64, special tokens included; None if the row has no text
    target: Tensor | None = None  # encoded by the task; () int64 for classification
    weight: float = 1.0
    identity: Tensor | None = None  # (3,) int64, see `Pair.identity`; None if the task does not need it
    bad: BadRow | None = None
    mixed_target: Tensor | None = None  # target of the row mixed in; None without mixing
    mixed_share: float = 0.0  # that row's share of the image and of the target
    candidates: tuple[Candidate, ...] | None = None  # None if none were requested
    stored_image: int | None = None  # position of the row whose image the store has; `pixel_values` is then None
    stored_text: int | None = None  # the same for the text; `input_ids` are there all the same
    references: tuple[str, ...] = ()  # the row's reference answers, if a task's metrics compare texts
    images: tuple[Pieces | int, ...] = ()  # for a model that reads pieces: in place of `pixel_values` or `stored_image`


class Candidates(NamedTuple):
    """Each row's candidates, at most K, in the order they were requested."""

    input_ids: Tensor  # (B, K, L) int64, with the L of the batch's own texts
    attention_mask: Tensor  # (B, K, L) bool
    row: Tensor  # (B, K) int64 row numbers; -1 pads rows with fewer
    chance: Tensor  # (B, K) float64, between 0 and 1

    @property
    def present(self) -> Tensor:
        """(B, K) bool, True = real candidate."""
        return self.row >= 0


_NO_TENSORS = ("references", "bad")  # fields of `Batch`
RowsAtOnce = int | Sequence[int] | None
"""Rows of a micro-batch: at most so many, or how many the first one has, the second one, ...; None for all."""


@dataclass(slots=True)
class Batch:
    """One rank's share of an optimizer step, or one evaluation batch; readable rows only.

    `pixel_values` is None if no row of the batch has an image, `input_ids` and `attention_mask` if none has a text; the
    encoder of a modality that the table lacks is then neither run nor trained. Unreadable rows appear in `bad` only.
    """

    pixel_values: Tensor | None  # (B, 3, H, W) uint8; zeros where an image is missing
    input_ids: Tensor | None  # (B, L) int64; the empty text's tokens where a text is missing
    attention_mask: Tensor | None  # (B, L) bool, True = real token
    image_present: Tensor  # (B,) bool
    text_present: Tensor  # (B,) bool
    row: Tensor  # (B,) int64, row number in the table, used to report predictions
    weight: Tensor  # (B,) float32
    target: Tensor | None = None  # (B, ...) encoded by the task
    identity: Tensor | None = None  # (B, 3) int64, see `Pair.identity`; None if the task does not need it
    mixed_target: Tensor | None = None  # (B, ...) targets of the rows mixed in; None without mixing
    mixed_share: Tensor | None = None  # (B,) float32 their share of each target, 0 to 0.5
    candidates: Candidates | None = None  # other rows' texts; None if none were requested
    start_image: Tensor | None = None  # (B, D) pooled features before training, see `Distillation`; None without it
    start_text: Tensor | None = None  # (B, D)
    image_features: Features | None = None  # of the images; None if none are kept
    text_features: Features | None = None  # of the texts
    images: Images | None = None  # in place of `pixel_values` and `image_features` for a model that reads pieces
    references: tuple[tuple[str, ...], ...] = ()  # of each row, if a task's metrics compare texts
    bad: tuple[BadRow, ...] = ()

    def __len__(self) -> int:
        return len(self.row)

    def map_tensors(self, change: Any) -> Batch:
        """The batch with `change(tensor)` for each of its tensors, those of features and candidates among them."""
        tensors: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NO_TENSORS}
        others = tensors.pop("candidates")
        changed: dict[str, Any] = {
            name: None if t is None else t.map(change) if isinstance(t, Features) else change(t)
            for name, t in tensors.items()
        }
        return replace(self, **changed, candidates=None if others is None else Candidates(*map(change, others)))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Returns the batch on `device`. Called by Lightning, which passes non_blocking only for tensors."""
        to_gpu = torch.device(device).type == "cuda"  # memory is pinned, so the copy can be asynchronous
        return self.map_tensors(lambda t: t.to(device, non_blocking=non_blocking or to_gpu))

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory. Called by `DataLoader`."""
        return self.map_tensors(lambda t: t.pin_memory())

    def take(self, rows: Tensor) -> Batch:
        """The batch with these rows alone, in this order; `rows` (R,) are places in it."""
        references = tuple(self.references[row] for row in rows.tolist()) if self.references else ()
        return replace(self.map_tensors(lambda t: t[rows]), references=references)

    def split(self, size: RowsAtOnce) -> Iterator[Batch]:
        """Yields micro-batches as views, in order.

        All keep the padded length of the whole batch, so a row's features do not depend on its micro-batch. An empty
        batch yields nothing.
        """
        if size is None or size == [len(self)] or (isinstance(size, int) and size >= len(self)):
            if len(self):
                yield self
            return
        sizes = [size] * -(-len(self) // size) if isinstance(size, int) else size
        start = 0
        for rows in sizes:
            part = self.map_tensors(lambda t, s=start, n=rows: t[s : s + n])
            yield replace(part, references=self.references[start : start + rows], bad=())
            start += rows


MULTIPLE = 8
"""Texts are padded to a multiple of this: few distinct lengths, and shapes that suit the hardware."""


def padded_length(length: int, longest: int | None) -> int:
    """The padded length of texts of which the longest has `length` tokens; `longest` is the encoder's maximum."""
    padded = -(-length // MULTIPLE) * MULTIPLE
    return padded if longest is None or padded <= longest else max(length, longest)


class Encoded(NamedTuple):
    """Output of an image or text encoder. `pooled` is `(B, D)`, or `(B, 2 D)` for `pool=cls_mean`."""

    tokens: Tensor  # (B, N, D) after the encoder's final norm
    mask: Tensor  # (B, N) bool, True = real token
    pooled: Tensor  # (B, D)


class Widths(NamedTuple):
    """Widths of an encoder's output: D of `Encoded.tokens`, and the width of `Encoded.pooled`.

    They differ if pooling concatenates two vectors (`cls_mean`) or ends in a hidden layer (MobileNetV3).
    """

    tokens: int
    pooled: int


class Fused(NamedTuple):
    """Output of the fusion, before the head. `image` and `text` are as in `Outputs`."""

    features: Tensor  # (B, F)
    image: Tensor  # (B, D_image)
    text: Tensor  # (B, D_text)


class Auxiliaries(NamedTuple):
    """Inputs of the auxiliary training losses; a field is None if its loss is off."""

    image: Tensor | None  # (B, C) logits of a head on the image features
    text: Tensor | None  # (B, C) logits of a head on the text features
    shared: Tensor | None  # (B, 2 P) both modalities in one space, concatenated


class Outputs(NamedTuple):
    """Output of the model."""

    logits: Tensor  # (B, C), or whatever the task's head returns
    image: Tensor  # (B, D_image) pooled; the stand-in if missing, zeros if the fusion reads tokens
    text: Tensor  # (B, D_text) pooled; likewise
    auxiliary: Auxiliaries | None = None  # only in training with auxiliary losses
    generated: Tensor | None = None  # (B, T) int64 tokens of generated texts, -1 for padding; in eval mode
    generated_log_probs: Tensor | None = None  # (B, T) of these tokens, 0 for padding; (B, 0) with choices
    choices: Tensor | None = None  # (B, K) log-probabilities of the answers that generation chooses from, K may be 0
