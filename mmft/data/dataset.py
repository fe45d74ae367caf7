"""`RowDataset`: position in a split -> `Sample`, in the main process or a worker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmft.batch import BadRow, Candidate, Features, Sample
from mmft.batch.images import ImagesInPrompt, Pieces
from mmft.data.captions import Captions
from mmft.data.drawn_targets import DrawnTargets
from mmft.data.gathered import NOBODY, Gathered, Positions
from mmft.data.images.memory import ImageMemory
from mmft.data.images.mending import BadImage
from mmft.data.images.paths import why_missing
from mmft.data.splitting.splits import Split
from mmft.data.table import Table
from mmft.data.text import Tokens
from mmft.data.views import Views


class Stored(Protocol):
    """What the store has of a split; see `mmft.data.stored_rows`."""

    def has(self, position: int) -> bool:
        """Whether the row is there."""

    def having(self, positions: Positions) -> npt.NDArray[np.bool_]:
        """Which of the rows at these positions are there, or need not be: -1 for nothing."""

    def missing(self) -> list[int]:
        """Positions of rows that have the modality and are not there."""

    def read(self, positions: Sequence[int | None], length: int) -> Features | None:
        """Of the rows at these positions."""

    @property
    def row_bytes(self) -> int | None:
        """Size of what is read of a row; None if rows differ in size, or if nothing is there."""


class _Known(NamedTuple):
    """What is known of each row of a split without opening it, by position."""

    bad: int  # number of bad rows so far
    good: npt.NDArray[np.bool_]
    has_image: npt.NDArray[np.bool_]
    weight: Tensor  # float32

    @classmethod
    def of(cls, rows: RowDataset) -> _Known:
        """Of the rows as they are."""
        table, numbers = rows.split.table, rows.split.rows.tolist()
        good = np.array([row not in rows.bad for row in numbers], dtype=bool)
        has_image = np.array([table.image(row) is not None for row in numbers], dtype=bool)
        weight = torch.tensor([table.weight(row) for row in numbers], dtype=torch.float32)
        return cls(len(rows.bad), good, has_image, weight)


class RowDataset(Dataset[Sample]):
    """The rows of a split, decoded on access. A bad row becomes a `Sample` with `bad` set; nothing replaces it.

    Args:
        split: table and rows.
        tokens: of the split's texts, by position.
        images: returns the image of a position, or None.
        targets: (rows, ...) by position; None without targets.
        bad: bad rows beyond the table's, by row number.
        identities: (rows, 3) by position, see `Pair.identity`; None if not needed.
        captions: in place of texts, of which training draws one; None if the table has texts.

    Attributes:
        stored: what the store has of the rows, by `image` and `text`.
        views: of the images, if training reads these instead; see `mmft.data.views`.
        padded_targets: see `Encode.padded`.
        written: what is written for images, if the model reads them in pieces; None if a row has one in one piece.
        references: a task's reference answers of a label, if its metrics compare texts.
        drawn: targets of which training draws one; None if each row has one.
        others: (rows,) position of each row's candidate text, or `NOBODY`; None for a task without candidates.
    """

    def __init__(
        self,
        split: Split,
        tokens: Tokens,
        images: ImageMemory,
        targets: Tensor | None = None,
        bad: Mapping[int, BadRow] | None = None,
        identities: Tensor | None = None,
        captions: Captions | None = None,
    ) -> None:
        self.split, self.tokens, self.images, self.targets = split, tokens, images, targets
        self.identities, self.captions = identities, captions
        self.bad = {**(bad or {}), **split.table.bad}
        self.padded_targets = False
        self.written: ImagesInPrompt | None = None
        self.references: Callable[[Any], Sequence[str]] | None = None
        self.drawn: DrawnTargets | None = None
        self.others: Positions | None = None
        self.stored: dict[str, Stored] = {}
        self.views: Views | None = None
        self._known: _Known | None = None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: int) -> Sample:
        return self.sample(position, position, position)

    def __getitems__(self, positions: Sequence[int]) -> Sequence[Sample] | Gathered:
        """The rows at several positions, which a loader asks for at once."""
        gathered = self._gathered(np.asarray(positions, dtype=np.int64)) if self.stored else None
        return [self[at] for at in positions] if gathered is None else gathered

    def _gathered(self, positions: Positions) -> Gathered | None:
        """Rows at once; None if an image has to be decoded, or a row has more than a sample's usual parts."""
        if self.others is not None or self.written is not None:
            return None
        if self._known is None or self._known.bad != len(self.bad):
            self._known = _Known.of(self)
        known, rows = self._known, self.split.rows[positions]
        good = known.good[positions]
        at, place = positions[good], torch.from_numpy(positions[good])
        image = np.where(known.has_image[at], at, NOBODY)
        if known.has_image[at].any() and ("image" not in self.stored or not self.stored["image"].having(image).all()):
            return None
        stored = self.stored.get("text")
        text = np.full_like(at, NOBODY) if stored is None else np.where(stored.having(at), at, NOBODY)
        return Gathered(
            row=torch.from_numpy(rows[good]),
            weight=known.weight[place],
            target=None if self.targets is None else self.targets[place],
            identity=None if self.identities is None else self.identities[place],
            image=image,
            text=text,
            tokens=self.tokens,
            place=at,
            references=self._references(rows[good]),
            bad=tuple(self.bad[row] for row in rows[~good].tolist()),
        )

    def find_missing_images(self) -> None:
        """Adds the rows whose image file does not exist to `bad`; no image is opened."""
        self.bad |= missing_images(self.split, self.bad)

    def known_bad(self) -> list[BadRow]:
        """The rows of the split that are known to be bad before any image is opened."""
        return [self.bad[row] for row in self.split.rows.tolist() if row in self.bad]

    @property
    def decodes(self) -> bool:
        """Whether images are decoded when rows are read; not if the store has them all."""
        stored = self.stored.get("image")
        return stored is None or bool(stored.missing())

    def sample(self, position: int, image: int | None, text: int | None) -> Sample:
        """The row at `position` with the image and the text of the rows at two other positions; None omits one."""
        row = int(self.split.rows[position])
        table = self.split.table
        if row in self.bad:
            return Sample(row, bad=self.bad[row])
        kept_image, kept_text = self._stored("image", image), self._stored("text", text)
        try:
            pixels, in_pieces = self._images(position, image, kept_image)
            kept_image = None if in_pieces else kept_image
        except BadImage as error:
            return Sample(row, bad=_bad_image(table, row, str(error)))
        ids = None if text is None else self.text(text)
        input_ids = None if ids is None or not ids.numel() else ids
        target = None if self.targets is None else self.targets[position]
        identity = None if self.identities is None else self.identities[position]
        candidates = None if self.others is None else self._candidates(int(self.others[position]))
        return Sample(
            row,
            pixels,
            input_ids,
            target,
            table.weight(row),
            identity,
            candidates=candidates,
            stored_image=kept_image,
            stored_text=kept_text,
            references=next(iter(self._references(np.array([row]))), ()),
            images=in_pieces,
        )

    def _images(
        self, position: int, image: int | None, kept: int | None
    ) -> tuple[Tensor | None, tuple[Pieces | int, ...]]:
        """The pixels of a row's image at `image`, or its images in pieces if the model reads these.

        Raises:
            BadImage: one cannot be read.
        """
        if image is None or kept is not None:
            return None, () if kept is None or self.written is None else (kept,)
        if self.written is None:
            pixels = self.images(image)
            assert not isinstance(pixels, Pieces)
            return pixels, ()
        pieces = self.images.every(image)
        if pieces:
            self.check_length(position, Pieces.together(pieces))
        return None, tuple(pieces)

    def check_length(self, position: int, images: Pieces) -> None:
        """Raises BadImage if the language model cannot read all tokens of a row's prompt and of its images."""
        written = self.written
        if written is None or written.room is None:
            return
        prompt = self.tokens.of(position).tolist()
        if (needed := len(written.expanded(prompt, images.about))) > written.room:
            raise BadImage(
                f"it needs {int(written.counts(images.about).sum())} tokens, and the prompt with it {needed}, more "
                f"than the {written.room} that the language model has beside an answer"
            )

    def _references(self, rows: npt.NDArray[np.int64]) -> tuple[tuple[str, ...], ...]:
        """The reference answers of good rows; empty if metrics compare no texts."""
        of_label = self.references
        return () if of_label is None else tuple(tuple(of_label(label)) for label in self.split.table.labels(rows))

    def stored_view(self, position: int, number: int) -> int | None:
        """Where the store has a view of a row's image; None if it has not."""
        return self._stored("image", position + len(self) * (1 + number))

    def _stored(self, modality: str, position: int | None) -> int | None:
        """`position` if the store has that row's image or text."""
        stored = self.stored.get(modality)
        return position if stored is not None and position is not None and stored.has(position) else None

    def text(self, position: int) -> Tensor:
        """(L,) int64 tokens of the text at `position`; empty without a text."""
        return torch.from_numpy(self.tokens.of(position).astype(np.int64))

    def _candidates(self, position: int) -> tuple[Candidate, ...]:
        return () if position == NOBODY else (Candidate(int(self.split.rows[position]), self.text(position)),)


def missing_images(split: Split, known: Collection[int]) -> dict[int, BadRow]:
    """The rows, by number, whose image file does not exist, except those known to be bad; no image is opened."""
    found: dict[int, BadRow] = {}
    for row in split.rows.tolist():
        for source in () if row in known else split.table.images(row):
            if isinstance(source, str) and not Path(source).exists():
                found.setdefault(row, _bad_image(split.table, row, why_missing(source)))
    return found


def _bad_image(table: Table, row: int, reason: str) -> BadRow:
    source = table.image(row)
    named = reason if isinstance(source, bytes) or not source or source in reason else f"{source}: {reason}"
    return table.bad_row(row, table.columns.image or "", named)
