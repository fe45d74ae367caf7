"""`mmft test modalities=true`: the same figures as of tables that are changed by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from runs import TrainRun

import mmft
from mmft.config.compose import compose
from mmft.data.exchange import exchanged_pictures, exchanged_texts
from mmft.data.splits import load_rows
from mmft.errors import UserError
from mmft.reporting.modalities import table
from mmft.tasks.classification import Classification
from mmft.tasks.regression import Regression
from mmft.tasks.several import Several
from mmft.test import test as run_test

Figures = dict[str, float]


def printed(capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[Figures, str]:
    """Figures, and what is told besides."""
    capsys.readouterr()
    assert run_test(compose("test", list(overrides))) == 0
    out, err = capsys.readouterr()
    return {name: float(value) for name, value in map(str.split, out.splitlines())}, err


def figures(capsys: pytest.CaptureFixture[str], *overrides: str) -> Figures:
    return printed(capsys, *overrides)[0]


def below(found: Figures, prefix: str) -> Figures:
    return {name.removeprefix(f"{prefix}/"): value for name, value in found.items() if name.startswith(f"{prefix}/")}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_figures_are_those_of_tables_changed_by_hand(
    train_run: TrainRun, shapes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a row is bad, and rows lack a modality; whatever the size of batches."""
    run = train_run("data.limit=null", "trainer.max_epochs=1")
    rows = [row for row in csv.DictReader(shapes.rows.open()) if row["split"] == "test"]
    rows[3]["image"], rows[5]["image"], rows[6]["text"], rows[9]["text"] = "gone.png", "", "", ""
    typed = [f"run={run.path}", f"data.root={shapes.rows.parent}", "data.max_bad_fraction=1"]
    table = written(tmp_path / "rows.csv", rows)
    found, told = printed(capsys, *typed, f"data.path={table}", "modalities=true")
    assert "texts shuffled between rows" in told
    assert "image_only: the stand-in of the text is zeros" in told
    assert "1 of 29 rows have no picture" in told
    by_seven = figures(capsys, *typed, f"data.path={table}", "modalities=true", "data.batch_size=7")
    assert found.keys() == by_seven.keys()
    for name, value in found.items():  # texts alone tie but for the last bit, which a batch's size may change
        ranks = name.endswith(("auroc", "average_precision"))
        assert by_seven[name] == pytest.approx(value, abs=0.02 if ranks else 2e-6), name  # six digits are printed
    assert found["bad_rows"] == 1

    config = mmft.load(run.path).saved.config.data
    config.path, config.root = str(table), str(shapes.rows.parent)
    split = load_rows(config, "test")
    good = split.rows[split.rows != 3]
    pictures, texts = exchanged_pictures(split, good, 0).tolist(), exchanged_texts(split, good, 0).tolist()
    assert [at for at, whose in enumerate(pictures) if at == whose] == [3, 5]
    assert [at for at, whose in enumerate(texts) if at == whose and at != 3] == [6, 9]
    assert all(rows[at]["text"] != rows[whose]["text"] for at, whose in enumerate(texts) if at not in (3, 6, 9))

    def expected(changed: list[dict[str, Any]]) -> Figures:
        path = written(tmp_path / "changed.csv", changed)
        return {k: v for k, v in figures(capsys, *typed, f"data.path={path}").items() if not k.endswith("rows")}

    shuffled = {
        "image_shuffled": [row | {"image": rows[whose]["image"]} for row, whose in zip(rows, pictures, strict=True)],
        "text_shuffled": [row | {"text": rows[whose]["text"]} for row, whose in zip(rows, texts, strict=True)],
    }
    for name, changed in shuffled.items():
        assert below(found, name) == pytest.approx(expected(changed), abs=2e-6)
    # A row with nothing at all is bad in a table; here it stays, with both stand-ins.
    both = [row | {"image": row["image"] or rows[0]["image"], "text": row["text"] or "a"} for row in rows]
    complete = written(tmp_path / "complete.csv", both)
    found = figures(capsys, *typed, f"data.path={complete}", "modalities=true")
    assert below(found, "image_only") == pytest.approx(expected([row | {"text": ""} for row in both]), abs=2e-6)
    without = [row | {"image": row["image"] if row["image"] == "gone.png" else ""} for row in both]
    assert below(found, "text_only") == pytest.approx(expected(without), abs=2e-6)


def test_the_table_for_people_has_every_tasks_headline() -> None:
    task = Several({"kind": Classification(), "price": Regression()})
    both = {"kind/accuracy": 0.75, "price/rmse": 2.0, "loss": 1.0}
    said = table(task, both, {"image_only": both | {"kind/accuracy": 0.5, "price/rmse": 3.5}})
    assert [line.split() for line in said.splitlines()] == [
        ["what", "the", "model", "is", "given", "kind/accuracy", "difference", "price/rmse", "difference"],
        ["both", "0.7500", "2.0000"],
        ["only", "the", "picture", "0.5000", "-0.2500", "3.5000", "+1.5000"],
    ]


def test_pairs_are_only_shuffled(train_run: TrainRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run("task=contrastive", "model/fusion=dual", "data.columns.label=null", "trainer.max_epochs=1")
    capsys.readouterr()
    assert run_test(compose("test", [f"run={run.path}", "modalities=true"])) == 0
    printed, told = capsys.readouterr()
    passes = {line.partition("/")[0] for line in printed.splitlines() if "shuffled" in line or "only" in line}
    assert passes == {"image_shuffled", "text_shuffled"}
    assert "image_only and text_only are not there" in told


def test_one_modality_has_nothing_to_be_compared_with(train_run: TrainRun) -> None:
    run = train_run("data.columns.image=null", "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"modalities=true: the run has no data.columns.image.*Leave it out"):
        run_test(compose("test", [f"run={run.path}", "modalities=true"]))
