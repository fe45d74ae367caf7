"""Regression against torch's losses and scikit-learn's and scipy's metrics; scaling, several targets, whole runs."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from make_shapes import Shapes
from runs import TrainRun
from scipy import stats
from sklearn import metrics as sk
from task_batches import batch, outputs
from torch import Tensor
from torch.nn import functional

import mmft
from mmft.commands.test import test as run_test
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.tasks.regression import Regression

R = 64


def fitted(labels: list[Any], **options: Any) -> Regression:
    task = Regression(**options)
    task.fit(labels)
    return task


def measured(task: Regression, found: Tensor, target: Tensor, parts: int = 3) -> dict[str, float]:
    """Metrics of predictions and targets (R, T) in the scale that the task learns in."""
    metrics = task.metrics()
    for some, wanted in zip(found.chunk(parts), target.chunk(parts), strict=True):
        task.update(metrics, outputs(some), batch(wanted))
    return task.scalars(metrics)


class TestLoss:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, functional.mse_loss),
            ({"loss": "l1"}, functional.l1_loss),
            ({"loss": "huber"}, functional.huber_loss),
            ({"loss": "huber", "huber_delta": 0.3}, lambda a, b: functional.huber_loss(a, b, delta=0.3)),
        ],
    )
    def test_is_torchs_mean(self, options: dict[str, Any], expected: Any) -> None:
        found, target = torch.randn(2, R, 3, dtype=torch.float64)
        task = fitted([{"a": 1, "b": 2, "c": 3}, {"a": 2, "b": 4, "c": 7}], **options)
        ours = task.loss_sum(outputs(found), batch(target)) / task.normaliser(batch(target))
        assert ours.item() == pytest.approx(expected(found, target).item(), abs=1e-12)

    def test_sample_weights(self) -> None:
        found, target = torch.randn(2, R, 1, dtype=torch.float64)
        weight = torch.rand(R)
        task = fitted([1, 2])
        ours = task.loss_sum(outputs(found), batch(target, weight)) / task.normaliser(batch(target, weight))
        expected = np.average((found - target).square().mean(1), weights=weight)
        assert ours.item() == pytest.approx(expected, rel=1e-6)


class TestMetrics:
    def test_one_target_in_its_own_units(self) -> None:
        task = fitted([100.0, 300.0, 500.0])
        found, target = torch.randn(2, R, 1, dtype=torch.float64)
        y, p = (task.unscaled(values)[:, 0].numpy() for values in (target, found))
        values = measured(task, found, target)
        assert values == pytest.approx(
            {
                "rmse": sk.root_mean_squared_error(y, p),
                "mae": sk.mean_absolute_error(y, p),
                "r2": sk.r2_score(y, p),
                "pearson": stats.pearsonr(y, p)[0],
                "spearman": stats.spearmanr(y, p)[0],
            },
            rel=1e-6,
        )
        assert values["rmse"] > 100  # the units of the table

    @pytest.mark.parametrize(("mean", "std"), [(1.7e9, 100.0), (1.7e9, 1.0), (0.0, 1e-3), (5e-12, 1e-12)])
    def test_numbers_far_from_0_and_near_it(self, mean: float, std: float) -> None:
        task = fitted([mean - std, mean, mean + std])
        target = torch.randn(R, 1, dtype=torch.float64)
        found = target + 0.8 * torch.randn(R, 1, dtype=torch.float64)
        y, p = (task.unscaled(values)[:, 0].numpy() for values in (target, found))
        values = measured(task, found, target)
        assert values["r2"] == pytest.approx(sk.r2_score(y, p), rel=1e-6)
        assert values["pearson"] == pytest.approx(stats.pearsonr(y, p)[0], rel=1e-6)

    def test_ranks_of_many_ties(self) -> None:
        target = torch.cat([torch.zeros(100_000), torch.rand(50_000)])[:, None].double()
        found = target + torch.randn_like(target)
        expected = stats.spearmanr(target[:, 0], found[:, 0])[0]
        assert measured(fitted([1, 2]), found, target)["spearman"] == pytest.approx(expected, rel=1e-9)

    def test_several_targets_count_alike_and_have_a_table(self) -> None:
        rows = [{"price": p, "weight": w} for p, w in [(1e6, 0.1), (3e6, 0.5), (2e6, 0.2)]]
        task = fitted(rows)
        found, target = torch.randn(2, R, 2, dtype=torch.float64)
        metrics = task.metrics()
        task.update(metrics, outputs(found), batch(target))
        values = task.scalars(metrics)
        assert values["rmse"] == pytest.approx((found - target).square().mean(0).sqrt().mean().item(), rel=1e-9)
        assert values["r2"] == pytest.approx(sk.r2_score(target, found), rel=1e-9)
        header, *lines = task.tables(metrics)["targets"]
        assert header == ["target", "rmse", "mae", "r2", "pearson", "spearman"]
        assert [line[0] for line in lines] == ["price", "weight"]
        assert lines[0][1] > 1e5 > 1 > lines[1][1]  # each in its own units

    def test_the_parts_of_a_split_change_nothing(self) -> None:
        task, (found, target) = fitted([1, 2, 4]), torch.randn(2, R, 1)
        assert measured(task, found, target, parts=1) == measured(task, found, target, parts=16)

    def test_what_is_not_defined_is_nan(self) -> None:
        task = fitted([1, 2, 4])
        one = measured(task, torch.zeros(1, 1), torch.ones(1, 1), parts=1)
        assert {name for name, value in one.items() if math.isnan(value)} == {"r2", "pearson", "spearman"}
        same = measured(task, torch.zeros(R, 1), torch.randn(R, 1))
        assert {name for name, value in same.items() if math.isnan(value)} == {"pearson", "spearman"}

    def test_the_constant_is_what_rmse_likes_best(self) -> None:
        task, target, weight = fitted([1, 2, 4]), torch.randn(R, 1), torch.ones(R)
        best = task.constant_outputs(target, weight)
        rmse = [measured(task, (best + shift).expand(R, 1), target)["rmse"] for shift in (-0.1, 0.0, 0.1)]
        assert min(rmse) == rmse[1]


class TestLabels:
    def test_large_numbers_keep_their_digits(self) -> None:
        values = [1_700_000_000 + 10 * i for i in range(50)]
        task = fitted(values)
        target = torch.tensor([task.encode(value) for value in values])
        assert target.dtype == torch.float32
        assert (task.unscaled(target)[:, 0] - torch.tensor(values)).abs().max() < 1e-3

    @pytest.mark.parametrize(
        ("label", "reason"),
        [("much", "not a number"), (None, "no label"), (math.inf, "not a finite number"), ({"a": None}, "a: no label")],
    )
    def test_what_is_no_number_is_said(self, label: Any, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            fitted([1, 2]).encode(label)

    @pytest.mark.parametrize(
        ("labels", "reason"),
        [
            (["a", "b"], "no training row has a number"),
            ([3, 3.0, "3"], "the same number, 3"),
            ([7, "x", 7], "the same number, 7. 1 more has no usable label: label 'x' is not a number"),
            ([0.1] * 7, "the same number, 0.1"),  # of which the deviation is 1.4e-17
            ([1, 2, 1.7e308], "from 1 to 1.7e\\+308 have no scale"),
        ],
    )
    def test_rows_that_cannot_be_learned(self, labels: list[Any], reason: str) -> None:
        with pytest.raises(UserError, match=reason):
            fitted(labels)

    def test_without_scaling(self) -> None:
        assert fitted([10, 20], scale="none").encode(17) == [17.0]


@pytest.fixture
def rows(shapes: Shapes, tmp_path: Path) -> Path:
    """The shapes with two numbers: what the label and what the text's length say; one row has none."""
    frame = pd.read_csv(shapes.rows)
    frame["size"] = frame["label"].astype("category").cat.codes * 1000.0 + 5000
    frame["length"] = frame["text"].astype(str).str.len() / 100
    frame.loc[frame.index[0], "size"] = np.nan
    path = tmp_path / "numbers.csv"
    frame.to_csv(path, index=False)
    return path


def options(rows: Path, shapes: Shapes, label: str) -> list[str]:
    return [f"data.path={rows}", f"data.root={shapes.rows.parent}", f"data.columns.label={label}", "task=regression"]


def test_the_unit_of_several_targets_errors_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Regression().fit([1.0, 2.0])
    assert not caplog.records
    Regression().fit([{"a": 1.0, "b": 10.0}, {"a": 3.0, "b": 30.0}])
    assert "average 2 targets in units of their standard deviation (a 1, b 10); targets.csv" in caplog.text


def test_a_run_learns_and_comes_back(train_run: TrainRun, rows: Path, shapes: Shapes) -> None:
    more = ["data.limit=null", "trainer.max_epochs=10", "optim.lr=1e-3", "data.max_bad_fraction=0.1"]
    more += ["modality_report=true"]
    run = train_run(*options(rows, shapes, "[size,length]"), *more)
    summary = run.summary
    assert summary["monitor"] == "val/rmse"
    assert summary["rows"]["bad"] == 1
    assert summary["test"]["rmse"] < 0.9 * summary["modalities"]["mean"]
    lines = list(csv.reader((run.path / "targets.csv").open()))
    assert [line[0] for line in lines] == ["target", "size", "length"]
    best = min(
        float(line["val/rmse"]) for line in csv.DictReader((run.path / "metrics.csv").open()) if line["val/rmse"]
    )
    assert summary["val"]["rmse"] == pytest.approx(best)  # the lowest is the best
    answers = mmft.load(run.path).predict(pd.read_csv(rows).query("split == 'test'"), root=shapes.rows.parent)
    assert list(answers.columns) == [
        "row",
        "id",
        "prediction",
        "score",
        "prediction_size",
        "prediction_length",
        "error",
    ]
    told = pd.read_csv(rows).query("split == 'test'")
    error = np.sqrt(np.mean((answers["prediction_size"] - told["size"]) ** 2))
    assert error == pytest.approx(float(lines[1][1]), rel=1e-4)
    assert json.loads(answers["prediction"].iloc[0])["size"] == answers["prediction_size"].iloc[0]
    assert run_test(compose("test", [f"run={run.path}", f"data.path={rows}"])) == 0


def test_one_target(train_run: TrainRun, rows: Path, shapes: Shapes) -> None:
    run = train_run(*options(rows, shapes, "length"), "task.loss=huber", "trainer.max_epochs=1")
    answer = mmft.load(run.path).predict([{"image": None, "text": "a red square"}])[0]
    assert isinstance(answer["prediction"], float)
    assert answer["score"] is None
    assert answer["error"] is None
    assert not (run.path / "targets.csv").exists()


def test_another_runs_head_is_taken_with_the_same_scale_alone(
    train_run: TrainRun, rows: Path, shapes: Shapes, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["trainer.max_epochs=1", "modality_report=false"]
    first = train_run(*options(rows, shapes, "length"), *short)
    for label, taken in (("length", "init: all weights from"), ("size", "the head is new")):
        capsys.readouterr()
        train_run(*options(rows, shapes, label), *short, f"init={first.path}", "data.max_bad_fraction=1")
        assert taken in capsys.readouterr().err
