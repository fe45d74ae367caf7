"""`mmft demo` without a browser: answers, examples, marks, and that the page needs nothing from elsewhere."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from runs import Run

import mmft
from mmft.cli.main import main
from mmft.commands import demo as command
from mmft.commands.demo import page_of
from mmft.config.compose import compose
from mmft.run.demo.page import Page

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(shapes: Any) -> Rows:
    return [row | {"image": str(shapes.rows.parent / row["image"])} for row in csv.DictReader(shapes.rows.open())]


@pytest.fixture
def page(finished_run: Run, tmp_path: Path) -> Page:
    typed = [f"run={finished_run.path}", f"marks={tmp_path / 'marks.jsonl'}", "by=anna", "examples=5"]
    return page_of(compose("demo", typed), tmp_path)


def marks(folder: Path) -> Rows:
    file = folder / "marks.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_an_answer_is_that_of_the_model(page: Page, finished_run: Run, rows: Rows) -> None:
    prediction, scores, answer, shown = page.answer(rows[0]["image"], rows[0]["text"])
    [expected] = mmft.load(finished_run.path).predict([{key: rows[0][key] for key in ("image", "text")}])
    assert prediction == expected["prediction"]
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-6)
    labels = mmft.load(finished_run.path).labels
    assert scores["visible"]
    assert scores["value"] == pytest.approx({label: expected[f"score_{label}"] for label in labels}, abs=1e-6)
    assert shown is not None
    assert shown.answer.prediction == expected["prediction"]
    text_only = mmft.load(finished_run.path).predict([{"text": "a red disc"}])
    assert page.answer(None, "a red disc")[0] == text_only[0]["prediction"]


def test_what_cannot_be_answered_is_told(page: Page, tmp_path: Path) -> None:
    assert page.answer(None, "")[0] == "No answer: the row is empty. Columns: image, text"
    (tmp_path / "a.png").write_bytes(b"no image")
    prediction, _, _, shown = page.answer(str(tmp_path / "a.png"), "red")
    assert prediction.startswith("No answer: image: ")
    assert page.mark("right", shown, "", "anna", None, "")[0] == "There is no answer to mark. Predict first."
    assert marks(tmp_path) == []


def test_examples_are_test_rows_and_their_marks_name_them(
    page: Page, finished_run: Run, rows: Rows, tmp_path: Path
) -> None:
    assert len(page._examples) == 5
    for example in page._examples:
        row = rows[example.row]
        assert row["split"] == "test"
        assert example.texts == (row["text"],)
        assert (example.image is None) == (not Path(row["image"]).is_file())
        assert example.image is None or example.image.read_bytes() == Path(row["image"]).read_bytes()
    first = page._examples[0]
    inputs = (None if first.image is None else str(first.image), *first.texts)
    *_, shown = page.answer(*inputs)
    assert page.mark("wrong", shown, 'it\'s "blue"\n', "bob", *inputs) == ("Marked as wrong in `marks.jsonl`.", "")
    [mark] = marks(tmp_path)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", mark.pop("time"))
    name = "/".join(finished_run.path.parts[-2:])
    told = {"run": name, "row": first.row, "id": first.id, "mark": "wrong", "note": 'it\'s "blue"\n', "by": "bob"}
    assert mark == told | {
        "prediction": mmft.load(finished_run.path).predict([dict(zip(("image", "text"), inputs, strict=True))])[0][
            "prediction"
        ]
    }


def test_a_row_of_the_page_is_marked_without_a_number(page: Page, rows: Rows, tmp_path: Path) -> None:
    inputs = (rows[0]["image"], "a text of one's own")
    *_, shown = page.answer(*inputs)
    assert page.mark("unsure", shown, "", "anna", *inputs)[1] == ""
    [mark] = marks(tmp_path)
    assert (mark["row"], mark["id"], mark["mark"]) == (None, None, "unsure")


def test_a_mark_is_of_the_answer_that_is_shown(page: Page, rows: Rows, tmp_path: Path) -> None:
    inputs = (rows[0]["image"], rows[0]["text"])
    *_, shown = page.answer(*inputs)
    assert "The inputs have changed" in page.mark("right", shown, "a", "anna", inputs[0], "another text")[0]
    assert "The inputs have changed" in page.mark("right", shown, "a", "anna", rows[1]["image"], inputs[1])[0]
    assert page.mark("right", shown, "a", " ", *inputs) == ("Type who marks: the field *Marked by* is empty.", "a")
    assert marks(tmp_path) == []


def test_marks_that_cannot_be_kept_are_told(page: Page, rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "marks.jsonl").mkdir()
    inputs = (rows[0]["image"], rows[0]["text"])
    *_, shown = page.answer(*inputs)
    said, note = page.mark("right", shown, "a", "anna", *inputs)
    assert "cannot be written (Is a directory)" in said
    assert note == "a"


def test_examples_of_several_columns_are_in_their_order(train_run: Any, shapes: Any, tmp_path: Path) -> None:
    """In the order of the page's fields, which is not the table's; from a test table of its own."""
    frame = pd.read_csv(shapes.rows).assign(size=range(400, 400 + len(pd.read_csv(shapes.rows))))
    frame = frame[["size", "text", "image", "label", "split"]]
    files = {name: tmp_path / f"{name}.csv" for name in ("train", "val", "test")}
    for name, file in files.items():
        frame[frame["split"] == name].head(48).to_csv(file, index=False)
    typed = [f"data.{name}={file}" for name, file in files.items()]
    columns = ["data.columns.text=[text,size]", "data.columns.split=null", f"data.root={shapes.rows.parent}"]
    run = train_run("data.path=null", *typed, *columns, "trainer.max_steps=1", "data.columns.id=null")
    page = page_of(compose("demo", [f"run={run.path}", f"marks={tmp_path / 'marks.jsonl'}", "examples=3"]), tmp_path)
    table = pd.read_csv(files["test"])
    assert [one.row for one in page._examples] == [0, round((len(table) - 1) / 2), len(table) - 1]
    for one in page._examples:
        assert one.texts == (table["text"][one.row], str(table["size"][one.row]))
    assert page.answer(str(page._examples[0].image), *page._examples[0].texts)[3].answer.row == 0  # type: ignore[union-attr]


def test_images_that_browsers_do_not_show_are_stored_anew(tmp_path: Path) -> None:
    from mmft.run.demo.examples import _written

    stream = io.BytesIO()
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(stream, "TIFF")
    path = _written(stream.getvalue(), tmp_path / "row1", (255, 255, 255))
    assert path == tmp_path / "row1.png"
    with Image.open(path) as image:
        assert (image.format, image.getpixel((0, 0))) == ("PNG", (255, 0, 0))


def test_the_page_needs_nothing_from_elsewhere(finished_run: Run, page: Page, tmp_path: Path) -> None:
    with TestClient(command.application(page, tmp_path)) as client:
        content = client.get("/").text
        config = client.get("/config").json()
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//(?!testserver)[^"']+""", content)
    assert not config.get("analytics_enabled")
    stylesheets = config.get("stylesheets") or []
    assert not [one for one in stylesheets if "//" in str(one)]
    labels = [one["props"].get("label") for one in config["components"]]
    assert {"image", "text", "Prediction", "Note", "Marked by", "Rows of the run"} <= set(labels)
    assert finished_run.path.parts[-1] in config["title"]


def test_marks_are_in_the_runs_folder_by_default(finished_run: Run, tmp_path: Path) -> None:
    page = page_of(compose("demo", [f"run={finished_run.path}", "by='Anna B.'", "examples=0"]), tmp_path)
    assert page._marks.path == finished_run.path / "marks-Anna_B..jsonl"
    assert page._examples == ()
    assert not page._marks.path.exists()


def test_without_its_table_the_page_has_no_examples(
    train_run: Any, shapes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.read_csv(shapes.rows).head(60)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    run = train_run(f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", "trainer.max_steps=1")
    (tmp_path / "rows.csv").unlink()
    monkeypatch.setattr("mmft.logs.configure", lambda *_: None)
    page = page_of(compose("demo", [f"run={run.path}"]), tmp_path)
    assert page._examples == ()
    assert "the page has no examples: " in caplog.text


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["marks=marks.csv"], "marks: 'marks.csv': unknown file extension; expected .jsonl"),
        (["marks=nowhere/marks.jsonl"], "marks: there is no folder nowhere; create it first"),
        (["examples=-1"], "examples: -1 is out of bounds"),
        (["model.pair=a/b", "data.columns.image=image", "run=null"], "marks: a pair has no folder for them"),
    ],
)
def test_what_is_wrong_is_told(
    finished_run: Run, capsys: pytest.CaptureFixture[str], typed: list[str], said: str
) -> None:
    assert main(["demo", f"run={finished_run.path}", *typed]) == 2
    assert said in capsys.readouterr().err


def test_columns_of_several_tasks_and_other_scores() -> None:
    from mmft.run.demo.page import _said, _scores

    assert _said({"prediction_kind": "cat", "prediction_price": 3.5}) == "kind: cat\nprice: 3.5"
    assert _said({"prediction": "cat"}) == "cat"
    assert _scores({"score": 0.5, "score_cat": 0.5, "score_dog": 0.25}) == {"cat": 0.5, "dog": 0.25}
    assert _scores({"score_cat": 1.5}) == {}
