"""Temperature scaling against a search over temperatures; thresholds of two classes; what becomes of them."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from make_shapes import Shapes
from runs import TrainRun, resumed
from scipy.optimize import minimize_scalar
from sklearn import metrics as sk
from task_batches import batch, outputs
from torch import Tensor
from torch.nn import functional

import mmft
from mmft.errors import UserError
from mmft.run_folder import RunFolder
from mmft.tasks.calibration import HOTTEST, Reliability, fit_temperature
from mmft.tasks.classification import Classification

R = 4000


def overconfident(classes: int, factor: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (R, C) that are `factor` times as large as those that the targets (R,) are drawn by; weights (R,)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(R, classes, generator=generator, dtype=torch.float64)
    target = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return factor * logits, target, torch.rand(R, generator=generator).double()


def fitted(names: str, **options: Any) -> Classification:
    task = Classification(**options)
    task.fit(list(names))
    return task


@pytest.mark.parametrize(("classes", "factor"), [(2, 3.0), (5, 3.0), (5, 0.4)])
def test_the_temperature_is_that_of_the_best_likelihood(classes: int, factor: float) -> None:
    logits, target, weight = overconfident(classes, factor)

    def nll(log_temperature: float) -> float:
        losses = functional.cross_entropy(logits / np.exp(log_temperature), target, reduction="none")
        return float((losses * weight).sum() / weight.sum())

    found = fit_temperature(logits, target, weight)
    assert found == pytest.approx(np.exp(minimize_scalar(nll, bounds=(-3, 3), options={"xatol": 1e-9}).x), rel=1e-5)
    assert found == pytest.approx(factor, rel=0.1)  # what the targets were drawn by
    before, after = (Reliability.of(logits, target, weight, t) for t in (1.0, found))
    assert after.nll < before.nll
    assert after.nll == pytest.approx(nll(np.log(found)), rel=1e-12)
    assert after.ece < 0.3 * before.ece


def test_ece_is_the_binned_gap() -> None:
    logits, target, weight = overconfident(4)
    scores, right = logits.softmax(-1).max(-1).values.numpy(), (logits.argmax(-1) == target).numpy()
    bins = np.minimum((scores * 15).astype(int), 14)
    gaps = [abs(scores[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in set(bins.tolist())]
    assert Reliability.of(logits, target, weight, 1.0).ece == pytest.approx(sum(gaps), abs=1e-6)


def test_answers_and_metrics_are_those_of_the_temperature() -> None:
    logits, target, weight = overconfident(3)
    task = fitted("abc", calibration="temperature")

    def measured() -> dict[str, float]:
        metrics = task.metrics()
        for some, wanted in zip(logits.chunk(3), target.chunk(3), strict=True):
            task.update(metrics, outputs(some), batch(wanted))
        return task.scalars(metrics)

    before = measured()
    told = task.tune(logits, target, weight)
    after = measured()
    assert (before["ece"], after["ece"]) == pytest.approx((told["ece"]["before"], told["ece"]["after"]), abs=1e-6)
    assert after["ece"] < before["ece"]
    assert told["nll"]["after"] < told["nll"]["before"]
    assert after["accuracy"] == before["accuracy"]
    [answer] = task.answers(outputs(logits[:1]))
    expected = (logits[0] / told["temperature"]).softmax(-1)
    assert [answer[f"score_{name}"] for name in "abc"] == pytest.approx(expected.tolist())
    assert task.untuned().temperature == 1
    assert task.temperature == told["temperature"]


def test_without_asking_nothing_is_tuned_and_there_is_no_ece() -> None:
    task = fitted("ab")
    assert not task.tunes
    assert "ece" not in task.metrics()


def test_what_cannot_be_fitted_is_said(caplog: pytest.LogCaptureFixture) -> None:
    logits, target, weight = overconfident(2)
    both = fitted("ab", calibration="temperature", threshold_metric="f1")
    with caplog.at_level(logging.WARNING):
        assert both.tune(logits, torch.zeros_like(target), 0 * weight) == {}
        assert (both.temperature, both.threshold) == (1.0, 0.5)
        both.tune(logits, logits.argmin(-1), weight)
        assert both.temperature == pytest.approx(HOTTEST)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "all validation rows have weight 0" in said
    assert "are of one class" in said
    assert "at the edge of its range" in said


@pytest.mark.parametrize("metric", ["f1", "f1_macro", "balanced_accuracy"])
@pytest.mark.parametrize("calibration", ["none", "temperature"])
def test_the_threshold_of_two_classes(metric: str, calibration: str) -> None:
    """Rare positives, whose probability is seldom above one half."""
    logits, _, weight = overconfident(2)
    generator = torch.Generator().manual_seed(1)
    logits[:, 1] -= 4
    target = torch.multinomial((logits / 2).softmax(-1), 1, generator=generator)[:, 0]
    task = fitted("ab", threshold_metric=metric, calibration=calibration)
    told = task.tune(logits, target, weight)
    assert told[metric]["after"] > told[metric]["before"]
    metrics = task.metrics()
    task.update(metrics, outputs(logits), batch(target))
    logged = task.scalars(metrics)[{"balanced_accuracy": "recall_macro"}.get(metric, metric)]
    assert logged == pytest.approx(told[metric]["after"], abs=1e-6)
    answers = task.answers(outputs(logits))
    guess = [answer["prediction"] == "b" for answer in answers]
    by_sklearn = {"f1": sk.f1_score, "f1_macro": lambda y, p: sk.f1_score(y, p, average="macro")}
    assert by_sklearn.get(metric, sk.balanced_accuracy_score)(target == 1, guess) == pytest.approx(logged, abs=1e-6)
    assert guess == [answer["score_b"] > told["threshold"] for answer in answers]
    assert all(answer["score"] == answer[f"score_{answer['prediction']}"] for answer in answers)
    again = Classification()
    again.load_state(json.loads(json.dumps(task.state())))
    assert again.answers(outputs(logits)) == answers


def test_a_threshold_is_of_two_classes() -> None:
    with pytest.raises(UserError, match=r"task.threshold_metric=f1 needs two classes; there are 3 \(a, b, c\)"):
        fitted("abc", threshold_metric="f1")


def test_focal_loss_is_divided_as_cross_entropy_is() -> None:
    logits, target, _ = overconfident(3)
    focal, plain = (fitted("aabc", class_weights="balanced", **o) for o in ({"loss": "focal", "focal_gamma": 0}, {}))
    one, other = (t.loss_sum(outputs(logits), batch(target)) / t.normaliser(batch(target)) for t in (focal, plain))
    assert one.item() == pytest.approx(other.item(), rel=1e-12)


def test_a_run_tunes_keeps_and_uses_what_it_found(train_run: TrainRun, shapes: Shapes, tmp_path: Path) -> None:
    """Two unequal classes, one of them rare; also resumed, where nothing but the finished model is missing."""
    frame = pd.read_csv(shapes.rows)
    frame["rare"] = np.where(frame["label"] == "red disc", "yes", "no")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    typed = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", "data.columns.label=rare"]
    typed += ["task.calibration=temperature", "task.threshold_metric=f1", "task.loss=focal", "data.limit=null"]
    run = train_run(*typed, "trainer.max_epochs=3", "data.micro_batch_size=4", "modality_report=true")
    summary, tuned = run.summary, run.summary["tuned"]
    assert tuned["nll"]["after"] < tuned["nll"]["before"]
    assert tuned["f1"]["after"] >= tuned["f1"]["before"]
    assert "val/ece" in run.metrics
    assert summary["modalities"]["majority"] == pytest.approx(5 / 6)
    loaded = mmft.load(run.path)
    assert loaded.saved.task.state()["temperature"] == tuned["temperature"] != 1
    test = frame.query("split == 'test'")
    answers = loaded.predict(test, root=shapes.rows.parent)
    assert (answers["prediction"] == "yes").tolist() == (answers["score_yes"] > tuned["threshold"]).tolist()
    guessed = (answers["prediction"] == test["rare"]).mean()
    assert guessed == pytest.approx(summary["test"]["accuracy"])
    shutil.rmtree(run.path / "model")
    RunFolder(run.path).update_summary(status="failed", tuned=None)
    again = resumed([], run.path)
    assert again.summary["tuned"] == tuned
    assert again.summary["test"] == summary["test"]


def test_lists_of_labels_are_another_task() -> None:
    with pytest.raises(UserError, match="type task=multi_label"):
        Classification().fit([["a"], ["b"]])
    with pytest.raises(ValueError, match="type task=multi_label"):
        fitted("ab").encode(["a"])
