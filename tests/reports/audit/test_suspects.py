"""Suspects: a planted wrong label comes first, rare labels are not suspects for being rare, noise is not judged."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmft.reports.audit.neighbours import Neighbours, nearest
from mmft.reports.audit.suspects import NEIGHBOURS, ClassVotes, number_suspects, pair_suspects, set_suspects


def clusters(*sizes: int, spread: float = 0.15) -> tuple[Neighbours, Tensor]:
    """Rows around one direction each, the neighbours of all, and which cluster each is in."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    noise = torch.randn(len(label), 16, generator=generator)
    vectors = functional.normalize(torch.eye(len(sizes), 16)[label] + spread * noise, dim=1)
    return nearest(vectors, vectors, NEIGHBOURS, among="others"), label


def test_a_planted_wrong_label_is_the_only_suspect() -> None:
    near, label = clusters(40, 40, 40)
    assert not list(ClassVotes(label, 3, near).suspects("abc", 0.5))
    label[50] = 2
    (found,) = ClassVotes(label, 3, near).suspects("abc", 0.5)
    assert (found.at, found.label, found.suggested) == (50, "c", "b")
    assert found.score > 0.8
    assert label[found.like] == 1


def test_a_rare_label_is_no_suspect_for_being_rare() -> None:
    near, label = clusters(300, 12)
    votes = ClassVotes(label, 2, near)
    assert votes.judged.all()
    assert not list(votes.suspects("ab", 0.5))
    scattered = torch.zeros(312, dtype=torch.int64)
    scattered[::26] = 1  # as rare, but without anything in common
    votes = ClassVotes(scattered, 2, near)
    assert not votes.judged[1]
    assert not list(votes.suspects("ab", 0.5))
    few = torch.zeros(312, dtype=torch.int64)
    few[300:304] = 1  # in common, but fewer than can be judged
    assert not ClassVotes(few, 2, near).judged[1]


def test_labels_that_look_alike_are_not_suggested_for_one_another() -> None:
    near, label = clusters(80, 40)
    drawn = torch.randint(2, (120,), generator=torch.Generator().manual_seed(0))
    label = torch.where(label == 0, drawn, 2)  # 0 and 1 have nothing that tells them apart
    votes = ClassVotes(label, 3, near)
    assert votes.judged.all()
    assert not list(votes.suspects("abc", 0.5))
    label[90] = 1
    (found,) = ClassVotes(label, 3, near).suspects("abc", 0.5)
    assert (found.at, found.suggested) == (90, "c")


def test_random_labels_are_not_judged() -> None:
    near, label = clusters(100, 100, 100)
    shuffled = label[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    votes = ClassVotes(shuffled, 3, near)
    assert not votes.judged.any()
    assert not list(votes.suspects("abc", 0.5))


def test_rows_without_a_label_neither_vote_nor_are_suspects() -> None:
    near, label = clusters(40, 40)
    label[50] = 0
    label[:30] = -1
    (found,) = ClassVotes(label, 2, near).suspects("ab", 0.5)
    assert found.at == 50
    assert not list(ClassVotes(torch.full_like(label, -1), 2, near).suspects("ab", 0.5))


def test_labels_of_which_a_row_has_several_are_judged_by_themselves() -> None:
    near, label = clusters(40, 40, 40)
    present = torch.stack([label == 0, label != 0, torch.zeros_like(label, dtype=torch.bool)], dim=1)
    labelled = torch.ones_like(label, dtype=torch.bool)
    assert set_suspects(present, labelled, "abc", near, 0.5) == ([], ["c"])
    present[3, 0], present[3, 1] = True, True
    present[70, 1] = False
    found = {(one.at, one.label, one.suggested) for one in set_suspects(present, labelled, "abc", near, 0.5)[0]}
    assert found == {(3, "b", "without b"), (70, "without b", "b")}


def test_numbers_far_from_those_of_the_neighbours() -> None:
    near, label = clusters(60, 60)
    noise = torch.randn(120, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = 10.0 * label + noise
    assert number_suspects(values, near, 5.0) == []
    values[7], values[8] = 10.0, torch.nan
    (found,) = number_suspects(values, near, 5.0) or []
    assert (found.at, found.label) == (7, "10")
    assert abs(float(found.suggested)) < 1
    values[20] = 5000.0  # accuses none of its neighbours
    assert {one.at for one in number_suspects(values, near, 5.0) or []} == {7, 20}
    assert number_suspects(noise, near, 5.0) is None
    assert number_suspects(torch.ones(120, dtype=torch.float64), near, 5.0) is None


def test_pairs_that_fit_worse_than_others() -> None:
    cosine = 0.3 + 0.02 * torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert not pair_suspects(cosine, 4.0)
    cosine[5], cosine[6] = 0.1, torch.nan
    assert [one.at for one in pair_suspects(cosine, 4.0)] == [5]
    assert not pair_suspects(torch.full((3,), torch.nan), 4.0)
