"""Classification against torch's cross-entropy and scikit-learn's metrics; labels, weights, state."""

from __future__ import annotations

import json
import logging
import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from task_batches import batch, outputs
from torch import Tensor
from torch.nn import functional

from mmft.errors import UserError
from mmft.tasks.classification import Classification

R = 64


def fitted(names: str | list[str], **options: Any) -> Classification:
    """A task whose training rows have these labels; those of a text are one letter each."""
    task = Classification(**options)
    task.fit(list(names))
    return task


def draw(classes: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (R, C), targets (R,), sample weights (R,)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(R, classes, generator=generator, dtype=torch.float64).to(dtype)
    return logits, torch.randint(classes, (R,), generator=generator), torch.rand(R, generator=generator)


class TestLoss:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("weights", ["none", [0.5, 2.0, 0.0, 1.0]])
    def test_is_torchs_mean(self, smoothing: float, weights: Any) -> None:
        logits, target, _ = draw(4)
        task = fitted("abcd", label_smoothing=smoothing, class_weights=weights)
        ours = task.loss_sum(outputs(logits), batch(target)) / task.normaliser(batch(target))
        as_tensor = None if weights == "none" else torch.tensor(weights, dtype=torch.float64)
        expected = functional.cross_entropy(logits, target, as_tensor, label_smoothing=smoothing)
        assert ours.item() == pytest.approx(expected.item(), abs=1e-12)

    def test_a_row_of_weight_two_counts_as_two_rows(self) -> None:
        logits, target, _ = draw(3)
        task = fitted("aabc", class_weights="balanced", label_smoothing=0.1)
        weight = torch.ones(R)
        weight[:8] = 2
        weight[8:12] = 0
        kept = [*range(8), *range(8), *range(12, R)]
        one, other = batch(target, weight), batch(target[kept])
        assert task.normaliser(one).item() == pytest.approx(task.normaliser(other).item(), rel=1e-6)
        sums = task.loss_sum(outputs(logits), one), task.loss_sum(outputs(logits[kept]), other)
        assert sums[0].item() == pytest.approx(sums[1].item(), rel=1e-12)

    def test_bf16_logits_are_scored_in_float32(self) -> None:
        logits, target, _ = draw(3, torch.bfloat16)
        assert fitted("abc").loss_sum(outputs(logits), batch(target)).dtype == torch.float32

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("weights", ["none", [0.5, 2.0, 0.0, 1.0]])
    def test_a_mixed_row_has_the_loss_of_the_mixed_target(self, smoothing: float, weights: Any) -> None:
        logits, target, weight = draw(4)
        other, share = draw(4, seed=1)[1], (draw(4, seed=2)[2] / 2)
        share[:9] = 0  # not mixed
        task = fitted("abcd", label_smoothing=smoothing, class_weights=weights)
        rows = replace(batch(target, weight), mixed_target=other, mixed_share=share)
        soft = torch.lerp(
            functional.one_hot(target, 4).double(), functional.one_hot(other, 4).double(), share.double()[:, None]
        )
        as_tensor = None if weights == "none" else torch.tensor(weights, dtype=torch.float64)
        losses = functional.cross_entropy(logits, soft, as_tensor, label_smoothing=smoothing, reduction="none")
        of_class = torch.ones(4, dtype=torch.float64) if as_tensor is None else as_tensor
        assert task.loss_sum(outputs(logits), rows).item() == pytest.approx((losses * weight).sum().item(), rel=1e-12)
        assert task.normaliser(rows).item() == pytest.approx((soft @ of_class * weight).sum().item(), rel=1e-12)
        parts = [
            (task.loss_sum(outputs(logits[at : at + 7]), p), task.normaliser(p))
            for at, p in zip(range(0, R, 7), rows.split(7), strict=True)
        ]
        assert sum(loss for loss, _ in parts).item() == pytest.approx(
            task.loss_sum(outputs(logits), rows).item(), rel=1e-12
        )
        assert sum(n for _, n in parts).item() == pytest.approx(task.normaliser(rows).item(), rel=1e-12)

    def test_class_weights_that_validation_used_first_can_be_trained_with(self) -> None:
        """A tensor made in inference mode cannot be saved for the backward pass."""
        logits, target, _ = draw(3)
        task = fitted("aabc", class_weights="balanced", label_smoothing=0.1)
        with torch.inference_mode():
            task.loss_sum(outputs(logits), batch(target))
        logits.requires_grad_()
        task.loss_sum(outputs(logits), batch(target)).backward()
        assert logits.grad is not None
        assert task.weights is not None
        assert len(task.weights.copies) == 1  # kept, not copied at each call


def measured(task: Classification, logits: Tensor, target: Tensor) -> dict[str, float]:
    metrics = task.metrics()
    for part in range(0, R, 16):
        task.update(metrics, outputs(logits[part : part + 16]), batch(target[part : part + 16]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return task.scalars(metrics)


def by_sklearn(logits: Tensor, target: Tensor) -> dict[str, float]:
    """The same figures; ranking metrics over the classes that are there."""
    scores, truth = logits.softmax(-1).numpy(), target.numpy()
    guess = scores.argmax(1)
    figures = {"accuracy": sk.accuracy_score(truth, guess)}
    for average in ("macro", "weighted"):
        for name in ("precision", "recall", "f1"):
            value = getattr(sk, f"{name}_score")(truth, guess, average=average, zero_division=0)
            figures[f"{name}_{average}"] = value
    there = [k for k in range(scores.shape[1]) if (truth == k).any()]
    figures["auroc"] = np.mean([sk.roc_auc_score(truth == k, scores[:, k]) for k in there])
    figures["average_precision"] = np.mean([sk.average_precision_score(truth == k, scores[:, k]) for k in there])
    return {name: float(value) for name, value in figures.items()}


class TestMetrics:
    @pytest.mark.parametrize("seed", range(3))
    def test_all_classes(self, seed: int) -> None:
        logits, target, _ = draw(5, seed=seed)
        assert measured(fitted("abcde"), logits, target) == pytest.approx(by_sklearn(logits, target), abs=1e-6)

    def test_classes_without_rows_are_left_out_and_named(self, caplog: pytest.LogCaptureFixture) -> None:
        logits, target, _ = draw(6)
        target = target % 3 + 1  # no rows of 0, 4 and 5
        task = fitted("abcdef")
        with caplog.at_level(logging.WARNING):
            figures = measured(task, logits, target)
            assert measured(task, logits, target) == figures
        assert figures == pytest.approx(by_sklearn(logits, target), abs=1e-6)
        assert [record.getMessage() for record in caplog.records] == [
            "no evaluation row is labelled a, e, f: auroc and average_precision skip it"
        ]

    def test_two_classes_have_the_second_labels_metrics(self) -> None:
        logits, target, _ = draw(2)
        scores, truth = logits.softmax(-1)[:, 1].numpy(), target.numpy()
        guess = logits.argmax(1).numpy()
        expected = by_sklearn(logits, target) | {
            "precision": sk.precision_score(truth, guess),
            "recall": sk.recall_score(truth, guess),
            "f1": sk.f1_score(truth, guess),
            "auroc": sk.roc_auc_score(truth, scores),
            "average_precision": sk.average_precision_score(truth, scores),
        }
        assert measured(fitted("ab"), logits, target) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("classes", ["ab", "abc"])
    def test_one_class_alone_cannot_be_ranked(self, classes: str) -> None:
        figures = measured(fitted(classes), torch.randn(R, len(classes)), torch.ones(R, dtype=torch.int64))
        assert math.isnan(figures["auroc"])
        assert math.isnan(figures["average_precision"])
        assert 0 <= figures["accuracy"] <= 1

    def test_the_confusion_matrix_has_true_labels_as_rows(self) -> None:
        task = fitted("abc")
        metrics = task.metrics()
        task.update(metrics, outputs(torch.eye(3)[[1, 1, 2]]), batch(torch.tensor([0, 1, 2])))
        header, *rows = task.tables(metrics)["confusion_matrix"]
        assert header == ["true / predicted", "a", "b", "c"]
        assert rows == [["a", 0, 1, 0], ["b", 0, 1, 0], ["c", 0, 0, 1]]

    def test_of_thousands_of_labels_the_confusions_are_listed(self) -> None:
        """A matrix of 5,000 labels is 200 MB."""
        count = 5_000
        names = [f"label {number:04}" for number in range(count)]
        task = fitted(names)
        metrics = task.metrics()
        logits = torch.zeros(3, count)
        logits[[0, 1, 2], [7, 7, 4_999]] = 1.0
        task.update(metrics, outputs(logits), batch(torch.tensor([7, 8, 8])))
        assert sum(part.numel() for part in metrics["confusion_matrix"].pairs) == 3
        expected = [[names[7], names[7], 1], [names[8], names[7], 1], [names[8], names[4_999], 1]]
        assert task.scalars(metrics).keys() == set(task.metric_names())
        assert task.tables(metrics) == {"confusions": [["true", "predicted", "rows"], *expected]}


class TestConstant:
    def test_is_the_most_frequent_class_by_sample_weight(self) -> None:
        task = fitted("abc", class_weights=[9.0, 1.0, 1.0], labels=["a", "b", "c"])
        target = torch.tensor([0, 1, 1, 2])
        assert task.constant_outputs(target, torch.ones(4)).argmax() == 1
        constant = task.constant_outputs(target, torch.tensor([1.0, 1.0, 1.0, 5.0]))
        assert constant.softmax(-1).tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])

    def test_a_class_without_weight_is_finite(self) -> None:
        assert fitted("ab").constant_outputs(torch.tensor([0, 0]), torch.ones(2)).isfinite().all()


class TestLabels:
    def test_numbers_are_sorted_by_value_and_before_words(self) -> None:
        task = Classification()
        task.fit([10, "9", 2.0, "b", -1, 2, "a", None, 0.5])
        assert task.labels == ["-1", "0.5", "2", "9", "10", "a", "b"]
        assert task.encode(2.0) == task.encode("2") == 2

    def test_a_given_order_is_kept(self) -> None:
        task = fitted("abca", labels=["c", "a", "b"])
        assert [task.encode(name) for name in "cab"] == [0, 1, 2]
        logits = torch.tensor([[5.0, 0.0, 0.0]])
        [answer] = task.answers(outputs(logits))
        assert list(answer) == ["prediction", "score", "score_c", "score_a", "score_b"]
        assert answer["prediction"] == "c"
        assert answer["score"] == answer["score_c"] == pytest.approx(logits.softmax(-1)[0, 0].item())

    def test_a_given_label_without_rows(self) -> None:
        with pytest.raises(UserError, match=r"no training row is labelled 'z'. There are: \['a', 'b'\]"):
            fitted("ab", labels=["a", "b", "z"])

    @pytest.mark.parametrize(("label", "said"), [("z", "'z' is not among"), (None, "no label")])
    def test_a_label_that_training_did_not_see(self, label: Any, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            fitted("ab").encode(label)

    def test_one_class_is_too_few(self) -> None:
        with pytest.raises(UserError, match=r"have 1 class \(a\)"):
            fitted("aaa")


class TestClassWeights:
    def test_balanced(self) -> None:
        task = fitted("aaab", class_weights="balanced")
        assert task.weights is not None
        assert task.weights.value.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])

    def test_a_list_of_the_wrong_length(self) -> None:
        with pytest.raises(UserError, match=r"task.class_weights has 3 numbers for 2 labels \(a, b\)"):
            fitted("ab", class_weights=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_the_state_goes_through_json(weights: str) -> None:
    task = fitted("aabbbc", class_weights=weights, label_smoothing=0.1)
    again = Classification(class_weights=weights, label_smoothing=0.1)
    again.load_state(json.loads(json.dumps(task.state())))
    assert (again.labels, again.width, again.encode("c")) == (task.labels, 3, 2)
    logits, target, weight = draw(3)
    for name in ("loss_sum", "normaliser"):
        args = (outputs(logits), batch(target, weight)) if name == "loss_sum" else (batch(target, weight),)
        assert torch.equal(getattr(again, name)(*args), getattr(task, name)(*args))


def test_evaluated_labels_that_training_lacks_are_mistakes() -> None:
    """As scikit-learn counts them: one more class of which nothing is right."""
    task = fitted("abb")
    unseen: list[str] = []
    names = ["a", "b", "new", "b", "other"]
    target = torch.tensor([task.encode_evaluated(name, unseen) for name in names])
    assert (target.tolist(), unseen) == ([0, 1, 2, 1, 2], ["new", "other"])
    logits = torch.tensor([[2.0, 0], [0, 1], [3, 0], [1, 0], [0, 1]])
    rows = batch(target)
    metrics = task.metrics()
    task.update(metrics, outputs(logits), rows)
    found = task.scalars(metrics)
    predicted = [["a", "b"][k] for k in logits.argmax(1)]
    true = [name if name in "ab" else "(new)" for name in names]
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    for name, score in (("f1", sk.f1_score), ("recall", sk.recall_score), ("precision", sk.precision_score)):
        for average in ("macro", "weighted"):
            assert found[f"{name}_{average}"] == pytest.approx(score(true, predicted, average=average, zero_division=0))
    only_b = [name == "b" for name in names]
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(only_b, logits.softmax(1)[:, 1]))
    assert task.tables(metrics)["confusion_matrix"][-1] == ["(not among the training labels)", 1, 1]
    known = batch(target[target < 2])
    assert float(task.loss_sum(outputs(logits), rows)) == pytest.approx(
        float(task.loss_sum(outputs(logits[target < 2]), known)), rel=1e-6
    )
    assert float(task.normaliser(rows)) == 3


def test_one_value_is_one_label_in_every_file() -> None:
    task = fitted(["1", "0", "1.0", " 1", 1, 1.0, True and 1])
    assert task.labels == ["0", "1"]
    assert [task.encode(label) for label in ("1", "1.0", 1, 1.0, "1 ", "0.00")] == [1, 1, 1, 1, 1, 0]
    with pytest.raises(ValueError, match=r"label 'y' is not among the training rows' labels"):
        task.encode("y")
    with pytest.raises(ValueError, match="the nearest is 'food'"):
        fitted(["food", "pets"]).encode("Food")


def test_labels_of_older_runs_are_found_however_they_are_spelt() -> None:
    task = fitted("ab")
    task.load_state(task.state() | {"labels": ["0.0", "1.0 "]})
    assert [task.encode(label) for label in ("0", 1, "1.0")] == [0, 1, 1]
