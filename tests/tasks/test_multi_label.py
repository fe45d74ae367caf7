"""Multi-label classification against torch's loss and scikit-learn's metrics; rows' labels; thresholds; whole runs."""

from __future__ import annotations

import csv
import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from make_shapes import Shapes
from runs import TrainRun
from sklearn import metrics as sk
from task_batches import batch, outputs
from torch import Tensor
from torch.nn import functional

import mmft
from mmft.commands.check import check
from mmft.commands.predict import predict
from mmft.commands.test import test as run_test
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.tasks.multi_label import MultiLabel

R, C = 96, 4
NAMES = "abcd"


def fitted(rows: list[Any], /, **options: Any) -> MultiLabel:
    task = MultiLabel(**options)
    task.fit(rows)
    return task


def drawn(seed: int = 0, rows: int = R) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (R, C) that tell something of the targets (R, C), of which the last label's are rare; weights (R,)."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(rows, C, generator=generator) < torch.tensor([0.5, 0.3, 0.2, 0.05])
    noise = torch.randn(rows, C, generator=generator, dtype=torch.float64)
    logits = 2 * target - 1 + noise - torch.tensor([0.0, 0.0, 1.0, 2.5])
    return logits, target, torch.rand(rows, generator=generator)


class TestLoss:
    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    @pytest.mark.parametrize("weights", ["none", [0.5, 2.0, 1.0, 7.0]])
    def test_is_torchs_mean(self, smoothing: float, weights: Any) -> None:
        logits, target, _ = drawn()
        task = fitted(["a|b", "c|d"], label_smoothing=smoothing, pos_weight=weights)
        ours = task.loss_sum(outputs(logits), batch(target)) / task.normaliser(batch(target))
        smooth = target.double() * (1 - smoothing) + smoothing / 2
        pos_weight = None if weights == "none" else torch.tensor(weights, dtype=torch.float64)
        expected = functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=pos_weight)
        assert ours.item() == pytest.approx(expected.item(), abs=1e-12)

    def test_a_row_of_weight_two_counts_as_two_rows(self) -> None:
        logits, target, _ = drawn()
        task, weight, twice = fitted(["a|b", "c|d"], loss="asymmetric"), torch.ones(R), [*range(R), *range(8)]
        weight[:8] = 2
        one, other = batch(target, weight), batch(target[twice])
        assert task.normaliser(one) == task.normaliser(other)
        sums = task.loss_sum(outputs(logits), one), task.loss_sum(outputs(logits[twice]), other)
        assert sums[0].item() == pytest.approx(sums[1].item(), rel=1e-12)

    def test_balanced_is_rows_without_by_rows_with(self) -> None:
        task = fitted(["a|b", "a", "a|c", "a|b"], pos_weight="balanced")
        assert task.pos_weight is not None
        assert task.pos_weight.value.tolist() == pytest.approx([1 / 4, 2 / 2, 3 / 1])  # all have a: one counts as none

    def test_bf16_logits_are_scored_in_float32(self) -> None:
        logits, target, _ = drawn()
        task = fitted(["a|b", "c|d"])
        assert task.loss_sum(outputs(logits.bfloat16()), batch(target)).dtype == torch.float32


def measured(task: MultiLabel, logits: Tensor, target: Tensor, parts: int = 5) -> dict[str, float]:
    metrics = task.metrics()
    for some, wanted in zip(logits.chunk(parts), target.chunk(parts), strict=True):
        task.update(metrics, outputs(some), batch(wanted))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return task.scalars(metrics)


def by_sklearn(logits: Tensor, target: Tensor, thresholds: list[float]) -> dict[str, float]:
    scores, truth = logits.sigmoid().numpy(), target.numpy()
    guess = scores > np.array(thresholds)
    there = [c for c in range(C) if truth[:, c].any()]
    ranked = [c for c in there if not truth[:, c].all()]
    figures = {
        "map": np.mean([sk.average_precision_score(truth[:, c], scores[:, c]) for c in there]),
        "auroc": np.mean([sk.roc_auc_score(truth[:, c], scores[:, c]) for c in ranked]),
        "exact_match": sk.accuracy_score(truth, guess),
        "hamming_loss": sk.hamming_loss(truth, guess),
    }
    for name in ("precision", "recall", "f1"):
        for average in ("micro", "macro"):
            score = getattr(sk, f"{name}_score")
            figures[f"{name}_{average}"] = score(truth, guess, average=average, zero_division=0)
    return {name: float(value) for name, value in figures.items()}


class TestMetrics:
    @pytest.mark.parametrize("thresholds", [[0.5] * 4, [0.2, 0.5, 0.35, 0.9]])
    @pytest.mark.parametrize("seed", range(2))
    def test_are_scikit_learns(self, seed: int, thresholds: list[float]) -> None:
        logits, target, _ = drawn(seed)
        task = fitted(["a|b", "c|d"])
        task._set_thresholds(thresholds)
        assert measured(task, logits, target) == pytest.approx(by_sklearn(logits, target, thresholds), abs=1e-6)

    def test_labels_that_a_split_lacks_are_left_out_and_named(self, caplog: pytest.LogCaptureFixture) -> None:
        logits, target, _ = drawn()
        target[:, 1], target[:, 2] = False, True
        task = fitted(["a|b", "c|d"])
        with caplog.at_level(logging.WARNING):
            figures = measured(task, logits, target)
            assert measured(task, logits, target, parts=1) == pytest.approx(figures)
        assert figures == pytest.approx(by_sklearn(logits, target, [0.5] * 4), abs=1e-6)
        assert [record.getMessage() for record in caplog.records] == [
            "no evaluation row has the label b: map and auroc skip it"
        ]

    def test_no_label_anywhere_cannot_be_ranked(self) -> None:
        figures = measured(fitted(["a|b", "c|d"]), torch.randn(R, C), torch.zeros(R, C, dtype=torch.bool))
        assert math.isnan(figures["map"])
        assert math.isnan(figures["auroc"])
        assert 0 <= figures["hamming_loss"] <= 1

    def test_the_table_of_labels(self) -> None:
        logits, target, _ = drawn()
        task, thresholds = fitted(["a|b", "c|d"]), [0.2, 0.5, 0.3, 1 - 1e-9]
        task._set_thresholds(thresholds)
        metrics = task.metrics()
        task.update(metrics, outputs(logits), batch(target))
        header, *lines = task.tables(metrics)["labels"]
        assert header == ["label", "support", "threshold", "average_precision", "precision", "recall", "f1"]
        for c, (name, support, threshold, ap, *rest) in enumerate(lines):
            truth, guess = target[:, c].numpy(), (logits[:, c].sigmoid() > thresholds[c]).numpy()
            assert (name, support) == (NAMES[c], truth.sum())
            assert threshold == pytest.approx(thresholds[c])
            assert ap == pytest.approx(sk.average_precision_score(truth, logits[:, c]), abs=1e-6)
            precision, recall, f1, _ = sk.precision_recall_fscore_support(
                truth, guess, average="binary", zero_division=np.nan
            )
            assert rest == pytest.approx([precision, recall, f1], nan_ok=True)
        assert math.isnan(lines[3][4])  # nothing is found: the precision is not defined

    def test_the_constant_is_the_frequency(self) -> None:
        _, target, weight = drawn()
        constant = fitted(["a|b", "c|d"]).constant_outputs(target, weight)
        expected = np.average(target.numpy(), axis=0, weights=weight.numpy())
        assert constant.sigmoid().tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        assert fitted(["a|b"]).constant_outputs(torch.tensor([[True, False]]), torch.ones(1)).isfinite().all()


class TestLabels:
    @pytest.mark.parametrize(
        ("label", "names"),
        [
            ("a|b", "ab"),
            (" a | b ", "ab"),
            ("a|a", "a"),
            (["b", "a"], "ab"),
            ([], ""),
            ("a", "a"),
            ({"a": "1", "b": 0, "c": "True", "d": False}, "ac"),
            ({"a": 0.0, "b": "1.0", "c": " false", "d": True}, "bd"),
        ],
    )
    def test_of_a_row(self, label: Any, names: str) -> None:
        task = fitted(["a|b", "c|d"])
        assert [name for name, there in zip(NAMES, task.encode(label).tolist(), strict=True) if there] == list(names)

    def test_numbers_are_the_same_labels_in_every_form(self) -> None:
        task = fitted(["1.0|2", [1.0], 3, "3.0"])
        assert task.labels == ["1", "2", "3"]
        assert task.encode("2.0|3").tolist() == task.encode([2, 3.0]).tolist() == [False, True, True]
        assert fitted(["1|2"], labels=["1.0", "2"]).labels == ["1", "2"]

    @pytest.mark.parametrize(
        ("label", "reason"),
        [
            (None, "no label .*task.empty=no_labels"),
            ("a||b", r"an empty label in 'a\|\|b'"),
            (["a", None], "an empty label in"),
            ("['a', 'b']", "a list written as text.*Separate labels with '.' "),
            ('["a"]', "a list written as text.*Parquet or JSON Lines"),
            ("[]", "a list written as text"),
            ("[3, 17]", "a list written as text"),
            ("a|z", "label 'z' is not among the training rows' labels .*task.unknown=ignored"),
            ({"a": "maybe", "b": 0}, "a: 'maybe' is neither 0 nor 1, true nor false"),
            ({"a": 2, "b": 0}, "a: 2 is neither 0 nor 1"),
            ({"a": None, "b": 0}, "a: no label"),
        ],
    )
    def test_what_is_wrong_is_said(self, label: Any, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            fitted(["a|b", "c|d"]).encode(label)

    def test_an_empty_cell_can_mean_none(self) -> None:
        task = fitted(["a|b", None], empty="no_labels")
        assert task.encode(None).tolist() == [False, False]
        assert task.encode({"a": None, "b": 1}).tolist() == [False, True]

    def test_unknown_ones_can_be_ignored(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            task = fitted(["a|b|x", "b"], labels=["b", "a"], unknown="ignored")
        assert "not in task.labels: x" in caplog.text
        assert task.encode("b|z|a").tolist() == [True, True]
        assert task.encode("z").tolist() == [False, False]

    def test_another_separator_and_blanks(self) -> None:
        assert fitted(["a; b", "c"], separator=";").labels == ["a", "b", "c"]
        assert fitted(["a  b", "c"], separator=" ").labels == ["a", "b", "c"]

    def test_their_order(self) -> None:
        assert fitted([[10, 9], [2.0], ["b"]]).labels == ["2", "9", "10", "b"]
        assert fitted([{"z": 1, "a": 0}, {"z": 0, "a": 1}]).labels == ["z", "a"]
        assert fitted(["a|b", "c"], labels=["c", "b", "a"]).labels == ["c", "b", "a"]

    def test_columns_without_a_row_are_told(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            fitted([{"a": 1, "b": 0, "c": 1}, {"a": 1, "b": 0, "c": 0}])
        assert "no training row has the label b" in caplog.text
        assert "every training row has the label a" in caplog.text
        assert "task=classification" not in caplog.text
        with caplog.at_level(logging.WARNING):
            fitted([0, 1, 1])  # a column of its own, which is typed as a list of one
        assert "every training row has exactly one label; consider task=classification" in caplog.text

    @pytest.mark.parametrize(
        ("labels", "options", "said"),
        [
            (["a", "a"], {}, r"have 1 label \(a\)"),
            ([None, None], {}, "no training row has labels that can be used: no label"),
            ([{"tags": "a|b"}], {}, "tags: 'a.b' is neither 0 nor 1, .* type data.columns.label=COLUMN"),
            (["a|b"], {"labels": ["a", "c"]}, "no training row has the label 'c'. There are: "),
            ([["a|b", "c"]], {}, r"task.separator='\|' occurs in the label 'a\|b'"),
            (["a|b"], {"pos_weight": [1.0]}, "task.pos_weight has 1 numbers for 2 labels"),
        ],
    )
    def test_rows_that_cannot_be_learned(self, labels: list[Any], options: dict[str, Any], said: str) -> None:
        with pytest.raises(UserError, match=said):
            fitted(labels, **options)


class TestThresholds:
    def test_tuned_ones_raise_macro_f1_on_other_rows(self) -> None:
        """Imbalanced labels, whose logits lie too low, as BCE's do of what is rare."""
        task = fitted(["a|b", "c|d"])
        logits, target, weight = drawn(1, rows=4000)
        told = task.tune(logits, target, weight)
        assert told["f1_macro"]["after"] > told["f1_macro"]["before"] + 0.05
        assert list(told["thresholds"]) == list(NAMES)
        assert measured(task, logits, target)["f1_macro"] == pytest.approx(told["f1_macro"]["after"], abs=1e-6)
        other = drawn(2, rows=4000)
        tuned, plain = measured(task, *other[:2]), measured(task.untuned(), *other[:2])
        assert tuned["f1_macro"] > plain["f1_macro"] + 0.05
        assert tuned["map"] == pytest.approx(plain["map"], abs=1e-6)

    def test_a_label_without_rows_keeps_its_threshold(self, caplog: pytest.LogCaptureFixture) -> None:
        task = fitted(["a|b", "c|d"])
        logits, target, weight = drawn()
        target[:, 1] = False
        target[:, 3] = torch.arange(R) < 4
        with caplog.at_level(logging.WARNING):
            told = task.tune(logits, target, weight)
        assert told["thresholds"]["b"] == 0.5
        assert "no validation row has the label b: its threshold stays 0.5" in caplog.text
        assert "fewer than 5 validation rows have the label d: its threshold is a guess" in caplog.text

    def test_a_number_for_all(self) -> None:
        task = fitted(["a|b", "c|d"], thresholds=0.8)
        assert not task.tunes
        [answer] = task.answers(outputs(torch.tensor([[1.0, 1.5, 2.0, -1.0]])))
        assert answer["prediction"] == "b|c"


def test_answers() -> None:
    task = fitted(["a;b", "c;d"], separator=";")
    some, none = task.answers(outputs(torch.tensor([[1.0, -1.0, 2.0, -3.0], [-1.0, -1.0, -1.0, -1.0]])))
    assert list(some) == task.answer_columns == ["prediction", "score", *(f"score_{name}" for name in NAMES)]
    assert some["prediction"] == "a;c"
    assert some["score"] == some["score_a"] == pytest.approx(torch.tensor(1.0).sigmoid().item())
    assert (none["prediction"], none["score"]) == ("", None)


def test_the_state_goes_through_json() -> None:
    task = fitted(["a|b", "c|d", "a"], pos_weight="balanced")
    logits, target, weight = drawn()
    task.tune(logits, target, weight)
    again = MultiLabel(pos_weight="balanced")
    again.load_state(json.loads(json.dumps(task.state())))
    assert again.answers(outputs(logits)) == task.answers(outputs(logits))
    assert task.same_outputs(again.state())
    sums = [t.loss_sum(outputs(logits), batch(target, weight)) for t in (task, again)]
    assert torch.equal(*sums)


@pytest.fixture
def rows(shapes: Shapes, tmp_path: Path) -> Path:
    """The shapes with the colour and the shape as two labels each; two rows have none that can be used."""
    frame = pd.read_csv(shapes.rows)
    for name in ("red", "green", "blue", "disc", "cross"):
        frame[name] = frame["label"].str.contains(name).astype(int)
    frame["tags"] = frame["label"].str.replace(" ", "|")
    frame.loc[frame.index[0], "tags"] = None
    frame.loc[frame.index[1], "tags"] = "red||disc"
    frame.loc[frame.index[2], "red"] = 5
    path = tmp_path / "tags.csv"
    frame.to_csv(path, index=False)
    return path


def typed(rows: Path, shapes: Shapes, label: str) -> list[str]:
    return [f"data.path={rows}", f"data.root={shapes.rows.parent}", f"data.columns.label={label}", "task=multi_label"]


def test_a_run_learns_tunes_and_comes_back(
    train_run: TrainRun, rows: Path, shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["data.limit=null", "trainer.max_epochs=10", "optim.lr=1e-3", "data.max_bad_fraction=0.1"]
    run = train_run(
        *typed(rows, shapes, "tags"), *more, "modality_report=true", "checkpoint.use=soup_uniform", "checkpoint.keep=2"
    )
    summary, thresholds = run.summary, run.summary["tuned"]["thresholds"]
    assert summary["monitor"] == "val/map"
    assert summary["rows"]["bad"] == 2
    assert summary["test"]["map"] > summary["modalities"]["frequencies"] + 0.2
    assert summary["tuned"]["f1_macro"]["after"] >= summary["tuned"]["f1_macro"]["before"]
    bad = list(csv.DictReader((run.path / "bad_rows.csv").open()))
    assert [(line["row"], line["column"]) for line in bad] == [("0", "tags"), ("1", "tags")]
    assert "an empty label in 'red||disc'" in bad[1]["reason"]
    lines = list(csv.DictReader((run.path / "labels.csv").open()))
    assert [line["label"] for line in lines] == ["blue", "cross", "disc", "green", "red"]
    kept = json.loads((run.path / "model" / "config.json").read_text())["task"]
    assert dict(zip(kept["labels"], kept["thresholds"], strict=True)) == thresholds
    table = pd.read_csv(rows).query("split == 'test'")
    answers = mmft.load(run.path).predict(table, root=shapes.rows.parent)
    truth, guess = ([set(t.split("|")) - {""} for t in column] for column in (table["tags"], answers["prediction"]))
    assert np.mean([t == g for t, g in zip(truth, guess, strict=True)]) == pytest.approx(summary["test"]["exact_match"])
    for name, threshold in thresholds.items():
        assert [name in found for found in guess] == (answers[f"score_{name}"] > threshold).tolist()
    capsys.readouterr()
    assert run_test(compose("test", [f"run={run.path}", f"data.path={rows}"])) == 0
    said = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(said["f1_macro"]) == pytest.approx(summary["test"]["f1_macro"], abs=1e-4)
    out = tmp_path / "predictions.parquet"
    assert predict(compose("predict", [f"run={run.path}", f"data.path={rows}", f"out={out}"])) == 0
    assert len(pd.read_parquet(out)) == len(pd.read_csv(rows))


def test_columns_of_labels_lists_and_init(
    train_run: TrainRun, rows: Path, shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["trainer.max_epochs=1", "data.max_bad_fraction=0.1", "data.limit=null"]
    columns = "[blue,cross,disc,green,red]"
    first = train_run(*typed(rows, shapes, columns), *short, "task.loss=asymmetric", "task.thresholds=0.4")
    [bad] = csv.DictReader((first.path / "bad_rows.csv").open())
    assert bad["reason"] == "red: '5' is neither 0 nor 1, true nor false"
    assert "tuned" not in first.summary
    frame = pd.read_csv(rows)
    frame["tags"] = [label.split() for label in frame["label"]]
    frame.to_parquet(tmp_path / "lists.parquet")
    capsys.readouterr()
    for label, taken in (("tags", "init: all weights from"), ("[red,blue]", "the head is new")):
        train_run(*typed(tmp_path / "lists.parquet", shapes, label), *short, f"init={first.path}")
        assert taken in capsys.readouterr().err


@pytest.mark.slow
def test_sixteen_rows_can_be_learned_by_heart(train_run: TrainRun, rows: Path, shapes: Shapes) -> None:
    more = ["debug=overfit", "trainer.max_epochs=40", "data.limit=null", "optim.lr=2e-3"]
    run = train_run(*typed(rows, shapes, "tags"), *more)
    assert run.summary["test"]["exact_match"] == 1
    assert run.summary["test"]["map"] == 1


def test_check_counts_labels(
    rows: Path, shapes: Shapes, shapes_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["data.limit=null", "data.max_bad_fraction=0.1", "audit.pictures=false"]
    assert check(compose("check", [*shapes_overrides, *typed(rows, shapes, "tags"), *more])) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    train = pd.read_csv(rows).query("split == 'train'")
    for name in ("red", "cross"):
        count = train["tags"].dropna().drop(1, errors="ignore").str.contains(name).sum()
        line = next(line for line in said if line and line[0] == name)
        assert line[1:3] == [str(count), f"({count / len(train):.1%})"]
    assert ["(missing)", "1"] in [line[:2] for line in said]
