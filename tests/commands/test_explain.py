"""`mmft explain`: pages and numbers of chosen rows, words, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from runs import TrainRun

import mmft
from mmft.commands.explain import explain
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.reports.explain.images import cell_sums
from mmft.reports.explain.words import words_of


def explained(*overrides: str) -> None:
    assert explain(compose("explain", list(overrides))) == 0


def test_pages_and_numbers(
    train_run: TrainRun, shapes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = train_run("trainer.max_epochs=1"), tmp_path / "made" / "here"
    rows = list(csv.DictReader(shapes.rows.open()))[:5]
    rows[1]["image"], rows[2]["text"], rows[3]["image"] = "", "", "gone.png"
    rows[4]["image"] = rows[4]["text"] = ""
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    typed = [
        f"run={run.path}",
        f"data.path={tmp_path / 'rows.csv'}",
        f"data.root={shapes.rows.parent}",
        f"out={out}",
        "data.columns.id=id",
    ]
    capsys.readouterr()
    explained(*typed, "rows=[4,3,2,1,0]")
    printed, told = capsys.readouterr()
    assert printed.split() == [str(out / f"row{row}.png") for row in range(3)]
    assert "row 3 (id shape-0003) cannot be read: image: no such file" in told
    assert "row 4 (id shape-0004) cannot be read: neither an image nor a text" in told
    model = mmft.load(run.path)
    answers = model.predict(rows[:3], root=shapes.rows.parent)
    in_python = model.explain(rows[:3], root=shapes.rows.parent)
    for row, (answer, same) in enumerate(zip(answers, in_python, strict=True)):
        found = json.loads((out / f"row{row}.json").read_text())
        assert same.numbers() | {"id": found["id"]} == found
        assert found["prediction"] == found["explained"] == answer["prediction"]
        assert (found["cells"] is None, found["words"] == []) == (row == 1, row == 2)
        parts = sum(word["weight"] for word in found["words"]) + (found["image"] or 0)
        assert found["value"] - found["baseline"] - found["missed"] == pytest.approx(parts, abs=1e-6)
        assert abs(found["missed"]) < 0.05
        assert [word["text"] for word in found["words"]] == rows[row]["text"].replace(",", " ,").split()
        with Image.open(out / f"row{row}.png") as page:
            assert same.page().size == page.size
            assert page.format == "PNG"
            assert len(page.getcolors(2**20) or ()) > 10
    other = next(label for label in model.labels if label != answers[0]["prediction"])
    explained(*typed, "ids=[shape-0000]", f"label='{other}'", "points=8")
    assert json.loads((out / "row0.json").read_text())["explained"] == other

    refused = {
        "rows=[9]": "rows=9: the table has rows 0 to 4",
        "ids=[shape-000]": "no row of .* has the id 'shape-000'.*Did you mean",
        "rows=[0] ids=[a]": "give either rows or ids",
        "rows=[-1]": "expected one or more row numbers, from 0",
        "rows=[0] label=rde_disc": "label=rde_disc: no such label",
        "rows=[0] data.limit=2": "data.limit: changes nothing: the whole table is used",
    }
    for words, message in refused.items():
        with pytest.raises(UserError, match=message):
            explained(*typed, *words.split())


def found_in(out: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}


def test_how_alike_image_and_text_are(
    train_run: TrainRun, tmp_path: Path, shapes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run("task=contrastive", "model/fusion=dual", "data.columns.label=null", "trainer.max_epochs=1")
    rows = list(csv.DictReader(shapes.rows.open()))[:2]
    rows[1]["text"] = ""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = [f"data.path={tmp_path / 'rows.jsonl'}", f"data.root={shapes.rows.parent}"]
    explained(f"run={run.path}", *table, "rows=[0,1]", f"out={tmp_path / 'out'}")
    (found,) = found_in(tmp_path / "out").values()
    assert found["explained"] == "similarity"
    assert found["value"] == pytest.approx(found["prediction"], abs=1e-5)
    parts = found["image"] + found["text"]
    assert found["value"] - found["baseline"] - found["missed"] == pytest.approx(parts, abs=1e-6)
    assert abs(found["missed"]) < 0.05
    assert "has no prediction: no text" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"label=alike: no such label.* There are: similarity"):
        explained(f"run={run.path}", *table, "rows=[0]", "label=alike", f"out={tmp_path / 'out'}")


def test_words_are_put_together(text_encoder_folder: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(text_encoder_folder("bert"))
    text = "  zzmostlyqq RED,  they say"
    ids = tokenizer(text)["input_ids"]
    weights = [float(n) for n in range(len(ids))]
    words = words_of(text, tokenizer, 99, [*weights, 7.0, 7.0])  # padding follows
    assert [word.text for word in words] == ["zzmostlyqq", "RED", ",", "they", "say"]
    assert all(text[word.start :].startswith(word.text) for word in words)
    assert sum(word.weight or 0 for word in words) == sum(weights[1:-1])
    cut = words_of(text, tokenizer, len(ids) - 1, weights)
    assert [(word.text, word.weight is None) for word in cut[-2:]] == [("they", False), ("say", True)]


@pytest.mark.parametrize("size", [12, 13, 40])
def test_cells_keep_the_sum(size: int) -> None:
    values = torch.rand(size, size, dtype=torch.float64)
    cells = cell_sums(values, 4)
    assert cells.shape == (4, 4)
    assert float(cells.sum()) == pytest.approx(float(values.sum()))
    if size == 12:
        assert float(cells[1, 2]) == pytest.approx(float(values[3:6, 6:9].sum()))
