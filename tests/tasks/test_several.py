"""Several tasks at once: their losses, the rows that each is measured on, answers, whole runs."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from make_shapes import Shapes
from runs import Run
from task_batches import batch, outputs
from torch import Tensor
from torch.nn import functional

import mmft
from mmft.cli.main import main
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.tasks.classification import Classification
from mmft.tasks.multi_label import MultiLabel
from mmft.tasks.question_answering import QuestionAnswering
from mmft.tasks.regression import Regression
from mmft.tasks.several import Several
from mmft.tasks.side_by_side import Heads
from mmft.training.objective import Objective

LABELS: list[dict[str, Any]] = [
    {"kind": "a", "price": 1.0, "tags": "x|y"},
    {"kind": None, "price": 3.0, "tags": None},
    {"kind": "b", "price": None, "tags": "y"},
    {"kind": "c", "price": 8.0, "tags": None},
    {"kind": "a", "price": None, "tags": None},
]


def fitted(**weights: float) -> Several:
    parts = {"kind": Classification(class_weights="balanced"), "price": Regression(), "tags": MultiLabel()}
    task = Several(parts, weights)
    task.fit(LABELS)
    return task


def targets(task: Several) -> Tensor:
    return torch.stack([task.encode(label) for label in LABELS])


class TestLoss:
    def test_each_is_the_tasks_own_over_the_rows_that_have_its_label(self) -> None:
        task = fitted(price=0.5)
        assert task.loss_terms == {"kind": 1.0, "price": 0.5, "tags": 1.0}
        logits, weight = torch.randn(5, 6, dtype=torch.float64), torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5])
        rows = batch(targets(task), weight)
        means = task.loss_sums(outputs(logits), rows) / task.normalisers(rows)
        w, own = weight.double(), task.parts["kind"].weights.value.double()  # type: ignore[attr-defined]
        there, kinds = [0, 2, 3, 4], torch.tensor([0, 1, 2, 0])
        losses = functional.cross_entropy(logits[there, :3], kinds, own, reduction="none")
        assert means[0].item() == pytest.approx(float((losses * w[there]).sum() / (own[kinds] * w[there]).sum()))
        price = torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)
        scaled = (price - price.mean()) / price.std(correction=0)
        errors = (logits[[0, 1, 3], 3] - scaled).square() * w[[0, 1, 3]]
        assert means[1].item() == pytest.approx(float(errors.sum() / w[[0, 1, 3]].sum()), rel=1e-6)
        tags = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
        losses = functional.binary_cross_entropy_with_logits(logits[[0, 2], 4:], tags, reduction="none").mean(1)
        assert means[2].item() == pytest.approx(float((losses * w[[0, 2]]).sum() / w[[0, 2]].sum()), rel=1e-6)

    def test_micro_batches_add_up(self) -> None:
        task, logits = fitted(), torch.randn(5, 6, dtype=torch.float64)
        rows, whole = batch(targets(task)), task.loss_sums(outputs(logits), batch(targets(task)))
        parts = [task.loss_sums(outputs(logits[at : at + 1]), one) for at, one in enumerate(rows.split(1))]
        assert torch.stack(parts).sum(0).tolist() == pytest.approx(whole.tolist(), abs=1e-12)
        normalisers = torch.stack([task.normalisers(one) for one in rows.split(1)]).sum(0)
        assert normalisers.tolist() == pytest.approx(task.normalisers(rows).tolist(), abs=1e-12)


class TestLabels:
    def test_a_row_without_any_label_is_bad(self) -> None:
        with pytest.raises(ValueError, match="no label for any of the tasks"):
            fitted().encode({"kind": None, "price": None, "tags": None})

    def test_a_label_that_cannot_be_used_makes_the_row_bad_and_names_its_task(self) -> None:
        with pytest.raises(ValueError, match="price: label 'much' is not a number"):
            fitted().encode({"kind": "a", "price": "much", "tags": "x"})

    def test_what_is_wrong_with_columns_is_told_all_at_once(self) -> None:
        task = Several({"kind": Classification(), "price": Regression()})
        with pytest.raises(UserError) as error:
            task.fit([{"kind": "a", "price": 1}, {"kind": "a", "price": 1}])
        assert "task.tasks.kind: " in str(error.value)
        assert "task.tasks.price: " in str(error.value)

    def test_state_brings_everything_back(self) -> None:
        task, again = fitted(), Several({"kind": Classification(), "price": Regression(), "tags": MultiLabel()})
        again.load_state(json.loads(json.dumps(task.state())))
        assert torch.equal(targets(again), targets(task))
        assert (again.width, again.state()) == (6, task.state())
        assert again.same_outputs(task.state())
        other = Several({"price": Regression(), "kind": Classification(), "tags": MultiLabel()})
        other.load_state(task.state())
        assert not other.same_outputs(task.state())


class TestMetrics:
    def test_each_is_of_the_rows_that_have_its_label(self) -> None:
        task = fitted()
        logits = torch.zeros(5, 6)
        logits[:, 0] = 5.0  # always a
        metrics = task.metrics()
        for at in range(5):
            one = batch(targets(task)[at : at + 1])
            task.update(metrics, outputs(logits[at : at + 1]), one)
        values = task.scalars(metrics)
        assert values["kind/accuracy"] == 0.5  # of four
        assert values["price/mae"] == pytest.approx((3 + 1 + 4) / 3)
        assert set(values) == set(task.metric_names())
        assert task.tables(metrics)["kind_confusion_matrix"][1:] == [["a", 2, 0, 0], ["b", 1, 0, 0], ["c", 1, 0, 0]]

    def test_a_task_without_a_row_has_no_figure(self) -> None:
        task = fitted()
        metrics = task.metrics()
        task.update(metrics, outputs(torch.zeros(1, 6)), batch(targets(task)[1:2]))
        values = task.scalars(metrics)
        assert math.isnan(values["kind/accuracy"])
        assert values["price/mae"] == pytest.approx(1.0)
        metrics.reset()
        assert all(math.isnan(value) for value in task.scalars(metrics).values())

    def test_what_is_tuned_is_tuned_on_labelled_rows(self) -> None:
        task = fitted()
        logits = torch.randn(5, 6)
        alone = MultiLabel()
        alone.fit([label["tags"] for label in LABELS])
        there = [0, 2]
        expected = alone.tune(logits[there, 4:], torch.tensor([[True, True], [False, True]]), torch.ones(2))
        assert task.tunes
        assert task.tune(logits, targets(task), torch.ones(5)) == {"tags": expected}
        assert task.untuned().parts["tags"].thresholds == [0.5, 0.5]  # type: ignore[attr-defined]

    def test_whose_thresholds_are_told_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        task = fitted()
        with caplog.at_level("INFO", logger="mmft"):
            task.tune(torch.randn(5, 6), targets(task), torch.ones(5))
        said = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
        assert said[0] == "tuned for tags:"
        assert said[1].startswith("thresholds, tuned on 2 validation rows")

    def test_a_task_without_a_row_to_be_tuned_on_is_named(self, caplog: pytest.LogCaptureFixture) -> None:
        task = fitted()
        assert task.tune(torch.randn(2, 6), targets(task)[[1, 3]], torch.ones(2)) == {}
        said = "no validation row has a label for tags: it is not tuned"
        assert caplog.records[-1].getMessage() == said


def test_answers_are_each_tasks_own() -> None:
    task = fitted()
    answer = task.answers(outputs(torch.tensor([[0.0, 2.0, 0.0, 1.0, 3.0, -3.0]])))[0]
    assert list(answer) == task.answer_columns
    assert json.loads(answer["prediction"])["kind"] == answer["prediction_kind"] == "b"
    assert answer["score_kind_b"] == answer["score_kind"] > 0.7
    assert answer["prediction_price"] == pytest.approx(4 + 8.666666**0.5)
    assert answer["prediction_tags"] == "x"


def test_predictions_of_two_tasks_cannot_have_one_name() -> None:
    parts = {"label": Classification(), "label_food": Classification()}
    rows = [{"label": "food", "label_food": "a"}, {"label": "cat", "label_food": "b"}]
    with pytest.raises(UserError, match="two tasks have a column of predictions 'score_label_food'"):
        Several(parts).fit(rows)
    with pytest.raises(UserError, match="two tasks have a table 'a_b'"):
        Several({"a b": Regression(), "a/b": Regression()}).fit([{"a b": 1, "a/b": 2}, {"a b": 2, "a/b": 3}])


def test_a_task_cannot_have_the_name_of_a_loss_beside_it() -> None:
    task = Several({"kind": Classification(), "alignment": Regression()})
    with pytest.raises(UserError, match="has the name of an auxiliary loss"):
        Objective(task, alignment="kl", alignment_weight=0.1)


def test_a_task_without_a_row_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    task = fitted()
    for _ in range(2):
        metrics = task.metrics()
        task.update(metrics, outputs(torch.zeros(1, 6)), batch(targets(task)[1:2]))
        task.scalars(metrics)
    assert [r.getMessage() for r in caplog.records if "has a label for" in r.getMessage()] == [
        "no evaluation row has a label for kind, tags: its metrics are nan and loss leaves it out"
    ]


def test_a_key_beside_an_options_name_says_what_to_type(shapes_overrides: list[str]) -> None:
    """Hydra puts the key in the place of the name, so that both must be keys."""
    typed = ["data.columns.label=[label,size]", "task=several", TWO, "task.tasks.size.loss=l1"]
    with pytest.raises(UserError, match="task.tasks.size: has no option. Type task.tasks.size.type=NAME"):
        compose("train", [*shapes_overrides, *typed])
    task: Any = compose("train", [*shapes_overrides, *typed, "task.tasks.size.type=regression"]).config.task
    assert (task.tasks["label"].type, task.tasks["size"].loss) == ("classification", "l1")


def test_columns_with_any_letters_are_typed_as_the_message_says(shapes: Shapes, tmp_path: Path, capsys: Any) -> None:
    """Hydra's grammar has no umlauts outside of quotes, and no quotes around the keys of a mapping."""
    pd.read_csv(shapes.rows).assign(größe=range(240)).to_csv(tmp_path / "rows.csv", index=False)
    where = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", "audit.pictures=false"]
    typed = ["task.tasks={größe:regression,label:{type:classification,loss:focal}}", "task.loss_weights={größe:1e-2}"]
    typed += ["data.columns.label=[größe,label]"]
    kept = [o for o in shapes.overrides if not o.startswith(("data.path", "data.root", "data.columns.label"))]
    command = ["check", "task=several", *kept, *where]
    assert main([*command, *typed]) == 2
    hints = re.findall(r"for the shell and for mmft: (\S+)", capsys.readouterr().err)
    assert len(hints) == 3
    assert main([*command, *shlex.split(" ".join(hints))]) == 0
    assert main([*command, *shlex.split(" ".join(hints[:2])), "data.columns.label=label"]) == 2
    assert "Type \"data.columns.label=['größe',label]\"" in capsys.readouterr().err


@pytest.mark.parametrize("swept", ["task.loss_weights={size:0.1},{size:1}", "task.tasks.size.loss=l1,mse"])
def test_a_sweep_is_not_compared_by_a_loss_that_it_changes(swept: str, shapes_overrides: list[str]) -> None:
    tasks = "task.tasks={label:classification,size:{type:regression}}"
    typed = [*shapes_overrides, "data.columns.label=[label,size]", "task=several", tasks, swept]
    with pytest.raises(UserError, match="changes the meaning of val/loss.*checkpoint.monitor=label/accuracy"):
        compose("train", typed, multirun=True)
    compose("train", [*typed, "checkpoint.monitor=size/rmse"], multirun=True)


def test_heads_stand_side_by_side() -> None:
    heads = fitted().make_head(8)
    assert isinstance(heads, Heads)
    assert heads(torch.zeros(3, 8)).shape == (3, 6)


@pytest.fixture(scope="module")
def typed(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("several")
    frame = pd.read_csv(shapes.rows)
    frame["size"] = [len(str(text)) * 1.5 for text in frame["text"]]
    frame.loc[::4, "size"] = None
    frame.loc[1::4, "label"] = None
    frame.to_csv(folder / "rows.csv", index=False)
    kept = [o for o in shapes.overrides if not o.startswith(("data.path", "data.root", "data.columns.label", "modali"))]
    where = [f"data.path={folder / 'rows.csv'}", f"data.root={shapes.rows.parent}", "trainer.max_epochs=3"]
    tasks = "task.tasks={label:{type:classification,calibration:temperature},size:regression}"
    return [*kept, *where, "data.columns.label=[label,size]", "task=several", tasks, "task.loss_weights={size:0.25}"]


@pytest.fixture(scope="module")
def run(typed: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", *typed, f"paths.runs={runs}", "modality_report=true", "trainer.log_every_steps=1"]) == 0
    return Run(next(runs.glob("*/*/config.yaml")).parent)


def test_a_run_logs_each_loss_and_chooses_by_their_weighted_sum(run: Run) -> None:
    with (run.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for split in ("train", "val", "test"):
            if row[f"{split}/loss"]:
                both = [float(row[f"{split}/loss/{name}"]) for name in ("label", "size")]
                assert float(row[f"{split}/loss"]) == pytest.approx(both[0] + 0.25 * both[1], rel=1e-5)
    losses = [float(row["val/loss"]) for row in rows if row["val/loss"]]
    assert run.summary["monitor"] == "val/loss"
    assert run.summary["val"]["loss"] == pytest.approx(min(losses))
    assert run.summary["tuned"]["label"]["temperature"] > 0
    assert set(run.summary["modalities"]) == {"label", "size"}
    assert run.summary["modalities"]["size"]["both"] == run.summary["test"]["size/rmse"]
    assert (run.path / "label_confusion_matrix.csv").is_file()


def test_test_and_predict_use_the_finished_model(run: Run, tmp_path: Path) -> None:
    assert main(["test", f"run={run.path}"]) == 0
    out = tmp_path / "answers.csv"
    assert main(["predict", f"run={run.path}", f"out={out}"]) == 0
    answers = pd.read_csv(out)
    assert {"prediction_label", "score_label", "prediction_size"} <= set(answers.columns)
    model: Any = mmft.load(run.path)
    answer = model.predict([{"image": None, "text": "a red square"}])[0]
    assert json.loads(answer["prediction"])["label"] == answer["prediction_label"]


def test_a_metric_of_a_task_can_choose(typed: list[str], tmp_path: Path) -> None:
    more = ["checkpoint.monitor=val/size/rmse", "trainer.max_epochs=1", f"paths.runs={tmp_path}"]
    assert main(["train", *typed, *more]) == 0
    run = Run(next(tmp_path.glob("*/*/config.yaml")).parent)
    assert run.summary["monitor"] == "val/size/rmse"


def test_a_loss_that_no_row_of_a_step_has_is_not_logged_as_0(typed: list[str], tmp_path: Path) -> None:
    more = ["data.batch_size=1", "trainer.max_steps=8", "trainer.log_every_steps=1", f"paths.runs={tmp_path}"]
    assert main(["train", *typed, *more]) == 0
    with next(tmp_path.glob("*/*/metrics.csv")).open() as file:
        steps = [row for row in csv.DictReader(file) if row["train/loss"]]
    for name in ("label", "size"):
        assert {row[f"train/loss/{name}"] == "nan" for row in steps} == {True, False}
    assert not any(float(row["train/loss/label"]) == 0 for row in steps)


def test_by_each_modality_every_task_has_its_loss(typed: list[str], tmp_path: Path) -> None:
    more = ["model.auxiliary.modality_weight=0.5", "trainer.max_steps=1", f"paths.runs={tmp_path}"]
    assert main(["train", *typed, *more]) == 0
    header = next(tmp_path.glob("*/*/metrics.csv")).read_text().splitlines()[0]
    heads = json.loads(next(tmp_path.glob("*/*/summary.json")).read_text())["parameters"]["auxiliary"]
    assert heads["trainable"] == heads["total"] > 0
    for name in ("label", "size", "image/label", "image/size", "text/label", "text/size"):
        assert f"train/loss/{name}," in header


def test_check_tells_of_each_tasks_labels(typed: list[str], capsys: Any) -> None:
    assert main(["check", *typed, "audit.pictures=false"]) == 0
    said = capsys.readouterr().out
    assert "labels of label" in said
    assert "labels of size" in said
    of_label = said.partition("labels of label")[2].partition("labels of size")[0]
    assert "(missing)" in of_label  # rows without a label are not said to have no label of several
    assert "(none)" not in of_label


def test_the_model_card_tells_of_each_task(run: Run, tmp_path: Path) -> None:
    assert main(["export", f"run={run.path}", f"out={tmp_path}"]) == 0
    card = (tmp_path / "README.md").read_text().splitlines()
    labels = mmft.load(run.path).saved.task.parts["label"].output_names  # type: ignore[attr-defined]
    assert f"Outputs of label: {', '.join(labels)}." in card
    assert "Outputs of size: a number." in card


def test_explain_has_a_page_for_each_task(run: Run, tmp_path: Path, capsys: Any) -> None:
    def explained(*more: str) -> dict[str, dict[str, Any]]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        assert main(["explain", f"run={run.path}", "rows=[0]", f"out={out}", "points=32", *more]) == 0
        for page in capsys.readouterr().out.split():
            assert Path(page).read_bytes()[:4] == b"\x89PNG"
        return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}

    found = explained()
    assert set(found) == {"row0_label", "row0_size"}
    said = json.loads(found["row0_label"]["prediction"])
    assert found["row0_label"]["explained"] == said["label"]
    assert found["row0_size"]["value"] == pytest.approx(said["size"], abs=1e-4)  # in its own units
    for one in found.values():
        parts = sum(word["weight"] for word in one["words"]) + one["image"]
        assert one["value"] - one["baseline"] - one["missed"] == pytest.approx(parts, abs=1e-6)
    assert set(explained("label=size")) == {"row0_size"}
    other = next(name for name in mmft.load(run.path).saved.task.output_names if name not in ("", said["label"]))
    assert explained(f"label='{other}'")["row0_label"]["explained"] == other
    assert main(["explain", f"run={run.path}", "rows=[0]", f"out={tmp_path}", "label=siez"]) == 2
    assert "label=siez: no such label. Did you mean size?" in capsys.readouterr().err


def test_every_task_of_rows_can_be_one_of_several() -> None:
    parts: dict[str, Any] = {"kind": Classification(), "answers": QuestionAnswering(min_count=1), "price": Regression()}
    task = Several(parts)
    rows = [{"kind": "a", "answers": ["yes", "yes", "no"], "price": 1}, {"kind": "b", "answers": ["2"], "price": 2}]
    task.fit(rows)
    both = batch(torch.stack([task.encode(row) for row in rows]))
    for name, part in parts.items():
        own = torch.stack([torch.as_tensor(part.encode(row[name])) for row in rows])
        target = task.rows_of(name, both).target
        assert target is not None
        assert target.dtype == own.dtype
        assert torch.equal(target, own)
    assert task.answer_texts == ["prediction", "prediction_kind", *(f"prediction_answers{n}" for n in ("", "_2", "_3"))]
    assert set(task.answer_texts) <= set(task.answer_columns)


TWO = "task.tasks={label:classification,size:regression}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["task.tasks={label:classification}"], "task.tasks: only one task is given. Type task=classification"),
        (["task.tasks={label:clasification,size:regression}"], "task.tasks.label.type: .*Did you mean classification"),
        (["task.tasks={label:{los:focal},size:regression}"], "task.tasks.label: has no option"),
        (["task.tasks={label:classification,size:{type:regression,los:l1}}"], "task.tasks.size.los: no such key"),
        (
            ["task.tasks={label:classification,size:{type:regression,huber_delta:2}}"],
            "task.tasks.size.huber_delta: changes nothing, because task.tasks.size.loss=mse",
        ),
        (
            ["task.tasks={label:{type:classification,labels:[a]},size:regression}"],
            "task.tasks.label.labels: .* at least two names",
        ),
        (["task.tasks=classification"], "task.tasks: 'classification' is not a mapping"),
        (["task.tasks={}"], "is not a mapping of names"),
        (["task.tasks={loss:regression,label:classification}"], "task.tasks: loss: a task cannot be called loss"),
        (["task.tasks={a/val:regression,label:classification}"], "task.tasks: a/val: a task cannot be called val"),
        (["task.tasks='{label:&a regression,size:*a}'"], "is not a mapping of names to options"),
        (["task.tasks='{label:{type:clasification},size:regression}'"], "Did you mean classification"),
        (["task.tasks={label:contrastive,size:regression}"], "task=contrastive .label. cannot be one of several"),
        ([TWO, "data.columns.label=label"], "Type data.columns.label=.label,size."),
        ([TWO, "task.loss_weights={sise:2}"], "sise is not a task. Did you mean size"),
        ([TWO, "task.loss_weights={size:0}"], "size: 0.* is not above 0"),
        ([TWO, "data.sampler=balanced"], "data.sampler"),
        ([TWO, "data.augment.mixup=0.2"], "mixup"),
    ],
)
def test_wrong_configs(more: list[str], message: str, shapes_overrides: list[str]) -> None:
    with pytest.raises(UserError, match=message):
        compose("train", [*shapes_overrides, "data.columns.label=[label,size]", "task=several", *more])
