"""`mmft review`: figures of marks, and what is wrong with marks that are not of the run's answers."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_page import page_of
from runs import QUICK, Run

from mmft.cli.main import main
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.run.trained_run import TrainedRun

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(shapes: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a page. Not to be written to."""
    path = tmp_path_factory.mktemp("reviewed") / "run"
    typed = [*shapes.overrides, *QUICK, "data.limit=null", "trainer.max_epochs=1", "report=true", "attributions=0"]
    assert train(compose("train", typed), path) == 0
    return Run(path)


@pytest.fixture
def lines(run: Run) -> Lines:
    """A mark for each answer that the page asks about, as its script writes them: right where the label says so."""
    found = re.search(r'id="marking-data">(.*?)</script>', (run.path / "report.html").read_text(), re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    keys = ("row", "id", "prediction", "weight")
    return [
        {name: item[name] for name in keys}
        | {"run": data["run"], "mark": "right" if item["label"] == item["prediction"] else "wrong", "note": ""}
        | {"by": "ann", "time": "2026-11-28T09:00:00.000Z"}
        for item in data["items"]
    ]


Review = Callable[..., str]


@pytest.fixture
def review(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Review:
    """`review(lines, "out=FILE", code=0)`: writes the marks and gives what `mmft review` prints on both streams."""

    def call(lines: Lines, *typed: str, code: int = 0) -> str:
        path = tmp_path / "marks-ann.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert main(["review", f"run={run.path}", f"marks={path}", *typed]) == code
        printed = capsys.readouterr()
        return printed.out + printed.err

    return call


def labels(run: Run) -> list[tuple[str, str]]:
    rows = csv.DictReader((run.path / "predictions.csv").open())
    return [(row["label"], row["prediction"]) for row in rows]


def test_people_who_agree_with_the_labels_give_the_accuracy_of_the_labels(
    run: Run, lines: Lines, review: Review
) -> None:
    shown = review(lines)
    by_labels = sum(a == b for a, b in labels(run)) / len(labels(run))
    assert {line["mark"] for line in lines} == {"right", "wrong"}
    assert re.search(rf"^labels +{by_labels:.4f}", shown, re.MULTILINE)
    assert re.search(rf"^people +{by_labels:.4f}", shown, re.MULTILINE)
    classes = re.findall(r"^(?:\w+ )+ +([.\d]+) +([.\d]+) +[.\d]+ +[.\d]+ +\d+ +\d+ *$", shown, re.MULTILINE)
    assert classes
    assert all(labelled == marked for labelled, marked in classes)
    assert "Agreement" not in shown
    assert "Suspects" not in shown


def test_suspects_and_unsure_marks(lines: Lines, review: Review, tmp_path: Path) -> None:
    suspect = next(line for line in lines if line["mark"] == "wrong")
    other = next(line for line in lines if line["mark"] == "right")
    suspect |= {"mark": "right", "note": "plainly red"}
    other["mark"] = "wrong"
    next(line for line in lines if line["mark"] == "right" and line is not suspect)["mark"] = "unsure"
    out = tmp_path / "reviewed.csv"
    shown = review(lines, f"out={out}")
    assert re.search(rf"Suspects of wrong labels.*\n.*\n{suspect['row']} .*ann +plainly red", shown)
    assert re.search(rf"People say wrong, although.*\n.*\n{other['row']} ", shown)
    ways = [float(re.findall(rf"people, unsure {way} +([.\d]+)", shown)[0]) for way in ("as wrong", "as right")]
    assert ways[0] < ways[1]
    rows = {int(row["row"]): row for row in csv.DictReader(out.open())}
    assert len(rows) == len(lines)
    assert rows[suspect["row"]]["right_by_label"] == "wrong"
    assert (rows[suspect["row"]]["mark"], rows[suspect["row"]]["notes"]) == ("right", "ann: plainly red")
    assert review(lines, "out=-").splitlines()[0].startswith("row,id,prediction")


def test_agreement_of_two_and_of_three(lines: Lines, review: Review) -> None:
    first = lines[0]
    bob = [line | {"by": "bob"} for line in lines]
    bob[0] |= {"mark": "wrong" if first["mark"] == "right" else "right"}
    shown = review([*lines, *bob])
    share = 1 - 1 / len(lines)
    assert f"raw agreement  {share:.4f}" in shown
    assert "Cohen's kappa" in shown
    assert re.search(r"^unsure +1\b", shown, re.MULTILINE)  # one says right, one wrong
    assert "Krippendorff's alpha" in review([*lines, *bob, first | {"by": "eve"}])


def test_the_last_mark_of_a_person_counts(lines: Lines, review: Review) -> None:
    early = [line | {"mark": "unsure", "time": "2026-11-28T08:00:00"} for line in lines[:2]]
    shown = review([*lines, *early])
    assert "2 of the marks are replaced by a later one" in shown
    assert f"marks-ann.jsonl line {len(lines) + 1}" in shown
    assert "people, unsure" not in shown


def test_marks_without_weights_and_of_other_inputs(lines: Lines, review: Review) -> None:
    for line in lines:
        del line["weight"]
    shown = review([*lines, lines[0] | {"row": None, "id": ""}])
    assert "have no weights" in shown
    assert "1 more are of inputs that are no rows" in shown


def test_a_kind_that_nobody_marked_is_told(lines: Lines, review: Review) -> None:
    shown = review([line for line in lines if line["mark"] == "right"])
    assert "no answers wrong by the label are marked" in shown


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "run": ({"run": "mine/2020-01-01_00-00-00"}, "marks the run mine/2020-01-01_00-00-00, not "),
    "row": ({"row": 999_999}, "predictions.csv has no row 999999"),
    "id": ({"id": "x"}, "has the id "),
    "prediction": ({"prediction": "a cow"}, "was marked for the prediction 'a cow', but predictions.csv has "),
    "mark": ({"mark": "maybe"}, "mark is 'maybe', not right, wrong or unsure"),
    "number": ({"row": "3"}, "row is '3', not the number of a row"),
    "weight": ({"weight": 0}, "weight is 0, not a number of rows"),
    "by": ({"by": " "}, "by is empty"),
    "time": ({"time": "noon"}, "time is 'noon', not a date and time"),
    "task": ({"task": "size"}, "marks the task 'size'; the run has one task only"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_lines_are_named(case: str, lines: Lines, review: Review) -> None:
    changed, message = WRONG[case]
    lines[1] |= changed
    shown = review(lines, code=2)
    assert message in shown
    assert "marks-ann.jsonl line 2: " in shown


def test_broken_files(run: Run, lines: Lines, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(text: bytes | None, *typed: str) -> str:
        path = tmp_path / "marks-x.jsonl"
        if text is not None:
            path.write_bytes(text)
        assert main(["review", f"run={run.path}", *(typed or [f"marks={path}"])]) == 2
        return capsys.readouterr().err

    good = json.dumps(lines[0]).encode()
    assert "line 3: no JSON object; the line is broken" in printed(good + b"\n\n" + good[:20] + b"\n")
    assert "line 1: the key 'note' is missing" in printed(good.replace(b'"note"', b'"nota"'))
    assert "and 10 more lines" in printed(b"x\n" * 30)
    assert "is empty" in printed(b"\n")
    assert "marks=nowhere-*.jsonl: there is no such file" in printed(None, "marks=nowhere-*.jsonl")
    assert "has no marks-*.jsonl. Type marks=FILE" in printed(None, "paths.runs=x")
    path = tmp_path / "marks-x.jsonl"
    assert "would overwrite the marks" in printed(good, f"marks={path}", f"out={path}")


def test_marks_in_the_run_folder_are_shown_on_the_page(run: Run, lines: Lines, tmp_path: Path) -> None:
    folder = tmp_path / run.path.parent.name / run.path.name
    shutil.copytree(run.path, folder)
    (folder / "marks-ann.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = TrainedRun(folder).review()
    assert len(found.rows) == len(lines)
    assert "Share of answers that are right" in str(found)
    TrainedRun(folder).report()
    assert {"What people say", "Share of answers that are right"} <= set(page_of(folder).headings)
    (folder / "marks-ann.jsonl").write_text("x\n")
    TrainedRun(folder).report()
    assert "The marks are not shown." in page_of(folder).text
