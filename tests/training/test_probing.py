"""`tune=probe` on made-up features: the optimum of the loss, brute-force neighbours, the choice of strength."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmft.batch import Outputs
from mmft.models.nearest_neighbours import COSINE, NearestNeighbours, nearest
from mmft.tasks.base import Task
from mmft.tasks.classification import Classification
from mmft.tasks.multi_label import MultiLabel
from mmft.tasks.question_answering import QuestionAnswering
from mmft.tasks.regression import Regression
from mmft.training.linear_head import STRENGTHS, Axes, Labelled, Linear, Standardised, metric_of, solve_path
from mmft.training.probing import LinearProbe, NeighbourProbe, choose, contradicted, cross_validated

R, F, IMAGE = 90, 7, 3  # rows, width of the features, of which those of images
NAMES = ["a", "b", "c"]


def _made(name: str) -> tuple[Task, Labelled]:
    """A fitted task and rows whose labels depend on their features; one feature is constant, one hardly varies."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(R, F, generator=draw, dtype=torch.float64) * torch.logspace(2, -3, F).double() + 5
    features[:, 2] = 3.0
    score = ((features - features.mean(0)) / features.std(0).clamp_min(1e-9))[:, [0, 1, 5]]
    score = score + torch.randn(R, 3, generator=draw)
    best = [NAMES[k] for k in score.argmax(1).tolist()]
    some = ["|".join(n for n, s in zip(NAMES, row, strict=True) if s > 0) or "a" for row in score.tolist()]
    made: dict[str, tuple[Task, list[Any]]] = {
        "classification": (Classification(), best),
        "weighted": (Classification(class_weights="balanced", label_smoothing=0.1), best),
        "focal": (Classification(loss="focal"), best),
        "multi_label": (MultiLabel(pos_weight="balanced", label_smoothing=0.1), some),
        "regression": (Regression(), [{"p": a, "q": b - a} for a, b, _ in score.tolist()]),
        "huber": (Regression(loss="huber"), [a + b for a, b, _ in score.tolist()]),
        "answers": (QuestionAnswering(), some),
        "one_answer": (QuestionAnswering(loss="cross_entropy"), some),
    }
    task, labels = made[name]
    task.fit(labels)
    target = torch.stack([torch.as_tensor(task.encode(label)) for label in labels])
    weight = torch.rand(R, generator=draw) + 0.5
    return task, Labelled(features, target, weight)


TASKS = ["classification", "weighted", "focal", "multi_label", "regression", "huber", "answers", "one_answer"]


def _penalised(task: Task, rows: Labelled, head: Linear, strength: float) -> Tensor:
    """The loss by its definition, on standardised features in their own coordinates."""
    standard = Standardised.of(rows.features)
    logits = head(standard(rows.features))
    loss = task.loss_sum(Outputs(logits, logits, logits), rows.batch()) / task.normaliser(rows.batch())
    return loss + 0.5 * strength * head.weight.square().sum()


@pytest.mark.parametrize("strength", [1.0, 0.01, 1e-4])
@pytest.mark.parametrize("name", TASKS)
def test_the_solution_is_the_optimum(name: str, strength: float) -> None:
    task, rows = _made(name)
    axes = Axes(rows.features)
    along = rows._replace(features=axes.along(rows.features))
    (found,) = solve_path(task, along, axes.variances, [strength])
    own = Linear((found.weight @ axes.axes.T).requires_grad_(), found.bias.requires_grad_())
    _penalised(task, rows, own, strength).backward()
    for part in own:
        assert part.grad is not None
        assert part.grad.norm() < 1e-5


def test_ridge_regression_is_that_of_the_closed_form() -> None:
    task, rows = _made("regression")
    probe = LinearProbe(task, rows, IMAGE)
    head = nn.Linear(F, 2).double()
    probe.solve(0.1, head)
    x, w = Standardised.of(rows.features)(rows.features), rows.weight.double()[:, None]
    both = torch.cat([x, torch.ones(R, 1)], 1)
    penalty = torch.eye(F + 1).double() * 0.1
    penalty[F, F] = 0
    normal = both.T @ (w * both) / w.sum() + penalty  # the mean over two targets halves the square's factor of 2
    expected = both @ torch.linalg.solve(normal, both.T @ (w * rows.target.double()) / w.sum())
    assert torch.allclose(head(rows.features), expected, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_the_folded_head_predicts_the_same_from_the_features_as_they_are(name: str) -> None:
    task, rows = _made(name)
    probe = LinearProbe(task, rows, IMAGE)
    head = nn.Linear(F, task.width)
    probe.solve(0.03, head)
    (outputs,) = probe.outputs(torch.ones(R, dtype=torch.bool), rows, [0.03])
    assert (head(rows.features.float()) - outputs).abs().max() < 0.05 * outputs.std()
    assert not head.weight[:, 2].any()  # of the constant feature


def test_weaker_penalties_fit_the_training_rows_better() -> None:
    task, rows = _made("classification")
    probe = LinearProbe(task, rows, IMAGE)
    losses = [metric_of(task, o, rows, "loss") for o in probe.outputs(torch.ones(R, dtype=torch.bool), rows, STRENGTHS)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 1.05 > 0.9 > losses[-1]


def _brute_force(probe: NeighbourProbe, query: Tensor, count: int, temperature: float) -> Tensor:
    """(C,) the mean vote for one query, row by row."""

    def near_to(row: Tensor) -> float:
        sides = (slice(None, IMAGE), slice(IMAGE, None))
        return sum(float(functional.cosine_similarity(row[side], query[side], dim=0)) for side in sides) / 2

    near = [near_to(row) for row in probe.rows.features]
    order = sorted(range(R), key=lambda at: -near[at])[:count]
    votes = probe.task.votes(probe.rows.target).double()
    share = [math.exp(near[at] / temperature) * float(probe.rows.weight[at]) for at in order]
    return sum(s * votes[at] for s, at in zip(share, order, strict=True)) / sum(share)  # type: ignore[return-value]


@pytest.mark.parametrize(("count", "temperature"), [(1, math.inf), (5, math.inf), (20, COSINE)])
@pytest.mark.parametrize("name", ["classification", "multi_label", "regression", "answers", "one_answer"])
def test_neighbours_are_those_of_a_brute_force_search(name: str, count: int, temperature: float) -> None:
    task, rows = _made(name)
    probe = NeighbourProbe(task, rows, IMAGE)
    head = NearestNeighbours(F, task.width, task.outputs_of_votes).double()
    probe.solve((count, temperature), head)
    queries = rows.features[:10] + 0.1
    expected = torch.stack([_brute_force(probe, query, count, temperature) for query in queries])
    assert torch.allclose(
        head(queries).double().sigmoid(), task.outputs_of_votes(expected).double().sigmoid(), atol=1e-3
    )
    (outputs,) = probe.outputs(torch.ones(R, dtype=torch.bool), rows.where(torch.arange(10)), [(count, temperature)])
    assert torch.allclose(outputs.double(), head(rows.features[:10]).double(), atol=1e-4)


def test_neighbours_vote_by_their_nearness() -> None:
    rows = functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.4], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]]), dim=1)
    votes = functional.one_hot(torch.tensor([0, 0, 1, 1, 1]))
    found = nearest(rows, rows[[0, 2]], 20).mean_votes(votes, torch.ones(5), 20, COSINE)
    assert found.argmax(1).tolist() == [0, 1]  # three of the other class are farther away


def test_equally_near_rows_are_taken_in_order_in_whatever_batch() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = functional.normalize(torch.randn(5, 33, generator=draw), dim=1)[torch.arange(101) % 5]
    queries = functional.normalize(torch.randn(301, 33, generator=draw), dim=1)
    together = nearest(rows, queries, 7).row
    alone = torch.cat([nearest(rows, query[None], 7).row for query in queries])
    assert torch.equal(together, alone)
    assert torch.equal(together.sort(1).values, together[:, :1] + 5 * torch.arange(7))


def test_a_head_of_neighbours_loads_any_number_of_rows() -> None:
    task, rows = _made("classification")
    head, other = (NearestNeighbours(F, 3, task.outputs_of_votes) for _ in range(2))
    NeighbourProbe(task, rows, IMAGE).solve((5, COSINE), head)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(rows.features), head(rows.features))
    with pytest.raises(RuntimeError, match="size mismatch for votes"):
        NearestNeighbours(F, 4, task.outputs_of_votes).load_state_dict(head.state_dict())


def test_the_strength_is_the_best_on_the_validation_rows() -> None:
    task, rows = _made("classification")
    probe = LinearProbe(task, rows.where(torch.arange(R) < 60), IMAGE)
    val = rows.where(torch.arange(R) >= 60)
    choice = choose(probe, "loss", val, np.zeros(60, dtype=np.int64))
    outputs = probe.outputs(torch.ones(60, dtype=torch.bool), val, STRENGTHS)
    losses = [metric_of(task, one, val, "loss") for one in outputs]
    assert choice == (STRENGTHS[losses.index(min(losses))], min(losses), "val/loss")
    assert 0 < losses.index(min(losses)) < len(losses) - 1


def test_of_equally_good_strengths_the_loss_decides() -> None:
    task, rows = _made("classification")
    probe = LinearProbe(task, rows, IMAGE)
    found = probe.outputs(torch.ones(R, dtype=torch.bool), rows, STRENGTHS)
    right = torch.stack([outputs.argmax(1) == rows.target for outputs in found]).all(0)
    easy = rows.where(right)  # for every strength
    by_accuracy, by_loss = (choose(probe, name, easy, np.zeros(R, dtype=np.int64)) for name in ("accuracy", "loss"))
    assert by_accuracy.value == 1
    assert by_accuracy.strength == by_loss.strength < STRENGTHS[0]


@pytest.mark.parametrize("kind", [LinearProbe, NeighbourProbe])
def test_without_validation_rows_it_is_cross_validated(kind: type[LinearProbe] | type[NeighbourProbe]) -> None:
    task, rows = _made("classification")
    probe = kind(task, rows, IMAGE)
    folds = np.arange(R) % 3
    choice = choose(probe, "accuracy", None, folds)
    assert choice.by == "cross-validated accuracy"
    (outputs,) = cross_validated(probe, folds, [choice.strength])
    assert choice.value == pytest.approx(metric_of(task, outputs, rows, "accuracy"), abs=0.05)
    held = torch.from_numpy(folds == 1)
    (alone,) = probe.outputs(~held, rows.where(held), [choice.strength])
    assert torch.equal(outputs[held], alone)
    assert choose(probe, "accuracy", None, np.zeros(R, dtype=np.int64)) == (probe.usual, None, "")


def test_labels_that_are_wrong_are_contradicted() -> None:
    task = Classification()
    task.fit(["a", "b"])
    draw = torch.Generator().manual_seed(0)
    target = torch.arange(R) % 2
    features = torch.randn(R, F, generator=draw, dtype=torch.float64) * 0.2
    features[:, 0] += 2 * target
    wrong = target.clone()
    wrong[[3, 40]] = 1 - wrong[[3, 40]]
    folds = np.arange(R) // 2 % 5
    weight = torch.ones(R)
    assert contradicted(LinearProbe(task, Labelled(features, target, weight), IMAGE), 0.01, folds) == []
    found = contradicted(LinearProbe(task, Labelled(features, wrong, weight), IMAGE), 0.01, folds)
    assert found is not None
    assert {one.at for one in found} == set((wrong != target).nonzero().squeeze(1).tolist())
    assert all((one.label, one.predicted) == (int(wrong[one.at]), int(target[one.at])) for one in found)
    assert contradicted(NeighbourProbe(task, Labelled(features, wrong, weight), IMAGE), (20, COSINE), folds) is None
    numbers, rows = _made("regression")
    assert contradicted(LinearProbe(numbers, rows, IMAGE), 1e-3, folds) is None
