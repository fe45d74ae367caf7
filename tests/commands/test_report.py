"""`mmft report` and the page at the end of a training: what it holds for each task, and that nothing else changes."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report_page import page_of
from runs import QUICK, Run, TrainRun, same_weights
from sklearn.metrics import precision_recall_fscore_support
from torchmetrics.functional.classification import multiclass_calibration_error

import mmft
from mmft.cli.main import main
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.reports.page.classes import class_figures, label_figures
from mmft.reports.page.html import figure
from mmft.reports.page.probabilities import reliability
from mmft.run.trained_run import TrainedRun
from mmft.tasks.metrics.names import CALIBRATION_BINS

EVIL = '<script>alert("1")</script>'


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


@pytest.fixture(scope="module")
def reported(shapes: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a page. Not to be written to."""
    path = tmp_path_factory.mktemp("reported") / "run"
    typed = [*shapes.overrides, *QUICK, "data.limit=null", "modality_report=true", "report=true"]
    assert train(compose("train", typed), path) == 0
    return Run(path)


def test_a_page_changes_nothing_else(train_run: TrainRun) -> None:
    plain, reported = train_run(), train_run("report=true")
    assert not (plain.path / "report.html").exists()
    assert not (plain.path / "predictions.csv").exists()
    assert same_weights(plain, reported)
    assert plain.metrics == reported.metrics
    assert plain.summary["test"] == reported.summary["test"]
    more = {path.name for path in reported.path.iterdir()} - {path.name for path in plain.path.iterdir()}
    assert more == {"report.html", "predictions.csv", "attributions.jsonl"}


def test_predictions_are_those_of_mmft_predict(reported: Run, shapes: Any) -> None:
    found = table(reported.path / "predictions.csv")
    rows = [row | {"row": str(at)} for at, row in enumerate(table(shapes.rows)) if row["split"] == "test"]
    answers = mmft.load(reported.path).predict(rows, root=shapes.rows.parent)
    assert [row["row"] for row in found] == [row["row"] for row in rows]
    assert [row["label"] for row in found] == [row["label"] for row in rows]
    assert list(found[0]) == [*answers[0], "label"]
    for row, answer in zip(found, answers, strict=True):
        assert row["prediction"] == answer["prediction"]
        assert float(row["score"]) == pytest.approx(answer["score"], abs=1e-5)


def test_the_page_has_the_numbers_of_the_run(reported: Run) -> None:
    page, summary = page_of(reported.path), reported.summary
    assert {"Metrics", "What each modality adds", "Training", "Confusion matrix", "Classes", "Calibration"} <= set(
        page.headings
    )
    assert {"Mistakes", "What is trained", "Bad rows", "Time and memory"} <= set(page.headings)
    for split in ("val", "test"):
        for name, value in summary[split].items():
            at = page.cells.index(name)
            assert figure(value) in page.cells[at + 1 : at + 3]
    assert all(figure(value) in page.cells for value in summary["modalities"].values())
    rows = table(reported.path / "predictions.csv")
    labels = sorted({row["label"] for row in rows})
    true, predicted = [row["label"] for row in rows], [row["prediction"] for row in rows]
    figures = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)
    first = page.headings.index("Classes")
    assert first
    for label, *values, count in zip(labels, *(part.tolist() for part in figures), strict=True):
        places = [at for at, cell in enumerate(page.cells) if cell == label]
        assert [*map(figure, values), str(count)] in [page.cells[at + 1 : at + 5] for at in places]
    wrong = sum(a != b for a, b in zip(true, predicted, strict=True))
    assert f"{wrong} of {len(rows)} rows." in page.text
    assert sum(one.startswith("data:") for one in page.references) == min(wrong, 24) + 2 * 4
    explained = [json.loads(line) for line in (reported.path / "attributions.jsonl").read_text().splitlines()]
    assert len(explained) == len({one["row"] for one in explained}) == 4
    assert "What predictions rest on" in page.headings
    words = {word["text"] for one in explained for word in one["words"]}
    assert words
    assert all(f">{word}</span>" in page.text for word in words)


def test_the_same_folder_gives_the_same_bytes(reported: Run, capsys: pytest.CaptureFixture[str]) -> None:
    first = (reported.path / "report.html").read_bytes()
    assert main(["report", f"run={reported.path}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(reported.path / "report.html")
    assert (reported.path / "report.html").read_bytes() == first


def test_a_run_without_predictions_is_predicted_anew(train_run: TrainRun) -> None:
    run = train_run()
    assert main(["report", f"run={run.path}"]) == 0
    assert "Mistakes" in page_of(run.path).headings
    assert len(table(run.path / "predictions.csv")) == run.summary["rows"]["test"]


def test_what_is_gone_is_told(train_run: TrainRun, shapes: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_bytes(shapes.rows.read_bytes())
    run = train_run(f"data.path={rows}", f"data.root={shapes.rows.parent}")
    rows.unlink()
    assert main(["report", f"run={run.path}"]) == 0
    page = page_of(run.path)
    assert "no images and texts are shown" in page.text
    assert "no predictions.csv" in page.text
    assert "Metrics" in page.headings


def test_hostile_texts_stay_texts(train_run: TrainRun, shapes: Any, tmp_path: Path) -> None:
    rows = table(shapes.rows)
    for row in rows:
        row["text"], row["label"] = f"{row['text']} {EVIL}", f"{row['label']} {EVIL} $x^2$"
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    run = train_run(f"data.path={path}", f"data.root={shapes.rows.parent}", "report=true", "data.columns.id=text")
    page = page_of(run.path)  # without another script
    assert EVIL in unescape(page.text)


def written(shapes: Any, folder: Path) -> Path:
    """The sample's rows with columns for other tasks."""
    rows = table(shapes.rows)
    for at, row in enumerate(rows):
        colour, shape = row["label"].split()[0], row["label"].split()[-1]
        row |= {"tags": f"{colour}|{shape}", "length": str(len(row["text"]) + at / 100), "other": str(at % 7)}
        row |= {"match": str(at % 2), "question": f"is it {shape}?"}
    with (folder / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "rows.csv"


TASKS = {
    "multi_label": (
        ["task=multi_label", "data.columns.label=tags"],
        {"Labels", "Calibration", "Each class against the rest"},
    ),
    "regression": (["task=regression", "data.columns.label=length"], {"Predicted and true", "Largest errors"}),
    "two_numbers": (["task=regression", "data.columns.label=[length,other]"], {"length", "other"}),
    "contrastive": (
        ["task=contrastive", "model/fusion=dual", "data.columns.label=null"],
        {"Nearest images of some texts", "Nearest texts of some images"},
    ),
    "matching": (["task=matching", "data.columns.label=match"], {"Match or no match", "Mistakes"}),
    "question_answering": (["task=question_answering", "data.columns.label=label"], {"Mistakes"}),
    "several": (
        ["task=several", "task.tasks={label:classification,length:regression}", "data.columns.label=[label,length]"],
        {"Answers on the test rows: label", "Answers on the test rows: length", "Confusion matrix", "Largest errors"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_its_own_sections(task: str, train_run: TrainRun, shapes: Any, tmp_path: Path) -> None:
    typed, headings = TASKS[task]
    place = [f"data.path={written(shapes, tmp_path)}", f"data.root={shapes.rows.parent}", "trainer.max_epochs=1"]
    run = train_run(*place, *typed, "report=true")
    page = page_of(run.path)
    assert headings <= set(page.headings)
    assert page.names["img"] > 0
    found = table(run.path / "predictions.csv")
    assert len(found) == run.summary["rows"]["test"]
    if task == "regression":
        errors = [float(row["prediction"]) - float(row["label"]) for row in found]
        assert run.summary["test"]["mae"] == pytest.approx(np.abs(errors).mean(), abs=1e-4)
        assert f"mean absolute error {figure(float(np.abs(errors).mean()))}" in page.text
    if task == "contrastive":
        nearest = table(run.path / "nearest.csv")
        own = {row["row"]: float(row["prediction"]) for row in found}
        same = [row for row in nearest if row["found"] == row["row"]]
        assert same
        assert all(float(row["score"]) == pytest.approx(own[row["row"]], abs=1e-5) for row in same)
        assert all(row["rank"] == row["own_rank"] for row in same)


@pytest.mark.slow
def test_a_sweep_has_one_page(shapes_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = [one for one in shapes_overrides if not one.startswith("report=")]
    rates = "optim.head_lr=1e-5,1e-2"
    assert main(["train", "-m", *typed, f"paths.runs={tmp_path}", rates, "seed=0,1", "trainer.max_epochs=1"]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert not list(folder.glob("*/report.html"))
    page = page_of(folder)
    assert page.names["svg"] == 2
    assert "Share of the variance of val/accuracy" in page.text
    best = max(table(folder / "sweep.csv"), key=lambda job: float(job["val/accuracy"]))
    assert f"Run {best['job']} has the best val/accuracy: {figure(float(best['val/accuracy']))}" in page.text
    assert page.text.count('<tr class="marked">') == 1
    first = (folder / "report.html").read_bytes()
    assert main(["report", f"run={folder}"]) == 0
    assert (folder / "report.html").read_bytes() == first


def test_without_test_rows_those_of_validation_are_shown(train_run: TrainRun, shapes: Any, tmp_path: Path) -> None:
    rows = [row for row in table(shapes.rows) if row["split"] != "test"]
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    run = train_run(f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", "report=true")
    assert "Answers on the val rows" in page_of(run.path).headings
    assert len(table(run.path / "predictions.csv")) == run.summary["rows"]["val"]


def test_several_test_tables_have_their_own_predictions(train_run: TrainRun, shapes: Any, tmp_path: Path) -> None:
    rows = table(shapes.rows)
    names = {"train": "train", "val": "val", "a": "test", "b": "train"}
    for name, split in names.items():
        with (tmp_path / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows([row for row in rows if row["split"] == split][:20])
    typed = ["data.path=null", "data.columns.split=null", f"data.root={shapes.rows.parent}", "report=true"]
    typed += [f"data.{split}={tmp_path / split}.csv" for split in ("train", "val")]
    run = train_run(*typed, f"data.test={{a:{tmp_path / 'a.csv'},b:{tmp_path / 'b.csv'}}}")
    assert (run.path / "predictions_a.csv").exists()
    assert (run.path / "predictions_b.csv").exists()
    assert {"Answers on the test/a rows", "Test tables side by side"} <= set(page_of(run.path).headings)


def test_predictions_of_many_rows_are_a_sample(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_run()
    monkeypatch.setattr("mmft.run.predictions_file.MOST_CELLS", 70)  # 7 rows of 10 cells
    assert main(["report", f"run={run.path}"]) == 0
    every = [int(row["row"]) for row in table(run.path / "predictions.csv")]
    assert len(every) == 70 // (len(table(run.path / "predictions.csv")[0]) - 1)
    assert "Mistakes" in page_of(run.path).headings
    assert sum(np.diff(every) > 0) == len(every) - 1


def test_no_such_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"run={tmp_path}"]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_a_page_that_fails_is_told_and_ends_no_run(
    train_run: TrainRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr("mmft.run.report.run_page", fail)
    run = train_run("report=true")
    assert run.summary["status"] == "completed"
    assert not (run.path / "report.html").exists()
    assert "the report failed: RuntimeError: no ink" in caplog.text


def test_in_python(train_run: TrainRun) -> None:
    run = TrainedRun(train_run().path)
    found = run.report()
    assert found.path == run.folder / "report.html"
    shown = found._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    inner = re.search(r'srcdoc="([^"]*)"', shown)
    assert inner is not None
    assert unescape(inner[1]) == found.path.read_text()


def test_calibration_is_that_of_torchmetrics() -> None:
    generator = np.random.default_rng(0)
    scores = generator.dirichlet(np.ones(4), 500)
    target = generator.integers(0, 4, 500)
    found = reliability(scores.max(1), scores.argmax(1) == target)
    wanted = multiclass_calibration_error(
        torch.from_numpy(scores), torch.from_numpy(target), num_classes=4, n_bins=CALIBRATION_BINS, norm="l1"
    )
    assert found.error == pytest.approx(float(wanted), abs=1e-6)
    assert found.rows.sum() == 500


def test_labels_have_the_figures_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    there, found = generator.random((2, 60, 3)) < [[[0.5, 0.2, 0.1]]]
    names = np.array(["a", "b", "c"])
    truths, predictions = ([frozenset(names[row].tolist()) for row in rows] for rows in (there, found))
    figures = label_figures(truths, predictions)
    wanted = precision_recall_fscore_support(there, found, zero_division=0)
    for at, name in enumerate(names.tolist()):
        assert figures[name] == pytest.approx([float(part[at]) for part in wanted])


def test_attributions_are_left_out_or_made_anew(train_run: TrainRun) -> None:
    run = train_run("report=true", "attributions=0")
    assert not (run.path / "attributions.jsonl").exists()
    assert main(["report", f"run={run.path}", "attributions=2"]) == 0
    assert len((run.path / "attributions.jsonl").read_text().splitlines()) == 2
    assert "What predictions rest on" in page_of(run.path).headings


def test_a_class_that_is_never_predicted() -> None:
    found = class_figures(Counter({("a", "a"): 2, ("b", "a"): 1}))
    assert found["b"] == (0.0, 0.0, 0.0, 1)
    assert math.isclose(found["a"].precision, 2 / 3)
    assert json.loads(json.dumps(found["a"]))[3] == 2


@pytest.mark.parametrize("cache", ["always", "never"])
def test_predictions_of_a_frozen_encoder_are_explained(
    cache: str, train_run: TrainRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    typed = ["tune/image_encoder=freeze", f"cache={cache}", f"paths.cache={tmp_path / 'store'}", "trainer.max_epochs=1"]
    run = train_run(*typed, "report=true", "attributions=2")
    assert "failed" not in caplog.text
    lines = [json.loads(line) for line in (run.path / "attributions.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(abs(line["image"]) > 0 and abs(line["text"]) > 0 for line in lines)
