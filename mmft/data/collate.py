"""`Collate`: samples -> `Batch`. Rows that could not be read appear only in `Batch.bad`.

Legend: B good rows, K candidates, L text tokens (padded to a multiple of 8), H W image height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from mmft.batch import Batch, Candidate, Candidates, Features, Sample, padded_length
from mmft.batch.images import Images, ImagesInPrompt, Pieces
from mmft.data.dataset import Stored
from mmft.data.gathered import Gathered


class Collate:
    """Callable `(samples) -> Batch`.

    Args:
        pad_id: the padding id.
        empty: (L,) int32 tokens in place of a missing text, with mask True: a row without a real token would make a
            softmax NaN. `Batch.text_present` marks missing texts.
        longest: the maximum length of the encoder, which padding does not exceed; None for no limit.
        target: any target of the split, for the shape and dtype of an empty batch; None without targets.
        identity: any row's identity, for the same purpose; None if identities are not needed.
        stored: what the store has of the split, by `image` and `text`; it may be filled later.
        padded_targets: whether targets are sequences padded with -1, which a batch has no longer than its longest.
        images: what is written for images in pieces; None if a row has one image in one piece.
    """

    def __init__(
        self,
        pad_id: int,
        empty: npt.NDArray[np.int32],
        longest: int | None = None,
        target: Tensor | None = None,
        identity: Tensor | None = None,
        stored: Mapping[str, Stored] | None = None,
        padded_targets: bool = False,
        images: ImagesInPrompt | None = None,
    ) -> None:
        self.pad_id, self.longest, self.target, self.identity = pad_id, longest, target, identity
        self.stored = {} if stored is None else stored
        self.padded_targets, self.images = padded_targets, images
        self.empty = torch.from_numpy(empty.astype(np.int64))

    def __call__(self, samples: Sequence[Sample] | Gathered) -> Batch:
        """Stacks the good samples in order, and collects the bad rows of the others."""
        if isinstance(samples, Gathered):
            return self._of_gathered(samples)
        good = [sample for sample in samples if sample.bad is None]
        images, present = None, [sample.input_ids is not None for sample in good]
        if self.images is not None and good:
            images, good = self._in_pieces(good, self.images)
        input_ids, attention_mask = self._texts(good)
        pixel_values, image_present = _pixels(good)
        mixed_target, mixed_share = _mixed(good)
        return Batch(
            pixel_values=pixel_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            image_present=image_present,
            text_present=torch.tensor(present, dtype=torch.bool),
            row=torch.tensor([sample.row for sample in good], dtype=torch.int64),
            weight=torch.tensor([sample.weight for sample in good], dtype=torch.float32),
            target=self._trimmed(_stacked([sample.target for sample in good], self.target)),
            identity=_stacked([sample.identity for sample in good], self.identity),
            mixed_target=mixed_target,
            mixed_share=mixed_share,
            candidates=self._candidates(good),
            image_features=(
                self._features("image", [sample.stored_image for sample in good], 0) if images is None else None
            ),
            text_features=self._features(
                "text", [sample.stored_text for sample in good], 0 if input_ids is None else input_ids.shape[1]
            ),
            references=tuple(sample.references for sample in good if sample.references),
            images=images,
            bad=tuple(sample.bad for sample in samples if sample.bad is not None),
        )

    def _of_gathered(self, rows: Gathered) -> Batch:
        """The same from arrays."""
        ids, mask, length = None, None, 0
        if (lengths := rows.lengths).any() and not rows.needs_no_tokens:
            longest = max(int(lengths.max()), len(self.empty) if not lengths.all() else 0)
            length = padded_length(longest, self.longest)
            ids, mask = rows.texts(self.empty, length, self.pad_id)
        return Batch(
            pixel_values=None,
            input_ids=ids,
            attention_mask=mask,
            image_present=rows.image_present,
            text_present=torch.from_numpy(lengths > 0),
            row=rows.row,
            weight=rows.weight,
            target=self._trimmed(rows.target),
            identity=rows.identity,
            image_features=self._features("image", rows.image.tolist(), 0),
            text_features=self._features("text", rows.text.tolist(), length),
            references=rows.references,
            bad=rows.bad,
        )

    def _trimmed(self, target: Tensor | None) -> Tensor | None:
        """Targets without what only pads them all."""
        if target is None or not self.padded_targets:
            return target
        return target[:, : int((target >= 0).sum(1).amax()) if len(target) else 0]

    def _features(self, modality: str, positions: Sequence[int | None], length: int) -> Features | None:
        """What the store has of these rows, texts padded to `length` tokens; None if it has none."""
        stored = self.stored.get(modality)
        return None if stored is None or not positions else stored.read(positions, length)

    def _in_pieces(self, good: Sequence[Sample], written: ImagesInPrompt) -> tuple[Images, list[Sample]]:
        """The images of rows, and the rows with a mark for each token of an image, also of one that is missing."""
        every = [one for sample in good for one in sample.images or (written.missing,)]
        kept = self._features("image", [one if isinstance(one, int) else None for one in every], 0)
        if kept is not None:
            about = kept.values[-1]
            every = [written.known(about[at]) if isinstance(one, int) else one for at, one in enumerate(every)]
        pieces = Pieces.together([one for one in every if isinstance(one, Pieces)])
        count = torch.tensor([max(1, len(sample.images)) for sample in good])
        found = []
        for sample, own in zip(good, pieces.about.split(count.tolist()), strict=True):
            ids = self.empty if sample.input_ids is None else sample.input_ids
            found.append(replace(sample, input_ids=torch.tensor(written.expanded(ids.tolist(), own))))
        return Images(count, pieces, kept), found

    def _texts(self, good: Sequence[Sample]) -> tuple[Tensor | None, Tensor | None]:
        """Token ids (B, L) int64 and mask (B, L) bool, True = real token; None if no row has a text."""
        if all(sample.input_ids is None for sample in good):
            return None, None
        texts = [self.empty if sample.input_ids is None else sample.input_ids for sample in good]  # (L_i,) each
        return side_by_side(texts, self._length(good), self.pad_id)

    def _length(self, good: Sequence[Sample]) -> int:
        """L, the padded length over the rows' own texts and their candidates."""
        texts = [self.empty if sample.input_ids is None else sample.input_ids for sample in good]
        others = [other.input_ids for sample in good for other in sample.candidates or ()]
        return padded_length(max(text.numel() for text in [*texts, *others]), self.longest)

    def _candidates(self, good: Sequence[Sample]) -> Candidates | None:
        """Candidate texts (B, K, L), K the largest number in a row; None for a task without candidates."""
        given = [sample.candidates for sample in good if sample.candidates is not None]
        if not given:
            return None
        nothing, most = Candidate(-1, self.empty[:0]), max(map(len, given))  # filler for rows with fewer
        filled = [other for others in given for other in [*others, *[nothing] * (most - len(others))]]
        shape = len(given), most
        input_ids, mask = side_by_side([other.input_ids for other in filled], length := self._length(good), self.pad_id)
        row = torch.tensor([other.row for other in filled], dtype=torch.int64)
        chance = torch.tensor([other.chance for other in filled], dtype=torch.float64)
        parts = input_ids.view(*shape, length), mask.view(*shape, length), row.view(shape), chance.view(shape)
        return Candidates(*parts)  # (B, K, L) ids and mask, (B, K) rows and chances


def side_by_side(texts: Sequence[Tensor], length: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Pads texts (L_i,) to token ids (texts, L) int64 and mask (texts, L) bool, True = real token."""
    lengths = torch.tensor([text.numel() for text in texts])  # a tensor's `len` takes microseconds
    if not len(texts):
        return torch.zeros(0, length, dtype=torch.int64), torch.zeros(0, length, dtype=torch.bool)
    padded = pad_sequence(list(texts), batch_first=True, padding_value=pad_id)  # to the longest of them
    input_ids = functional.pad(padded, (0, length - padded.shape[1]), value=pad_id)
    return input_ids, torch.arange(length) < lengths[:, None]


def _stacked(found: Sequence[Tensor | None], like: Tensor | None) -> Tensor | None:
    """Stacks to (B, ...), also for an empty batch, since ranks gather the result; None without `like`."""
    if like is None:
        return None
    known = [one for one in found if one is not None]
    return torch.stack(known) if known else like.new_zeros((0, *like.shape))


def _pixels(good: Sequence[Sample]) -> tuple[Tensor | None, Tensor]:
    """Images (B, 3, H, W) uint8 and (B,) bool, True = has an image.

    Zeros if missing or in the store; None if there are no others.
    """
    images = [sample.pixel_values for sample in good]
    there = [s.pixel_values is not None or s.stored_image is not None or bool(s.images) for s in good]
    present = torch.tensor(there, dtype=torch.bool)
    like = next((image for image in images if image is not None), None)
    if like is None:
        return None, present
    return torch.stack([torch.zeros_like(like) if image is None else image for image in images]), present


def _mixed(good: Sequence[Sample]) -> tuple[Tensor | None, Tensor | None]:
    """Mixed-in targets (B, ...), a row's own if it is not mixed, and shares (B,); None, None if no row is mixed."""
    if all(sample.mixed_target is None for sample in good):
        return None, None
    targets = [sample.target if sample.mixed_target is None else sample.mixed_target for sample in good]
    shares = torch.tensor([sample.mixed_share for sample in good], dtype=torch.float32)
    return torch.stack([target for target in targets if target is not None]), shares
