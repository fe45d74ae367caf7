"""`mmft test modalities=true`: the same figures as of tables that are changed by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from runs import TrainRun

import mmft
from mmft.batch import BadRow, Pair
from mmft.commands.test import test as run_test
from mmft.config.compose import compose
from mmft.data.dataset import RowDataset
from mmft.data.exchange import exchanged_images, exchanged_texts
from mmft.data.splitting.splits import load_rows
from mmft.errors import UserError
from mmft.reports.modalities import changes, table
from mmft.tasks.classification import Classification
from mmft.tasks.regression import Regression
from mmft.tasks.several import Several

Figures = dict[str, float]
ENCODERS = ["model.image_encoder.name=mmft:dinov2-tiny", "model.text_encoder.name=mmft:minilm-tiny"]


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
    assert "image_only: the stand-in of the text is untrained" in told
    assert "1 of 29 rows have no image" in told
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
    images, texts = exchanged_images(split, good, 0).tolist(), exchanged_texts(split, good, 0).tolist()
    assert [at for at, whose in enumerate(images) if at == whose] == [3, 5]
    assert [at for at, whose in enumerate(texts) if at == whose and at != 3] == [6, 9]
    assert all(rows[at]["text"] != rows[whose]["text"] for at, whose in enumerate(texts) if at not in (3, 6, 9))

    def expected(changed: list[dict[str, Any]]) -> Figures:
        path = written(tmp_path / "changed.csv", changed)
        return {k: v for k, v in figures(capsys, *typed, f"data.path={path}").items() if not k.endswith("rows")}

    shuffled = {
        "image_shuffled": [row | {"image": rows[whose]["image"]} for row, whose in zip(rows, images, strict=True)],
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
        ["model", "input", "kind/accuracy", "difference", "price/rmse", "difference"],
        ["both", "0.7500", "2.0000"],
        ["image", "only", "0.5000", "-0.2500", "3.5000", "+1.5000"],
    ]


def test_pairs_are_only_shuffled(train_run: TrainRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run("task=contrastive", "model/fusion=dual", "data.columns.label=null", "trainer.max_epochs=1")
    capsys.readouterr()
    assert run_test(compose("test", [f"run={run.path}", "modalities=true"])) == 0
    printed, told = capsys.readouterr()
    passes = {line.partition("/")[0] for line in printed.splitlines() if "shuffled" in line or "only" in line}
    assert passes == {"image_shuffled", "text_shuffled"}
    assert "image_only and text_only are omitted" in told


@pytest.mark.parametrize("column", ["image", "group"])
def test_of_pairs_nobody_gets_what_belongs_to_his_own(column: str, tmp_path: Path) -> None:
    """Five captions for each of six images, or rows of six groups: of these none may come to another one."""
    rows = [{"image": f"{at}.png", "text": f"text {at}", "group": f"group {at}"} for at in range(30)]
    rows = [row | {column: f"{at // 5}.png"} for at, row in enumerate(rows)]
    where = [f"data.path={written(tmp_path / 'rows.csv', rows)}", *(f"data.columns.{name}={name}" for name in rows[0])]
    config = compose("train", ["task=matching", *where, *ENCODERS]).config.data
    split, bad = load_rows(config, "test"), {7: BadRow(7, "7", "image", "gone")}
    targets = torch.tensor([[*Pair(row["image"], row["text"], row["group"], None).identity(), -1] for row in rows])
    targets[7] = 0
    dataset: Any = RowDataset(split, cast("Any", None), cast("Any", None), targets)
    for name, change in changes(dataset, bad, 0, alone=False).items():
        whose = change.images if name == "image_shuffled" else change.texts
        assert sorted(whose) == list(range(30))
        assert [at for at in range(30) if at // 5 == whose[at] // 5] == [7], name
    targets[:, 2] = 1  # all belong together: they still get what is not their own
    for change in changes(dataset, bad, 0, alone=False).values():
        given = zip(rows, change.images, change.texts, strict=True)
        kept = [
            row
            for row, image, text in given
            if (rows[image]["image"], rows[text]["text"]) == (row["image"], row["text"])
        ]
        assert kept == [rows[7]]


def test_one_modality_has_nothing_to_be_compared_with(train_run: TrainRun) -> None:
    run = train_run("data.columns.image=null", "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"modalities=true: the run has no data.columns.image.*Leave it out"):
        run_test(compose("test", [f"run={run.path}", "modalities=true"]))
