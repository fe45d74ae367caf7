"""Finds rows that resemble others: within a split, and across splits."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mmft.data.splitting.names import is_tested
from mmft.data.splitting.splits import Split
from mmft.reports.audit.finding import Finding
from mmft.reports.audit.images import Prints, nearest_images
from mmft.reports.audit.texts import nearest_texts, normalised

LEVELS = 8.0
"""Of 255: thumbnails of similar images differ by less. On the shipped clip art, recoloured images differ by more
than 10, redrawn ones by less than 7."""


class Content(NamedTuple):
    """A split's rows, prepared for comparison.

    Attributes:
        split: the rows.
        prints: its images' fingerprints; None if images are not compared.
        texts: normalised, by position; empty without a text.
        labels: by position.
        bad: numbers of rows to skip.
    """

    split: Split
    prints: Prints | None
    texts: list[str]
    labels: list[Any]
    bad: frozenset[int]

    @classmethod
    def of(cls, split: Split, prints: Prints | None, bad: frozenset[int]) -> Content:
        """Prepares a split."""
        texts = [normalised(text) for text in split.table.texts(split.rows)]
        kept = ["" if row in bad else text for row, text in zip(split.rows.tolist(), texts, strict=True)]
        return cls(split, prints, kept, split.table.labels(split.rows), bad)

    def whole(self, position: int) -> tuple[bytes, str] | None:
        """Image and text of a row; None if it is bad or has nothing to compare."""
        if int(self.split.rows[position]) in self.bad:
            return None
        key = (b"" if self.prints is None else self.prints.digests[position], self.texts[position])
        return key if any(key) and not self._blank(position) else None

    def _blank(self, position: int) -> bool:
        """Whether the row is a single-colour image without text, which cannot be compared."""
        return self.prints is not None and bool(self.prints.blank[position]) and not self.texts[position]


def find_alike(contents: Mapping[str, Content], picture_bits: int, text_likeness: float) -> Iterator[Finding]:
    """Yields all findings `duplicate`, `label conflict`, `leak`, `same ...` and `similar ...`.

    A row of `val` or `test` is reported once for its image and once for its text, with the most similar row of the
    earliest split; a leak is reported as such only. Test tables are not compared with one another: they may show the
    same rows under other conditions.

    Args:
        contents: by split, in the order train, val, test.
        picture_bits: bits of 256 by which the perceptual hashes of similar images may differ.
        text_likeness: minimum likeness of similar texts.
    """
    leaks: dict[str, set[int]] = {name: set() for name in contents}
    yield from _same_rows(contents, leaks)
    names = list(contents)
    for at, name in enumerate(names):
        before = [earlier for earlier in names[:at] if not (is_tested(name) and is_tested(earlier))]
        seen_images, seen_texts = set(leaks[name]), set(leaks[name])
        for earlier in before:
            pair = _Pair(name, contents[name], earlier, contents[earlier])
            yield from pair.same_images(seen_images)
            yield from pair.same_texts(seen_texts)
        for earlier in before:
            pair = _Pair(name, contents[name], earlier, contents[earlier])
            yield from pair.similar_images(seen_images, picture_bits)
            yield from pair.similar_texts(seen_texts, text_likeness)


def _same_rows(contents: Mapping[str, Content], leaks: dict[str, set[int]]) -> Iterator[Finding]:
    known: dict[tuple[bytes, str], tuple[str, int]] = {}
    for name, content in contents.items():
        first = ChainMap({}, known) if is_tested(name) else known
        for position in range(len(content.split)):
            key = content.whole(position)
            if key is None:
                continue
            other_name, other = first.setdefault(key, (name, position))
            if (other_name, other) == (name, position):
                continue
            pair = _Pair(name, content, other_name, contents[other_name])
            label, other_label = content.labels[position], contents[other_name].labels[other]
            if label != other_label:
                yield pair.finding("label conflict", position, other, f"{label!r} and {other_label!r}")
            elif name == other_name:
                yield pair.finding("duplicate", position, other)
            if name != other_name:
                leaks[name].add(position)
                yield pair.finding("leak", position, other)


class _Pair(NamedTuple):
    """A split and an earlier one."""

    name: str
    content: Content
    other_name: str
    other: Content

    def finding(self, kind: str, position: int, other_position: int, detail: str = "") -> Finding:
        table, other_table = self.content.split.table, self.other.split.table
        row, other_row = int(self.content.split.rows[position]), int(self.other.split.rows[other_position])
        place, other_place = (row, table.id(row)), (other_row, other_table.id(other_row))
        return Finding(kind, self.name, *place, self.other_name, *other_place, detail)

    def same_images(self, seen: set[int]) -> Iterator[Finding]:
        if self.content.prints is None or self.other.prints is None:
            return
        places = {d: at for at, d in reversed(list(enumerate(self.other.prints.digests))) if d}
        for position, digest in enumerate(self.content.prints.digests):
            if digest in places and position not in seen and self.content.prints.comparable[position]:
                seen.add(position)
                yield self.finding("same image", position, places[digest])

    def similar_images(self, seen: set[int], bits: int) -> Iterator[Finding]:
        if self.content.prints is None or self.other.prints is None:
            return
        for position, other, distance in nearest_images(self.content.prints, self.other.prints, bits, LEVELS):
            if position not in seen:
                seen.add(position)
                yield self.finding("similar image", position, other, f"{distance} of 256 bits differ")

    def same_texts(self, seen: set[int]) -> Iterator[Finding]:
        places = {text: at for at, text in reversed(list(enumerate(self.other.texts))) if text}
        for position, text in enumerate(self.content.texts):
            if text in places and position not in seen:
                seen.add(position)
                yield self.finding("same text", position, places[text], repr(text[:60]))

    def similar_texts(self, seen: set[int], least: float) -> Iterator[Finding]:
        for position, other, score in nearest_texts(self.content.texts, self.other.texts, least):
            if position not in seen:
                seen.add(position)
                both = f"{self.content.texts[position][:60]!r} and {self.other.texts[other][:60]!r}"
                yield self.finding("similar text", position, other, f"{score:.2f} {both}")
