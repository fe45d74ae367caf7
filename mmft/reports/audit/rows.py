"""All checks of rows: bad ones, unusual images, truncated texts, similar rows, groups across splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mmft.batch import BadRow
from mmft.config.schema.audit import AuditConfig
from mmft.config.schema.data import DataConfig
from mmft.data.bad_rows import BadRows
from mmft.data.images.image import ImageReader, background_of
from mmft.data.images.squares import squaring
from mmft.data.loading import unread
from mmft.data.splitting.splits import Split, different, groups_of_earlier_splits
from mmft.data.table import in_no_split
from mmft.data.targets import Encode, encode_targets
from mmft.data.text import tokenize
from mmft.reports.audit.duplicates import Content, find_alike
from mmft.reports.audit.finding import Finding
from mmft.reports.audit.images import Prints, scan
from mmft.reports.audit.lengths import text_lengths


class RowAudit:
    """Checks the rows of all splits.

    Args:
        splits: by name, in the order train, val, test.
        config: the keys below `data`.
        audit: which checks to run.
        image_size: side of the model's input images, in pixels.
        encode: the fitted task's; None skips the labels.

    Attributes:
        bad: unusable rows; those with a bad image are known after `images`.
        facts: one line on texts and one on images, by name.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        config: DataConfig,
        audit: AuditConfig,
        image_size: int,
        encode: Encode | None,
    ) -> None:
        self.splits, self.config, self.audit, self.image_size = different(splits), config, audit, image_size
        self.facts: dict[str, str] = {}
        self.prints: dict[str, Prints] = {}
        self._bad = {name: self._known_bad(name, split, encode) for name, split in self.splits.items()}
        self._nowhere = [("", row) for row in in_no_split(split.table for split in self.splits.values())]

    @staticmethod
    def _known_bad(name: str, split: Split, encode: Encode | None) -> dict[int, BadRow]:
        """Rows of the split with a bad table entry or label, by number."""
        labels = {} if encode is None else encode_targets(split, encode, evaluated=name != "train")[1]
        return labels | {bad.row: bad for bad in split.table.bad_among(split.rows)}

    @property
    def rows(self) -> int:
        """Number of rows in all splits."""
        return sum(map(len, self.splits.values()))

    @property
    def bad(self) -> list[tuple[str, BadRow]]:
        """Every bad row with its split's name; empty if its split is unknown."""
        return self._nowhere + [(name, row) for name, rows in self._bad.items() for row in rows.values()]

    @property
    def bad_rows(self) -> BadRows:
        """The bad rows, of all rows that were read."""
        found = BadRows(self.rows + len(self._nowhere), self.config.max_bad_fraction)
        found.add(row for _, row in self.bad)
        return found

    def images(self, tick: Callable[[int], None]) -> None:
        """Opens every image, unless `audit.pictures` is false.

        Args:
            tick: called with the number of rows done since the last call.
        """
        if not self.audit.pictures:
            return
        how = (squaring(self.config).resize, background_of(self.config))
        reader = ImageReader(self.image_size, *how, self.config.max_pixels)
        for name, split in self.splits.items():
            self.prints[name] = scan(split, reader, self._bad[name], self.config.num_workers, tick)
            self._bad[name] |= {row.row: row for row in self.prints[name].bad}
        sides = np.concatenate([prints.sides[prints.sides > 0] for prints in self.prints.values()])
        if len(sides):
            spread = f"{sides.min()} to {sides.max()} pixels, median {np.median(sides):.0f}"
            self.facts["images"] = f"{len(sides):,}; shorter side: {spread}; the model sees {self.image_size}"

    def findings(self, tokenizer: Any, max_length: int) -> Iterator[Finding]:
        """Yields all findings, bad rows first.

        Args:
            tokenizer: a tokenizer of transformers; None skips the lengths of texts.
            max_length: maximum number of tokens per text.
        """
        if tokenizer is not None:
            self._find_unread(tokenizer, max_length)
        for name, row in self.bad:
            yield Finding("bad row", name, row.row, row.id, detail=row.why)
        yield from self._odd_images()
        if tokenizer is not None:
            yield from self._cut_texts(tokenizer, max_length)
        contents = {
            name: Content.of(split, self.prints.get(name), frozenset(self._bad[name]))
            for name, split in self.splits.items()
        }
        yield from find_alike(contents, self.audit.picture_bits, self.audit.text_likeness)
        for name, position, other in groups_of_earlier_splits(self.splits):
            yield _finding("group in two splits", name, self.splits[name], position, f"also in {other}")

    def _odd_images(self) -> Iterator[Finding]:
        for name, prints in self.prints.items():
            for position in np.flatnonzero(prints.blank).tolist():
                yield _finding("blank image", name, self.splits[name], position)
            for position in np.flatnonzero((prints.sides > 0) & (prints.sides < self.image_size / 4)).tolist():
                yield _finding("small image", name, self.splits[name], position, f"{prints.sides[position]} pixels")

    def _find_unread(self, tokenizer: Any, limit: int) -> None:
        """Adds the conversations that cannot be read, or not as a whole."""
        for name, split in self.splits.items():
            if split.table.columns.messages is not None:
                tokens = tokenize(split.table.prompts(split.rows), tokenizer, limit)
                self._bad[name] = unread(split, tokens) | self._bad[name]

    def _cut_texts(self, tokenizer: Any, limit: int) -> Iterator[Finding]:
        lengths = {
            name: text_lengths(split, tokenizer)
            for name, split in self.splits.items()
            if split.table.columns.messages is None
        }
        if not lengths:
            return
        every = np.concatenate(list(lengths.values()))
        every = every[every > 0]
        if len(every):
            cut = f"truncates {(every > limit).mean():.1%}" if (every > limit).any() else "truncates none"
            spread = f"median {np.median(every):.0f}, 99 % within {np.quantile(every, 0.99):.0f}, longest {every.max()}"
            self.facts["texts"] = f"{len(every):,}; tokens: {spread}; model.text_encoder.max_length={limit} {cut}"
        for name, counts in lengths.items():
            for position in np.flatnonzero(counts > limit).tolist():
                yield _finding("cut text", name, self.splits[name], position, f"{counts[position]} tokens")


def _finding(kind: str, name: str, split: Split, position: int, detail: str = "") -> Finding:
    row = int(split.rows[position])
    return Finding(kind, name, row, split.table.id(row), detail=detail)
