"""Suspects: rows whose label disagrees with the rows that are most like them.

Each row's neighbours vote for their own labels, in proportion to exp(cosine / 0.15), without the row itself (weighted
nearest neighbours as in Caron et al. 2021, arXiv 2104.14294). A row is a suspect by the rule of confident learning
(Northcutt et al. 2021, arXiv 1911.00068), with the share of the votes as the probability: another label gets at least
the share that it gets on average among its own rows, and more than the row's own. So a frequent label must get more
than a rare one, and rows of rare labels are not suspects merely because most neighbours have other labels. Labels that
neighbours cannot predict are neither judged nor suggested, nor is a label that they cannot tell from the row's own.

Legend: R rows, K neighbours, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmft.reports.audit.neighbours import Neighbours

NEIGHBOURS = 20
"""K; 50 were no better on the rows of clip art."""
FEWEST = 5
"""Rows of a label that is judged."""
_TEMPERATURE = 0.15
_AGREEMENT = 0.1  # what neighbours must predict at least: 0 is chance, 1 all; of numbers, of the variance of ranks
_NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation


class Suspect(NamedTuple):
    """A row and what its neighbours suggest."""

    at: int
    score: float  # higher is worse
    label: str
    suggested: str
    like: int | None  # the nearest row with the suggested label
    detail: str


class Votes(NamedTuple):
    """How the neighbours of each row vote."""

    weight: Tensor  # (R, K) sums to 1; zeros for a row without a neighbour that has a label
    at: Tensor  # (R, K) the neighbours

    @classmethod
    def of(cls, near: Neighbours, labelled: Tensor) -> Votes:
        """Votes of those neighbours that are labelled, (R,) bool."""
        at = near.at.clamp_min(0)
        counts = (near.at >= 0) & labelled[at]
        weight = (near.cosine.masked_fill(~counts, -1.0) / _TEMPERATURE).exp() * counts
        return cls(weight / weight.sum(1, keepdim=True).clamp_min(1e-12), at)


class ClassVotes:
    """The votes on labels of which a row has one.

    Args:
        label: (R,) int64, -1 without one.
        count: C.
        near: among all rows.

    Attributes:
        rows: (C,) number of rows.
        own: (R,) share of the votes for a row's own label.
        theirs: (R, K) labels of the neighbours.
        share: (R, K) share of the votes for each of these.
        average: (C,) mean share of the votes for a label among its own rows.
        mistaken: (R, K) mean share of the votes for each of `theirs` among the rows that have the row's label.
        judged: (C,) bool, True = neighbours predict the label.
    """

    def __init__(self, label: Tensor, count: int, near: Neighbours) -> None:
        self.label, votes = label, Votes.of(near, label >= 0)
        known = label >= 0
        self.rows = torch.bincount(label[known], minlength=count)
        self.theirs = label[votes.at].masked_fill(votes.weight == 0, -1)
        self.own = (votes.weight * (self.theirs == label[:, None])).sum(1)
        self.share = torch.zeros_like(votes.weight)
        for weight, theirs in zip(votes.weight.T, self.theirs.T, strict=True):
            self.share += weight[:, None] * (self.theirs == theirs[:, None])
        self.share.masked_fill_(self.theirs < 0, 0)
        self.at = votes.at
        sums = torch.zeros(count).index_add(0, label[known], self.own[known])
        self.average = sums / self.rows.clamp_min(1)
        pairs = label[:, None].clamp_min(0) * count + self.theirs.clamp_min(0)  # of a row's label and a neighbour's
        _, number = pairs.unique(return_inverse=True)
        votes_of_pair = torch.zeros(int(number.max()) + 1).index_add(
            0, number.flatten(), (votes.weight * known[:, None]).flatten()
        )
        self.mistaken = votes_of_pair[number] / self.rows[label.clamp_min(0)].clamp_min(1)[:, None]
        self.judged = (self.rows >= FEWEST) & _predicted(self.average, self.rows / self.rows.sum().clamp_min(1))

    def suspects(self, names: Sequence[str], least: float) -> Iterator[Suspect]:
        """Yields suspects.

        Args:
            names: of the labels.
            least: share of the votes that a suggested label has at least.
        """
        theirs = self.theirs.clamp_min(0)
        enough = self.share >= self.average.clamp_min(least)[theirs]
        more = self.share > self.own[:, None]
        apart = self.average[theirs] - self.mistaken >= _AGREEMENT
        other = (self.theirs >= 0) & (self.theirs != self.label[:, None]) & self.judged[theirs] & apart
        share = self.share.masked_fill(~(enough & more & other), -1)
        best, place = share.max(1)
        judged = (self.label >= 0) & self.judged[self.label.clamp_min(0)]
        for at in ((best > 0) & judged).nonzero().squeeze(1).tolist():
            label, suggested = names[int(self.label[at])], names[int(theirs[at, place[at]])]
            detail = f"{label!r}, but {best[at]:.0%} of its neighbours' votes are for {suggested!r}"
            score = float(best[at] - self.own[at])
            yield Suspect(at, score, label, suggested, int(self.at[at, place[at]]), detail)

    def winners(self) -> Tensor:
        """(R,) the label with most votes; -1 without one."""
        best, place = self.share.max(1)
        winner = self.theirs.gather(1, place[:, None])[:, 0]
        return winner.masked_fill(best <= 0, -1)


def set_suspects(
    present: Tensor, labelled: Tensor, names: Sequence[str], near: Neighbours, least: float
) -> tuple[list[Suspect], list[str]]:
    """Suspects among labels of which a row has any number, each label by itself.

    Args:
        present: (R, C) bool.
        labelled: (R,) bool, False = the row's labels are unknown.
        names: of the labels.
        near: among all rows.
        least: share of the votes against what a row has or lacks, at least.

    Returns:
        The suspects, and the labels that are not judged.
    """
    votes, found, silent = Votes.of(near, labelled), list[Suspect](), list[str]()
    heard = labelled & (votes.weight.sum(1) > 0)
    for name, column in zip(names, present.T, strict=True):
        share = (votes.weight * column[votes.at]).sum(1)
        with_it, without = heard & column, heard & ~column
        enough = min(int(with_it.sum()), int(without.sum())) >= FEWEST
        if not (enough and _predicted(share[with_it].mean(), column[heard].float().mean())):
            silent.append(name)
            continue
        for there, agree in ((True, 1 - share), (False, share)):  # the votes against what the row has
            mine, others = (with_it, without) if there else (without, with_it)
            against = mine & (agree >= agree[others].mean().clamp_min(least))
            label, suggested = (name, f"without {name}") if there else (f"without {name}", name)
            for at in against.nonzero().squeeze(1).tolist():
                has = "has" if there else "lacks"
                detail = f"{has} {name!r}, but {agree[at]:.0%} of its neighbours' votes are for the opposite"
                like = votes.at[at][(column[votes.at[at]] != there) & (votes.weight[at] > 0)]
                found.append(Suspect(at, float(2 * agree[at] - 1), label, suggested, int(like[0]), detail))
    return found, silent


def number_suspects(values: Tensor, near: Neighbours, least: float) -> list[Suspect] | None:
    """Suspects among numbers: far from the neighbours' median, in robust standard deviations of all rows' distances.

    Args:
        values: (R,) float64, nan without one.
        near: among all rows.
        least: deviations from which on a row is a suspect.

    Returns:
        None if the neighbours do not predict the numbers, or most are equally far from theirs.
    """
    votes = Votes.of(near, values.isfinite())
    middles = _weighted_medians(values.nan_to_num()[votes.at], votes.weight)
    known = values.isfinite() & (votes.weight.sum(1) > 0)
    distance = values - middles
    middle, scale = _middle_and_scale(distance[known])
    if scale == 0 or _rank_correlation(values[known], middles[known]) < math.sqrt(_AGREEMENT):
        return None
    score = ((distance - middle).abs() / scale).masked_fill(~known, 0)
    found = []
    for at in (score >= least).nonzero().squeeze(1).tolist():
        value, suggested = f"{values[at]:.6g}", f"{middles[at]:.6g}"
        detail = f"{value}, but its neighbours' median is {suggested}: {score[at]:.1f} deviations away"
        found.append(Suspect(at, float(score[at]), value, suggested, int(votes.at[at, 0]), detail))
    return found


def pair_suspects(cosine: Tensor, least: float) -> list[Suspect]:
    """Rows whose image and text fit worse than those of others (as by CLIPScore, Hessel et al. 2021, arXiv 2104.08718).

    Args:
        cosine: (R,) of image and text in the space of a pretrained pair, nan where there are not both.
        least: robust standard deviations below the median from which on a row is a suspect.
    """
    known = cosine.isfinite()
    middle, scale = _middle_and_scale(cosine[known])
    if scale == 0:
        return []
    score = ((middle - cosine) / scale).nan_to_num()
    return [
        Suspect(
            at, float(score[at]), "", "", None, f"cosine {cosine[at]:.3f}, {score[at]:.1f} deviations below the median"
        )
        for at in (score >= least).nonzero().squeeze(1).tolist()
    ]


def _predicted(average: Tensor, prior: Tensor) -> Tensor:
    """Whether a label gets more votes from its own rows than by chance, in the manner of Cohen's kappa."""
    return average - prior >= _AGREEMENT * (1 - prior)


def _rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's; equal numbers are ranked in order."""
    ranks = torch.stack([one.argsort(stable=True).argsort(), other.argsort(stable=True).argsort()])
    return float(torch.corrcoef(ranks.double())[0, 1])


def _weighted_medians(values: Tensor, weight: Tensor) -> Tensor:
    """Values and their weights (R, K) -> (R,); a mean would follow a single wrong number among the neighbours."""
    ordered, order = values.sort(1)
    share = weight.gather(1, order).cumsum(1)
    at = (share >= share[:, -1:] / 2).int().argmax(1, keepdim=True)
    return ordered.gather(1, at).squeeze(1)


def _middle_and_scale(values: Tensor) -> tuple[float, float]:
    """Median, and standard deviation by the median absolute deviation; zeros without values."""
    if not len(values):
        return 0.0, 0.0
    middle = values.median()
    return float(middle), _NORMAL * float((values - middle).abs().median())
