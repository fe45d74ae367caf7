"""`audit_features`: what `mmft check features=true` finds in the features of the rows.

Legend: R rows, K neighbours, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmft.config.schema.audit import AuditConfig
from mmft.reports.aligned import aligned
from mmft.reports.audit.feature_rows import FeatureRows
from mmft.reports.audit.finding import Finding
from mmft.reports.audit.labels import MOST
from mmft.reports.audit.near_duplicates import near_duplicates
from mmft.reports.audit.neighbours import Neighbours, nearest
from mmft.reports.audit.suspects import (
    FEWEST,
    NEIGHBOURS,
    ClassVotes,
    Suspect,
    number_suspects,
    pair_suspects,
    set_suspects,
)
from mmft.tasks.base import Task
from mmft.tasks.labels import in_order, shown
from mmft.tasks.numbers import numbers_of


class FeatureFindings(NamedTuple):
    """What was found.

    Attributes:
        findings: suspects and near duplicates, the worst of each kind first.
        tables: how well labels are separated, and which are not judged, by title.
    """

    findings: list[Finding]
    tables: dict[str, str]


def audit_features(rows: FeatureRows, task: Task, audit: AuditConfig, known: Sequence[Finding] = ()) -> FeatureFindings:
    """Finds near duplicates and suspects, and tells how well labels are separated.

    Suspects are judged by the rows of all splits.

    Args:
        rows: of all splits.
        task: fitted.
        audit: thresholds.
        known: found without features; blank images are not compared.
    """
    rows = rows.without_images({(one.split, one.row) for one in known if one.kind == "blank image"})
    near, labels = _neighbours(rows), rows.labels()
    found = FeatureFindings([], {})
    names: list[dict[str, frozenset[str]]] = [{} for _ in labels]
    for column, part in task.parts.items():
        given = [label[column] if column and label is not None else label for label in labels]
        judge = _Judge(rows, near, audit, column, found)
        if part.captions_of is None and part.facts.needs_both:
            judge.pairs(part, given)
        elif part.captions_of is None and part.facts.predicts_numbers:
            judge.numbers(given)
        else:
            judge.names(part, given, names)
    least = {"image": audit.image_cosine, "text": audit.text_cosine}
    found.findings.extend(near_duplicates(rows, least, names))
    return found


def _neighbours(rows: FeatureRows) -> Neighbours:
    """Of every row, among all others, by image and text together."""
    cosine = torch.full((len(rows), NEIGHBOURS), -torch.inf)
    at = torch.full(cosine.shape, -1)
    usable = rows.there.nonzero().squeeze(1)
    features = rows.together()[usable]
    near = nearest(features, features, NEIGHBOURS, among="others")
    cosine[usable] = near.cosine
    at[usable] = torch.where(near.at >= 0, usable[near.at.clamp_min(0)], -1)
    return Neighbours(cosine, at)


class _Judge(NamedTuple):
    """Judges the labels of one task.

    Attributes:
        rows: of all splits.
        near: neighbours of every row.
        audit: thresholds.
        column: the label column, if several tasks have one each; else "".
        found: is added to.
    """

    rows: FeatureRows
    near: Neighbours
    audit: AuditConfig
    column: str
    found: FeatureFindings

    def pairs(self, part: Task, labels: Sequence[Any]) -> None:
        """Images and texts that do not fit; labels of a task of pairs may say that they do not."""
        cosine = self.rows.pair_cosine
        if cosine is not None and (part.facts.pairwise or all(label is None for label in labels)):
            self._add(pair_suspects(cosine, self.audit.suspect_deviations), "mismatched pair")

    def numbers(self, labels: Sequence[Any]) -> None:
        """Numbers far from those of the neighbours."""
        given = [_numbers(label) if there else {} for label, there in zip(labels, self._there, strict=True)]
        targets = list(next(filter(None, given), {}))
        for target in targets:
            values = torch.tensor([one.get(target, torch.nan) for one in given], dtype=torch.float64)
            suspects = number_suspects(values, self.near, self.audit.suspect_deviations)
            if suspects is None:
                self._tell("not judged", f"{target or 'the numbers'}: neighbours do not predict them")
            self._add(suspects or [], of=target)

    def names(self, part: Task, labels: Sequence[Any], into: list[dict[str, frozenset[str]]]) -> None:
        """Labels with names; those of each row are added to `into`."""
        known = [_names(part, label) if there else None for label, there in zip(labels, self._there, strict=True)]
        for names, one in zip(into, known, strict=True):
            if one is not None:
                names[self.column] = frozenset(one)
        if part.facts.independent_labels:
            every = part.output_names
            present = torch.tensor([[name in (one or ()) for name in every] for one in known])
            labelled = torch.tensor([one is not None for one in known])
            found, silent = set_suspects(present, labelled, every, self.near, self.audit.suspect_share)
            self._add(found)
            self._tell_silent(silent)
            return
        first = [one[0] if one else None for one in known]  # of several answers, the most frequent
        every = in_order({name for name in first if name is not None})
        if not every:
            return
        index = {name: number for number, name in enumerate(every)}
        label = torch.tensor([-1 if name is None else index[name] for name in first])
        votes = ClassVotes(label, len(every), self.near)
        self._add(votes.suspects(every, self.audit.suspect_share))
        self._tell("separation", _separation(self.rows.together(), votes, every))
        self._tell_silent([every[number] for number in (~votes.judged).nonzero().squeeze(1).tolist()])

    @property
    def _there(self) -> list[bool]:
        there: list[bool] = self.rows.there.tolist()
        return there

    def _add(self, suspects: Iterator[Suspect] | Sequence[Suspect], kind: str = "suspect", of: str = "") -> None:
        """Adds findings, worst first."""
        named = f"{self.column or of}: " if self.column or of else ""
        for one in sorted(suspects, key=lambda one: (-one.score, one.at)):
            detail = f"{named}{one.detail}"
            self.found.findings.append(
                self.rows.finding(kind, one.at, one.like, detail, one.score, one.label, one.suggested)
            )

    def _tell_silent(self, labels: Sequence[str]) -> None:
        if labels:
            why = f"neighbours do not predict these labels, or they have fewer than {FEWEST} rows"
            self._tell("not judged", f"{shown(labels)}: {why}")

    def _tell(self, title: str, text: str) -> None:
        title = f"{title} of {self.column}" if self.column else title
        before = self.found.tables.get(title)
        self.found.tables[title] = text if before is None else f"{before}\n{text}"


def _separation(features: Tensor, votes: ClassVotes, names: Sequence[str]) -> str:
    """One line per label, most frequent first: mean distance of its rows from their centre, and the nearest label."""
    known = votes.label >= 0
    sums = torch.zeros(len(names), features.shape[1]).index_add(0, votes.label[known], features[known])
    centres = functional.normalize(sums, dim=1)  # (C, D)
    between = (centres @ centres.T).fill_diagonal_(-torch.inf)
    winner = votes.winners()
    header = ["label", "rows", "distance", "nearest label", "rows like it"]
    lines = []
    for label in votes.rows.argsort(descending=True, stable=True)[:MOST].tolist():
        own = votes.label == label
        others = functional.normalize(sums[label] - features[own], dim=1)  # each row's centre is without itself
        distance = 1 - float((features[own] * others).sum(1).mean())
        nearby = int(between[label].argmax())
        alike = int((own & (winner == nearby)).sum()) if len(names) > 1 else 0
        shares = f"{alike:,} ({alike / int(votes.rows[label]):.1%})"
        lines.append([names[label], f"{votes.rows[label]:,}", f"{distance:.2f}", names[nearby], shares])
    rest = [f"({len(names) - MOST} more labels)", "", "", "", ""]
    return aligned([header, *lines, *([rest] if len(names) > MOST else [])], right=(1, 2, 4))


def _numbers(label: Any) -> dict[str, float]:
    try:
        return numbers_of(label)
    except ValueError:
        return {}


def _names(part: Task, label: Any) -> list[str] | None:
    try:
        return list(part.label_names(label))
    except ValueError:
        return None
