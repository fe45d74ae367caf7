"""Near duplicates: rows whose images, or texts, the encoders can hardly tell apart, within a split and across splits.

Rows with the very same image or text are found without features (`duplicates.py`) and left out here.

Legend: R rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mmft.data.splitting.names import is_tested
from mmft.reports.audit.feature_rows import FeatureRows
from mmft.reports.audit.finding import Finding
from mmft.reports.audit.neighbours import nearest

_CANDIDATES = 8  # per row and earlier split: the nearest may have the row's label, and a later one another
_SHOWN = 60  # characters of a text
Labels = Sequence[Mapping[str, frozenset[str]]]
"""The label names of every row, by label column; empty without a usable label."""


class _Near(NamedTuple):
    """A row, and an earlier one."""

    cosine: float
    at: int
    other: int


def near_duplicates(rows: FeatureRows, least: Mapping[str, float], labels: Labels) -> list[Finding]:
    """All findings `near label conflict`, `near leak` and `near duplicate`, the most similar of each first.

    A row is compared with those before it, in the order train, val, test; test tables not with one another. It is
    reported once per kind and modality, with the most similar row. Within a split, and for labels, texts count only
    where one of both rows has no image: many rows may say the same of different images.

    Args:
        rows: of all splits.
        least: cosine of near duplicates, by modality.
        labels: of every row.
    """
    found = []
    for modality in rows.modalities:
        near = sorted(_pairs(rows, modality, least[modality]), key=lambda pair: (-pair.cosine, pair.at, pair.other))
        seen: set[tuple[str, int]] = set()
        for pair in near:
            for kind in _kinds(rows, modality, pair, labels):
                if (kind, pair.at) not in seen:
                    seen.add((kind, pair.at))
                    found.append(_finding(rows, modality, kind, pair, labels))
    return sorted(found, key=lambda finding: -(finding.score or 0))


def _kinds(rows: FeatureRows, modality: str, pair: _Near, labels: Labels) -> Iterator[str]:
    whole = modality == "image" or not _both_have_images(rows, pair)
    if whole and _other_labels(pair, labels):
        yield "near label conflict"
        if rows.split[pair.at] == rows.split[pair.other]:
            return
    if rows.split[pair.at] != rows.split[pair.other]:
        yield "near leak"
    elif whole:
        yield "near duplicate"


def _both_have_images(rows: FeatureRows, pair: _Near) -> bool:
    images = rows.modalities.get("image")
    return images is not None and bool(images.there[[pair.at, pair.other]].all())


def _pairs(rows: FeatureRows, modality: str, least: float) -> Iterator[_Near]:
    """Pairs of rows of different content with at least this cosine, the later one first."""
    content, features = rows.modalities[modality].content, rows.modalities[modality].features
    copies = [_by_content(content, rows.split == number) for number in range(len(rows.names))]
    firsts = [torch.tensor([same[0] for same in known.values()], dtype=torch.int64) for known in copies]
    for number, name in enumerate(rows.names):
        for earlier in range(number + 1):
            if earlier != number and is_tested(name) and is_tested(rows.names[earlier]):
                continue
            mine, theirs = firsts[number], firsts[earlier]
            if earlier != number:
                mine = mine[~torch.isin(content[mine], content[theirs])]
            among: Literal["all", "earlier"] = "earlier" if earlier == number else "all"
            near = nearest(features[mine], features[theirs], _CANDIDATES, least, among)
            for at, place in (near.at >= 0).nonzero().tolist():
                other = int(theirs[near.at[at, place]])
                for copy in copies[number][int(content[mine[at]])]:
                    yield _Near(float(near.cosine[at, place]), copy, other)


def _by_content(content: Tensor, inside: Tensor) -> dict[int, list[int]]:
    """The rows `inside` (R,) bool by content, in order."""
    found: dict[int, list[int]] = {}
    for at in (inside & (content >= 0)).nonzero().squeeze(1).tolist():
        found.setdefault(int(content[at]), []).append(at)
    return found


def _other_labels(pair: _Near, labels: Labels) -> tuple[str, str] | None:
    """Both rows' labels in the first column where they differ; None if they agree."""
    one, other = labels[pair.at], labels[pair.other]
    for column in one:
        if column in other and one[column] != other[column]:
            return ", ".join(sorted(one[column])), ", ".join(sorted(other[column]))
    return None


def _finding(rows: FeatureRows, modality: str, kind: str, pair: _Near, labels: Labels) -> Finding:
    detail, shown = f"{modality} {pair.cosine:.2f}", _other_labels(pair, labels) or ("", "")
    if modality == "text":
        one, other = (rows.text(at)[:_SHOWN] for at in (pair.at, pair.other))
        detail += f" {one!r} and {other!r}"
    if any(shown):
        detail += f"; labels {shown[0]!r} and {shown[1]!r}"
    return rows.finding(kind, pair.at, pair.other, detail, pair.cosine, *shown)
