"""A run over pairs as a classifier of images, by labels' names: in test, predict, explain and Python."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from make_shapes import Shapes
from runs import Run, TrainRun

import mmft
from mmft.cli.main import main
from mmft.config.compose import compose
from mmft.errors import UserError

PROMPTS = ["a {} drawing", "{}"]


@pytest.fixture(scope="module")
def run(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("runs")
    typed = ["task=contrastive", f"task.templates={PROMPTS}", "trainer.max_epochs=1", "data.limit=null"]
    assert main(["train", *shapes.overrides, *typed, f"paths.runs={runs}"]) == 0
    return Run(next(runs.glob("*/*/config.yaml")).parent)


@pytest.fixture
def table(shapes: Shapes, tmp_path: Path) -> list[str]:
    """Six images without titles, one of them absent; labels of other names."""
    rows = list(csv.DictReader(shapes.rows.open()))[:6]
    kept = [{"image": row["image"], "kind": row["label"].split("_")[-1], "id": row["id"]} for row in rows]
    kept[2]["image"] = ""
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, kept[0])
        writer.writeheader()
        writer.writerows(kept)
    return [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}"]


def figures(said: str) -> dict[str, float]:
    return {name: float(value) for name, value in (line.split() for line in said.splitlines() if " " in line)}


def test_its_accuracy_is_the_runs_own(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", f"run={run.path}", "zero_shot.labels=run"]) == 0
    found = figures(capsys.readouterr().out)
    assert found["accuracy"] == pytest.approx(run.summary["test"]["zero_shot/accuracy"], abs=1e-6)
    assert {"f1_macro", "auroc"} <= set(found)


def test_labels_and_images_of_another_table(run: Run, table: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    typed = [f"run={run.path}", *table, "data.columns.label=kind", "data.columns.id=id", "data.max_bad_fraction=0.5"]
    assert main(["test", *typed, "zero_shot.labels=rows", "zero_shot.templates=['{}']"]) == 0
    printed = capsys.readouterr().out
    assert (figures(printed)["rows"], figures(printed)["bad_rows"]) == (5, 1)


def test_predict_needs_no_text(run: Run, table: list[str], tmp_path: Path) -> None:
    out, labels = tmp_path / "out.csv", ["disc", "old_square"]
    asked = [f"zero_shot.labels=[{','.join(labels)}]", "zero_shot.templates=['a {}']", f"out={out}"]
    assert main(["predict", f"run={run.path}", *table, *asked]) == 0
    answers = list(csv.DictReader(out.open()))
    assert [answer["error"] for answer in answers] == ["", "", "neither an image nor a text", "", "", ""]
    assert answers[2]["prediction"] == answers[2]["score_disc"] == ""
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    model = mmft.load(run.path)
    here = model.zero_shot(labels, ["a {}"]).predict(rows, root=table[1].removeprefix("data.root="))
    assert model.labels != labels
    for typed, found in zip(answers, here, strict=True):
        assert typed["prediction"] == (found["prediction"] or "")
        if found["prediction"]:
            both = [found[f"score_{name}"] for name in labels]
            assert sum(both) == pytest.approx(1, abs=1e-6)
            assert found["score"] == max(both)
            assert labels[both.index(max(both))] == found["prediction"]
            assert [float(typed[f"score_{name}"]) for name in labels] == pytest.approx(both, abs=1e-6)


def test_scores_are_the_scaled_cosines(run: Run, shapes: Shapes) -> None:
    rows, labels = list(csv.DictReader(shapes.rows.open()))[:3], ["disc", "red square"]
    model, root = mmft.load(run.path), shapes.rows.parent
    image = model.embed(rows, root=root)["image"]
    text = model.embed([{**rows[0], "text": name} for name in labels], root=root)["text"]
    scale = float(model.model.head.log_scale.detach().exp())  # type: ignore[union-attr, operator, arg-type]
    expected = scale * (image @ text.T) @ [1, -1]
    for answer, difference in zip(model.zero_shot(labels, ["{}"]).predict(rows, root=root), expected, strict=True):
        assert math.log(answer["score_disc"] / answer["score_red square"]) == pytest.approx(difference, abs=1e-4)


def test_explain_a_label(run: Run, table: list[str], tmp_path: Path) -> None:
    asked = ["rows=[0]", "zero_shot.labels=[disc,square]", "label=square", f"out={tmp_path / 'out'}", "points=8"]
    assert main(["explain", f"run={run.path}", *table, *asked]) == 0
    found = json.loads((tmp_path / "out" / "row0.json").read_text())
    assert found["explained"] == "square"
    assert (found["words"], found["text"]) == ([], None)
    assert len(found["cells"]) == 12


def test_a_label_that_the_run_does_not_know_is_told(
    run: Run, shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(csv.DictReader(shapes.rows.open()))[:6]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({**row, "label": "other", "split": "test"}) + "\n" for row in rows)
    )
    typed = [f"run={run.path}", f"data.path={tmp_path / 'rows.jsonl'}", f"data.root={shapes.rows.parent}"]
    assert main(["test", *typed]) == 0
    assert "that the model was not given: other (6). zero_shot/accuracy leaves them out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "typed", "said"),
    [
        ("predict", ["zero_shot.templates=['a {}']"], "zero_shot.templates: changes nothing without zero_shot.labels"),
        ("predict", ["zero_shot.labels=rows"], r"'rows': type a list \[NAME,NAME\], or run \("),
        ("test", ["zero_shot.labels=own"], r"'own': type a list \[NAME,NAME\], or run or rows"),
        ("test", ["zero_shot.labels=[a]"], "at least two different labels"),
        ("test", ["zero_shot.labels=[a,a]"], "at least two different labels"),
        ("test", ["zero_shot.labels=run", "zero_shot.templates=[a]"], "zero_shot.templates: .*each needs one {}"),
        (
            "test",
            ["zero_shot.labels=run", "data.columns.text=text"],
            "data.columns.text: does not go with zero_shot.labels",
        ),
    ],
)
def test_refused(command: str, typed: list[str], said: str, tmp_path: Path) -> None:
    more = ["out=-"] if command == "predict" else []
    with pytest.raises(UserError, match=said):
        compose(command, [f"run={tmp_path}", *more, *typed])


@pytest.mark.parametrize(
    ("labels", "templates", "said"),
    [
        ("cat", None, "zero_shot.labels: 'cat' given. Give a list of names"),
        (["a", 1], None, r"zero_shot.labels: \['a', 1\] given"),
        (["fire_truck", "b", "fire truck"], None, "zero_shot.labels: fire_truck, fire truck have the same prompt"),
        (["a", "b"], ["x"], "zero_shot.templates: 'x' needs one {} for the label's name"),
        (["a", "b"], ["{} {}"], "needs one {} for the label's name"),
    ],
)
def test_refused_in_python(labels: Any, templates: Any, said: str, run: Run) -> None:
    with pytest.raises(UserError, match=said):
        mmft.load(run.path).zero_shot(labels, templates)


def test_a_run_of_another_task_is_refused(train_run: TrainRun) -> None:
    made: Any = mmft.load(train_run("trainer.max_steps=1").path)
    with pytest.raises(UserError, match=r"the run's task is classification, but it needs task=contrastive"):
        made.zero_shot(["a", "b"])
