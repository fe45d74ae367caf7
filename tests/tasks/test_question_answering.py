"""Question answering: targets, losses and metrics against plain loops, the vocabulary, whole runs."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from make_shapes import Shapes
from runs import TrainRun
from task_batches import batch, outputs
from torch import Tensor

import mmft
from mmft.commands.check import check
from mmft.commands.explain import explain
from mmft.commands.predict import predict
from mmft.commands.test import test as run_test
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_splits
from mmft.errors import UserError
from mmft.reports.prediction_sample import sample_predictions
from mmft.tasks.answers import vqa_score
from mmft.tasks.question_answering import SLOTS, QuestionAnswering

ROWS: list[Any] = [
    ["red", "red", "The red", "blue", "green"],
    "red|blue",
    "blue",
    ["2", "two", "red"],
    ["zebra"],  # given in one row alone: not in the vocabulary
    ["2", "gnu", "yak"] * 3 + ["blue"],
]
NAMES = ["blue", "red", "2"]  # in 4, 3 and 2 rows


def fitted(rows: list[Any] = ROWS, /, **options: Any) -> QuestionAnswering:
    task = QuestionAnswering(**options)
    task.fit(rows)
    return task


def encoded(task: QuestionAnswering, rows: list[Any] = ROWS) -> Tensor:
    return torch.stack([task.encode(row) for row in rows])


def drawn(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (R, C) and weights (R,)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(len(ROWS), len(NAMES), generator=generator, dtype=torch.float64)
    return logits, torch.rand(len(ROWS), generator=generator)


WORTH = [  # of NAMES in ROWS, by the annotators of each row
    [vqa_score(1, 5), vqa_score(3, 5), 0],
    [1 / 2, 1 / 2, 0],
    [1, 0, 0],
    [0, 1 / 3, 2 / 3],
    [0, 0, 0],
    [0.3, 0, 0.9],
]


class TestTargets:
    def test_are_what_each_answer_is_worth(self) -> None:
        task = fitted()
        assert task.labels == NAMES
        assert encoded(task).shape == (6, 3, 2)
        torch.testing.assert_close(
            task.soft_targets(encoded(task), torch.float64), torch.tensor(WORTH, dtype=torch.float64)
        )

    def test_a_row_has_room_for_many_answers(self) -> None:
        names = [f"answer {number}" for number in range(SLOTS + 1)]
        task = fitted([names, names[:-1]], min_count=1)
        assert task.width == SLOTS + 1
        assert (task.soft_targets(task.encode(names[:-1])[None], torch.float32)[0] > 0).sum() == SLOTS
        with pytest.raises(ValueError, match="33 different answers of the vocabulary; a row can have at most 32"):
            task.encode(names)

    def test_without_an_answer_there_is_none(self) -> None:
        for empty in (None, []):
            with pytest.raises(ValueError, match="^no answer$"):
                fitted().encode(empty)

    def test_names_of_a_row_are_known_before_it_is_fitted(self) -> None:
        assert QuestionAnswering().label_names("The cat|dog|Dog.") == ["dog", "cat"]


class TestVocabulary:
    def test_limits(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            assert fitted(answers=2).labels == ["blue", "red"]
        reachable = (0.8 + 0.5 + 1 + 1 / 3 + 0 + 0.3) / 6
        assert (
            f"vocabulary: 2 answers, 2 of the training rows' 7 distinct ones; best possible vqa_accuracy on them: "
            f"{reachable:.4f}; 1 of 6 rows have no answer in the vocabulary"
        ) in caplog.text
        assert fitted(min_count=3).labels == ["blue", "red"]
        assert fitted(min_count=1, answers=None).labels == [*NAMES, "gnu", "green", "yak", "zebra"]

    def test_as_answers_stand(self) -> None:
        assert fitted(min_count=1, normalise=False).labels[:3] == ["blue", "red", "2"]
        assert {"two", "The red"} < set(fitted(min_count=1, normalise=False).labels)

    def test_a_given_one(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            assert fitted(vocabulary=["Two", "red", "The cow"]).labels == ["2", "red", "cow"]
        assert "answers of task.vocabulary that no training row has: cow" in caplog.text

    @pytest.mark.parametrize(
        ("rows", "options", "said"),
        [
            ([None, []], {}, "no training row has answers that can be used: no answer"),
            (["yes", "no"], {}, "no answer is given in at least task.min_count=2 training rows.*Type task.min_count=1"),
            (["yes", "Yes."], {}, "only 'yes' is given in at least task.min_count=2 training rows"),
            (["yes", "yes"], {"min_count": 1}, "only 'yes' is given .* needs two answers.$"),
            (ROWS, {"vocabulary": ["dog", "The dog"]}, "task.vocabulary: 'dog' and 'The dog' are the same answer"),
            (ROWS, {"vocabulary": ["cow", "ox"]}, "task.vocabulary: no training row has any of its answers .cow, ox"),
        ],
    )
    def test_rows_that_cannot_be_learned(self, rows: list[Any], options: dict[str, Any], said: str) -> None:
        with pytest.raises(UserError, match=said):
            fitted(rows, **options)


def plain_loss(logits: Tensor, weight: Tensor, loss: str) -> tuple[float, float]:
    """The loss and the divisor, by a loop over rows and answers."""
    total = divisor = 0.0
    for row, worth, w in zip(logits.tolist(), WORTH, weight.tolist(), strict=True):
        if loss == "bce":
            p = [1 / (1 + math.exp(-z)) for z in row]
            total -= w * sum(s * math.log(q) + (1 - s) * math.log(1 - q) for s, q in zip(worth, p, strict=True))
            divisor += w
        elif sum(worth):
            norm = math.log(sum(math.exp(z) for z in row))
            total -= w * sum(s / sum(worth) * (z - norm) for s, z in zip(worth, row, strict=True))
            divisor += w
    return total, divisor


@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
class TestLoss:
    def test_is_that_of_a_plain_loop(self, loss: str) -> None:
        task, (logits, weight) = fitted(loss=loss), drawn()
        rows = batch(encoded(task), weight)
        total, divisor = plain_loss(logits, weight, loss)
        assert task.loss_sum(outputs(logits), rows).item() == pytest.approx(total, abs=1e-10)
        assert task.normaliser(rows).item() == pytest.approx(divisor, abs=1e-12)
        assert task.normaliser(rows).dtype == torch.float64

    @pytest.mark.parametrize("size", [1, 2, 4])
    def test_parts_of_a_batch_add_up_to_the_whole(self, loss: str, size: int) -> None:
        task, (logits, weight) = fitted(loss=loss), drawn()
        target = encoded(task)
        parts = [slice(start, start + size) for start in range(0, len(ROWS), size)]
        gradients, sums = [], []
        for slices in ([slice(None)], parts):
            x = logits.clone().requires_grad_()
            batches = [(s, batch(target[s], weight[s])) for s in slices]
            divisor = torch.stack([task.normaliser(rows) for _, rows in batches]).sum()
            loss_ = torch.stack([task.loss_sum(outputs(x[s]), rows) / divisor for s, rows in batches]).sum()
            loss_.backward()  # type: ignore[no-untyped-call]
            assert x.grad is not None
            gradients.append(x.grad)
            sums.append(loss_.item())
        assert sums[0] == pytest.approx(sums[1], abs=1e-12)
        torch.testing.assert_close(*gradients)

    def test_a_row_outside_the_vocabulary(self, loss: str) -> None:
        """By `bce` it teaches that no answer is right; by `cross_entropy` nothing."""
        task, x = fitted(loss=loss), torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
        rows = batch(task.encode("elephant")[None])
        value = task.loss_sum(outputs(x), rows)
        value.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        if loss == "bce":
            torch.testing.assert_close(x.grad, x.detach().sigmoid())
        else:
            assert not x.grad.any()
            assert value.item() == 0
        assert task.normaliser(rows).item() == (loss == "bce")

    def test_bf16_logits_are_scored_in_float32(self, loss: str) -> None:
        task = fitted(loss=loss)
        assert task.loss_sum(outputs(drawn()[0].bfloat16()), batch(encoded(task))).dtype == torch.float32

    def test_the_best_constant_is_what_most_say(self, loss: str) -> None:
        task, weight = fitted(loss=loss), torch.tensor([1.0, 0, 0, 2, 1, 3])
        constant = task.constant_outputs(encoded(task), weight)
        mean = (torch.tensor(WORTH) * weight[:, None]).sum(0) / weight.sum()
        assert task.labels[int(constant.argmax())] == "2"
        found = constant.exp() if loss == "cross_entropy" else constant.sigmoid()
        torch.testing.assert_close(found, mean)


def test_the_head_of_bce_begins_with_the_average() -> None:
    task, nothing = fitted(), torch.zeros(1, 4)
    usual = task.constant_outputs(encoded(task), torch.ones(len(ROWS)))
    torch.testing.assert_close(task.make_head(4)(nothing)[0], usual)
    assert fitted(loss="cross_entropy").make_head(4)(nothing).abs().max() < 1
    again = QuestionAnswering()
    again.load_state(task.state())
    assert again.make_head(4)(nothing).shape == (1, 3)  # its weights are those of the saved model


def test_metrics() -> None:
    """Eight answers, so that the fifth and the sixth differ; whole and in parts."""
    names = list("abcdefgh")
    task = fitted([names, names])
    rows = ["h", "c|d", "x", "c|b|b", "g"]
    logits = torch.arange(8, 0, -1).expand(5, -1) + torch.tensor([0.0, 0, 0, 0, 9])[:, None] * torch.eye(8)[6]
    expected = {
        "vqa_accuracy": (0 + 0 + 0 + 0 + 1) / 5,  # a is predicted, and g in the last row
        "top5_vqa_accuracy": (0 + 0.5 + 0 + 2 / 3 + 1) / 5,
        "vqa_accuracy_reachable": (1 + 0.5 + 0 + 2 / 3 + 1) / 5,
    }
    target = encoded(task, rows)
    for size in (5, 2):
        metrics = task.metrics()
        for start in range(0, 5, size):
            part = slice(start, start + size)
            task.update(metrics, outputs(logits[part]), batch(target[part]))
        assert task.scalars(metrics) == pytest.approx(expected, abs=1e-12)
    assert task.metric_names() == sorted(expected)


def test_metrics_that_begin_alike_do_not_stay_so() -> None:
    """Torchmetrics lets metrics share what they keep if they keep the same after the first batch."""
    task = fitted(["a|b", "a|b"])
    metrics = task.metrics()
    for logits in ([5.0, 0], [0, 5.0]):
        task.update(metrics, outputs(torch.tensor([logits])), batch(task.encode("a")[None]))
    assert task.scalars(metrics) == {"vqa_accuracy": 0.5, "top5_vqa_accuracy": 1, "vqa_accuracy_reachable": 1}


@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
def test_answers(loss: str) -> None:
    task, logits = fitted(loss=loss), torch.tensor([[0.0, 1, -2], [3, -1, 4]])
    probabilities = logits.sigmoid() if loss == "bce" else logits.softmax(1)
    first, second = task.answers(outputs(logits))
    assert list(first) == task.answer_columns
    assert task.answer_columns == ["prediction", "score", "prediction_2", "score_2", "prediction_3", "score_3"]
    assert task.answer_texts == ["prediction", "prediction_2", "prediction_3"]
    assert [first[name] for name in task.answer_texts] == ["red", "blue", "2"]
    assert [second[name] for name in task.answer_texts] == ["2", "blue", "red"]
    assert [first["score"], first["score_2"], second["score_3"]] == pytest.approx(
        [probabilities[0, 1].item(), probabilities[0, 0].item(), probabilities[1, 1].item()]
    )
    many = fitted(["a|b|c|d|e|f|g"] * 2)
    assert many.answer_columns[-2:] == ["prediction_5", "score_5"]


def test_the_state_goes_through_json() -> None:
    task, (logits, _) = fitted(), drawn()
    again = QuestionAnswering()
    again.load_state(json.loads(json.dumps(task.state())))
    assert again.answers(outputs(logits)) == task.answers(outputs(logits))
    assert torch.equal(encoded(again), encoded(task))
    assert again.same_outputs(task.state())
    assert not fitted(answers=2).same_outputs(task.state())


@pytest.fixture
def rows(shapes: Shapes, tmp_path: Path) -> Path:
    """The shapes with questions for their colour or their shape, and three answers each; four rows have none.

    Two of these are test rows, the others training rows.
    """
    frame = pd.read_csv(shapes.rows)
    colours, forms = frame["label"].str.split(" ").str[0], frame["label"].str.split(" ").str[1]
    odd = frame.index % 2 == 1
    asked = ["what shape is it?" if is_odd else "what colour is it?" for is_odd in odd]
    frame["text"] = [f"{question} {text}" for question, text in zip(asked, frame["text"], strict=True)]
    right = forms.where(odd, colours)
    frame["answers"] = [f"The {one}|{one}.|{'a cross' if n % 3 else 'dont know'}" for n, one in enumerate(right)]
    for split in ("train", "test"):
        some = frame.index[frame["split"] == split]
        frame.loc[some[0], "answers"] = None
        frame.loc[some[1], "answers"] = "red||disc"
    path = tmp_path / "answers.csv"
    frame.to_csv(path, index=False)
    return path


def usable(rows: Path) -> pd.DataFrame:
    frame = pd.read_csv(rows)
    return frame[frame["answers"].notna() & (frame["answers"] != "red||disc")]


def typed(rows: Path, shapes: Shapes) -> list[str]:
    where = [f"data.path={rows}", f"data.root={shapes.rows.parent}", "data.columns.label=answers"]
    return [*where, "task=question_answering", "data.limit=null", "data.max_bad_fraction=0.1"]


def test_a_run_learns_and_comes_back(
    train_run: TrainRun, rows: Path, shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run(*typed(rows, shapes), "trainer.max_epochs=8", "optim.lr=1e-3", "modality_report=true")
    said = capsys.readouterr().err
    summary = run.summary
    assert "vocabulary: 6 answers, 6 of the training rows' 6 distinct ones" in said
    assert summary["monitor"] == "val/vqa_accuracy"
    assert summary["rows"]["bad"] == 4
    assert summary["test"]["vqa_accuracy"] > summary["modalities"]["majority"] + 0.1
    assert summary["test"]["vqa_accuracy"] <= summary["test"]["top5_vqa_accuracy"]
    bad = list(csv.DictReader((run.path / "bad_rows.csv").open()))
    reasons = ["an empty answer in 'red||disc'", "no answer"]
    assert sorted(line["reason"].partition(",")[0] for line in bad) == sorted(reasons * 2)
    table = usable(rows).query("split == 'test'")
    model = mmft.load(run.path)
    assert set(model.labels) == {"red", "green", "blue", "disc", "cross", "don't know"}
    found = model.predict(table, root=shapes.rows.parent)
    worth = [vqa_score(_given(label, p), 3) for label, p in zip(table["answers"], found["prediction"], strict=True)]
    assert sum(worth) / len(worth) == pytest.approx(summary["test"]["vqa_accuracy"])
    assert run_test(compose("test", [f"run={run.path}", f"data.path={rows}"])) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(lines["vqa_accuracy"]) == pytest.approx(summary["test"]["vqa_accuracy"], abs=1e-4)
    out = tmp_path / "predictions.parquet"
    assert predict(compose("predict", [f"run={run.path}", f"data.path={rows}", f"out={out}"])) == 0
    told = pd.read_parquet(out)
    assert len(told) == len(pd.read_csv(rows))
    assert set(told["prediction_5"]) <= set(model.labels)
    assert (told["score"] >= told["score_2"]).all()
    explained = [f"run={run.path}", f"out={tmp_path / 'why'}", "rows=[4]", 'label="don\'t know"', "points=4"]
    assert explain(compose("explain", explained)) == 0
    split = load_splits(model.saved.config.data, 0)["test"]
    for one in sample_predictions(model.model, model.saved.task, split, model.saved.config, len(split)):
        assert (one.label == "") == (one.row not in table.index)  # rows without answers are answered all the same
    assert json.loads((tmp_path / "why" / "row4.json").read_text())["explained"] == "don't know"


def _given(label: str, answer: str) -> int:
    """How many of three annotators gave the answer; written apart from the task's own counting."""
    changed = {"The ": "", "a cross": "cross", ".": "", "dont": "don't"}
    for old, new in changed.items():
        label = label.replace(old, new)
    return label.split("|").count(answer)


def test_lists_and_init(
    train_run: TrainRun, rows: Path, shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parquet's lists are the same answers: the same vocabulary, and with it all weights."""
    short = ["trainer.max_epochs=1", "task.loss=cross_entropy"]
    first = train_run(*typed(rows, shapes), *short)
    frame = usable(rows)
    frame["answers"] = frame["answers"].str.split("|")
    frame.to_parquet(tmp_path / "lists.parquet")
    capsys.readouterr()
    for more, taken in (([], "init: all weights from"), (["task.answers=3"], "the head is new")):
        train_run(*typed(tmp_path / "lists.parquet", shapes), *short, *more, f"init={first.path}")
        assert taken in capsys.readouterr().err


def test_check_counts_answers(
    rows: Path, shapes: Shapes, shapes_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*shapes_overrides, *typed(rows, shapes), "audit.pictures=false"]
    assert check(compose("check", overrides)) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    train = usable(rows).query("split == 'train'")["answers"]
    for name, written in (("cross", "cross"), ("don't", "dont"), ("red", "The red")):
        line = next(line for line in said if line and line[0] == name)
        at = 2 if name == "don't" else 1
        assert line[at] == str(train.str.contains(written).sum())
    assert ["(missing)", "1"] in [line[:2] for line in said]
