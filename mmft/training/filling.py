"""Computes what a frozen part makes of the rows of a split, batch by batch, and writes it to the store.

Legend: B rows at once, L text tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmft.batch import padded_length
from mmft.batch.images import Pieces
from mmft.data.collate import side_by_side
from mmft.data.dataset import RowDataset
from mmft.data.images.image import read_file
from mmft.data.images.mending import BadImage
from mmft.data.loading import make_loader
from mmft.data.stored_rows import StoredRows, digest_of_bytes
from mmft.data.text import pad_id
from mmft.models.frozen_part import FrozenPart, Inputs
from mmft.models.text_encoder import TextEncoder


class _Read(NamedTuple):
    """Rows that were read: keys, and the encoder's inputs."""

    digests: list[bytes]
    inputs: Inputs


class Filling:
    """Iterates over batches of rows, and computes each; `flush` writes them.

    Args:
        part: on its device.
        stored: of the split; see `StoredRows.refresh`.
        rows: of the split.
        positions: of the rows to compute.
        at_once: rows of a batch.
        num_workers: processes that decode images.
        precision: makes the context of the computation.

    Attributes:
        rows: rows computed so far.
        seconds: taken to read and compute them.
        writing: seconds taken to write them.
        held: bytes of values that are not written yet.
        written: bytes of values that are.
    """

    def __init__(
        self,
        part: FrozenPart,
        stored: StoredRows,
        rows: RowDataset,
        positions: Sequence[int],
        at_once: int,
        num_workers: int,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.part, self.stored, self._precision = part, stored, precision
        self._batches: Iterable[_Read] = (
            _texts(part.encoder, rows, positions, at_once)
            if isinstance(part.encoder, TextEncoder)
            else _images(rows, positions, at_once, num_workers)
        )
        self.rows = self.held = self.written = 0
        self.seconds = self.writing = 0.0
        self._digests: list[bytes] = []
        self._lengths: list[int] = []
        self._values: list[list[Tensor]] = [[] for _ in part.ragged]

    def __iter__(self) -> Iterator[None]:
        device, begin = next(self.part.encoder.parameters()).device, time.perf_counter()
        for read in self._batches:
            if read.digests:
                with self._precision():
                    values = self.part.compute(tuple(one.to(device) for one in read.inputs))
                self._take(read, [value.cpu() for value in values])
            self.seconds += time.perf_counter() - begin
            yield
            begin = time.perf_counter()

    def _take(self, read: _Read, values: Sequence[Tensor]) -> None:
        lengths = self.part.lengths(read.inputs)
        for column, value, ragged in zip(self._values, values, self.part.ragged, strict=True):
            rows = [(one[:length] if ragged else one).clone() for one, length in zip(value, lengths, strict=True)]
            column += rows
            self.held += sum(one.nbytes for one in rows)
        self._digests += read.digests
        self._lengths += lengths
        self.rows += len(read.digests)

    def first_values(self) -> dict[bytes, Tensor]:
        """The first of the values of each row that is not written yet, by key."""
        return dict(zip(self._digests, self._values[0], strict=True))

    def flush(self) -> None:
        """Writes what was computed as one shard, so that a killed run has not computed it in vain.

        Raises:
            OSError: it cannot be written.
        """
        if not self._digests:
            return
        begin = time.perf_counter()
        self.stored.entry.write(self._digests, self._lengths, self.part.ragged, self._values)
        self.writing += time.perf_counter() - begin
        self.written += self.held
        self._digests, self._lengths, self._values, self.held = [], [], [[] for _ in self.part.ragged], 0


def _texts(encoder: TextEncoder, rows: RowDataset, positions: Sequence[int], at_once: int) -> Iterator[_Read]:
    """Texts in order of their lengths."""
    ordered = sorted(positions, key=lambda at: len(rows.tokens.of(at)))
    for first in range(0, len(ordered), at_once):
        texts = [rows.text(at) for at in ordered[first : first + at_once]]  # (L_i,) each
        length = padded_length(len(texts[-1]), encoder.tokenizer.model_max_length)
        digests = [digest_of_bytes(rows.tokens.of(at).tobytes()) for at in ordered[first : first + at_once]]
        yield _Read(digests, side_by_side(texts, length, pad_id(encoder.tokenizer)))


def _images(rows: RowDataset, positions: Sequence[int], at_once: int, num_workers: int) -> DataLoader[_Read]:
    batches = [positions[first : first + at_once] for first in range(0, len(positions), at_once)]
    return make_loader(_Images(rows), batches, _stacked, num_workers=num_workers)


class _Images(Dataset[tuple[bytes, Tensor | Pieces] | None]):
    """Key and pixels of an image or a view of it, from the same bytes; None if it cannot be read."""

    def __init__(self, rows: RowDataset) -> None:
        self.rows = rows

    def __getitem__(self, position: int) -> tuple[bytes, Tensor | Pieces] | None:
        view, at = divmod(position, len(self.rows))
        row = int(self.rows.split.rows[at])
        source = self.rows.split.table.image(row)
        if source is None:
            return None
        try:
            data = source if isinstance(source, bytes) else read_file(source)
            digest, pixels = digest_of_bytes(data), self.rows.images.reader(data)
            if isinstance(pixels, Pieces):
                self.rows.check_length(at, pixels)
        except BadImage:
            return None
        if not view:
            return digest, pixels
        views = self.rows.views
        assert views is not None
        assert isinstance(pixels, Tensor)
        return views.digest(digest, row, view - 1), views.image(pixels, row, view - 1)


def _stacked(read: Sequence[tuple[bytes, Tensor | Pieces] | None]) -> _Read:
    good = [one for one in read if one is not None]
    pieces = [image for _, image in good if isinstance(image, Pieces)]
    pixels = [image for _, image in good if isinstance(image, Tensor)]
    images = Pieces.together(pieces) if pieces else torch.stack(pixels) if pixels else torch.zeros(0)
    return _Read([digest for digest, _ in good], (images,))
