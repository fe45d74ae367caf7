"""`mmft index` and `mmft search`, and the same in Python: what is found, and what is refused by name."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from make_shapes import Shapes
from PIL import Image
from pyarrow import parquet
from runs import Run, TrainRun

import mmft
from mmft.cli.main import main
from mmft.commands.index import index
from mmft.commands.search import search
from mmft.config.compose import compose
from mmft.errors import ExitCode, UserError

ROWS = 40


@pytest.fixture(scope="module")
def pair(pair_folder: Callable[[str], Path]) -> Path:
    return pair_folder("clip")


@pytest.fixture(scope="module")
def table(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with ids, of which row 3 has no text, 5 no image, 7 neither, and the image of 9 is not there."""
    frame = pd.read_csv(shapes.rows).head(ROWS)[["image", "text"]]
    frame["image"] = [str(shapes.rows.parent / image) for image in frame["image"]]
    frame["id"] = [f"r{row}" for row in range(ROWS)]
    frame.loc[[3, 7], "text"] = None
    frame.loc[[5, 7], "image"] = None
    frame.loc[9, "image"] = "not_there.png"
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def of_table(pair: Path, table: Path) -> list[str]:
    columns = [f"data.columns.{name}={name}" for name in ("image", "text", "id")]
    return [f"model.pair={pair}", f"data.path={table}", *columns]


@pytest.fixture(scope="module")
def made(of_table: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of the table by the pair. Not to be written to."""
    path = tmp_path_factory.mktemp("index") / "of_table"
    assert index(compose("index", [*of_table, f"out={path}"])) == 0
    return path


def found(*typed: str | Path, out: Path) -> list[dict[str, str]]:
    """What `mmft search` writes."""
    assert search(compose("search", [*map(str, typed), f"out={out}"])) == 0
    return list(csv.DictReader(out.open()))


def cosines(model: Any, table: Path, by: str, query: int, find: str) -> list[tuple[str, float]]:
    """Ids and similarities of all rows that have what is sought, the most similar first, by `embed` alone."""
    frame = pd.read_csv(table)
    embedded = model.embed(frame, root=table.parent)
    pairs = zip(frame["id"], embedded[find] @ embedded[by][query], strict=True)
    return sorted(((name, float(score)) for name, score in pairs if not np.isnan(score)), key=lambda one: -one[1])


def test_an_index_holds_what_embed_writes(made: Path, table: Path, pair: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == [
        "bad_rows.csv",
        "checksums.json",
        "image.npy",
        "image_rows.npy",
        "index.json",
        "rows.arrow",
        "text.npy",
        "text_rows.npy",
    ]
    bad = list(csv.DictReader((made / "bad_rows.csv").open()))
    assert [one["id"] for one in bad] == ["r7", "r9"]
    assert bad[0]["error"] == "neither an image nor a text"
    assert "no such file" in bad[1]["error"]
    embedded = mmft.load_pair(pair).embed(pd.read_csv(table), root=table.parent)
    there = ~np.isnan(embedded["image"]).any(axis=1)
    assert there.sum() == ROWS - 3
    assert np.allclose(np.load(made / "image.npy"), embedded["image"][there], atol=1e-6)


@pytest.mark.parametrize("find", ["image", "text"])
def test_images_and_texts_find_each_other(find: str, made: Path, table: Path, pair: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    model = mmft.load_pair(pair)
    for by in ("image", "text"):
        typed = [f"query={frame[by][0]}", *([f"find={find}"] if by == find else [])]
        rows = found(f"model.pair={pair}", f"index={made}", *typed, "top=7", out=tmp_path / "out.csv")
        expected = cosines(model, table, by, 0, find)[:7] if by != find else cosines(model, table, by, 0, by)[:7]
        if by == find:
            assert (rows[0]["id"], float(rows[0]["score"])) == ("r0", pytest.approx(1, abs=1e-5))
        else:
            rows = found(f"model.pair={pair}", f"index={made}", *typed, "top=7", f"find={find}", out=tmp_path / "o.csv")
        assert [float(row["score"]) for row in rows] == pytest.approx([score for _, score in expected], abs=1e-5)
        assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 8)]
        for row in rows:
            own = frame.iloc[int(row["row"])]
            assert (own["id"], own["text"] if row["text"] else None) == (row["id"], row["text"] or None)
            assert row["image"] == ("" if pd.isna(own["image"]) else own["image"])


def test_the_index_gives_what_a_search_in_the_table_gives(
    made: Path, of_table: list[str], pair: Path, tmp_path: Path
) -> None:
    query = 'query="a red disc"'
    one = found(f"model.pair={pair}", f"index={made}", query, out=tmp_path / "one.csv")
    assert found(*of_table, query, out=tmp_path / "other.csv") == one
    assert len(one) == 10
    assert {row["query"] for row in one} == {"0"}


def test_many_queries_each_in_its_way(made: Path, shapes: Shapes, pair: Path, tmp_path: Path) -> None:
    """A query that cannot be used has an error and costs the others nothing."""
    image = str(next(shapes.rows.parent.rglob("*.png")))
    queries = pd.DataFrame(
        {
            "image": [None, image, "not_there.png", None, image],
            "text": ["a red disc", None, None, None, "a red disc"],
            "id": [*"abcde"],
        }
    )
    queries.to_csv(tmp_path / "queries.csv", index=False)
    typed = [f"model.pair={pair}", f"index={made}", f"queries={tmp_path / 'queries.csv'}", "data.columns.id=id"]
    rows = found(*typed, "top=2", out=tmp_path / "out.csv")
    assert [row["query_id"] for row in rows] == [*"aabbcde"]
    assert [row["error"] for row in rows[:4]] == [""] * 4
    assert "no such file" in rows[4]["error"]
    assert rows[5]["error"] == "neither an image nor a text"
    assert rows[6]["error"].startswith("it has an image and a text. Type find=image")
    model = mmft.load_pair(pair)
    alone = model.search("a red disc", made, top=2)
    assert [row["id"] for row in alone] == [row["id"] for row in rows[:2]]
    by_text = [row for row in found(*typed, "top=2", "find=image", out=tmp_path / "out.csv") if row["query_id"] == "e"]
    assert [row["id"] for row in by_text] == [row["id"] for row in rows[:2]]


@pytest.mark.parametrize("lacks", ["image", "text"])
def test_one_modality_alone(lacks: str, of_table: list[str], table: Path, pair: Path, tmp_path: Path) -> None:
    """A table of images or of texts: embedded, indexed, and searched by either."""
    frame = pd.read_csv(table).drop(columns=lacks)
    has = "text" if lacks == "image" else "image"
    frame[frame[has].notna()].to_csv(tmp_path / "rows.csv", index=False)
    typed = [of_table[0], f"data.path={tmp_path / 'rows.csv'}", f"data.columns.{has}={has}"]
    out = tmp_path / "index"
    assert main(["embed", *typed, f"out={tmp_path / 'out.parquet'}"]) == 0
    columns = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert set(columns[lacks]) == {None}
    assert sum(one is not None for one in columns[has]) >= ROWS - 3
    assert main(["index", *typed, f"out={out}"]) == 0
    model = mmft.load_pair(pair)
    for query in ("a red disc", Image.new("RGB", (20, 30), "red")):
        rows = model.index(folder=out).search(query, top=3)
        assert [row["rank"] for row in rows] == [1, 2, 3]
    with pytest.raises(UserError, match=f"no row of the index has an? {lacks}. Leave find={lacks} out"):
        model.search("a red disc", out, find=lacks)  # type: ignore[arg-type]


def test_the_same_rows_are_not_embedded_again(
    of_table: list[str], table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    logging.getLogger("mmft").propagate = True
    rows = tmp_path / "rows.csv"
    shutil.copy(table, rows)
    typed = [*of_table, f"data.path={rows}", f"out={tmp_path / 'index'}"]

    def made(*more: str) -> str:
        caplog.clear()
        with caplog.at_level("INFO", "mmft"):
            assert index(compose("index", [*typed, *more])) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'index'}\n"
        return caplog.text

    assert f"{ROWS} rows, 2 of them with an error" in made()
    before = (tmp_path / "index" / "image.npy").stat()
    assert "the index of these rows is there already" in made()
    assert (tmp_path / "index" / "image.npy").stat() == before
    assert "is replaced" in made("kind=approximate")
    assert (tmp_path / "index" / "image.usearch").is_file()
    assert "is there already" in made("kind=approximate")
    assert "is replaced" in made("data.resize=pad")
    rows.write_text(rows.read_text().replace("r0", "first"))
    assert "is replaced" in made("data.resize=pad")


def test_an_approximate_index_finds_what_the_exact_one_does(made: Path, of_table: list[str], tmp_path: Path) -> None:
    assert index(compose("index", [*of_table, "kind=approximate", f"out={tmp_path / 'graph'}"])) == 0
    typed = [of_table[0], 'query="a red disc"']
    exact = found(*typed, f"index={made}", out=tmp_path / "a.csv")
    assert found(*typed, f"index={tmp_path / 'graph'}", out=tmp_path / "b.csv") == exact


def test_python_and_the_command_agree(made: Path, table: Path, pair: Path, tmp_path: Path) -> None:
    model = mmft.load_pair(pair)
    frame = pd.read_csv(table)
    in_memory = model.index(frame, root=table.parent)
    assert len(in_memory) == ROWS - 2
    kept = model.index(frame, tmp_path / "kept", root=table.parent)
    told = in_memory.search("a red disc", top=3)
    assert told == kept.search("a red disc", top=3) == model.index(folder=tmp_path / "kept").search("a red disc", 3)
    rows = found(f"model.pair={pair}", f"index={made}", 'query="a red disc"', "top=3", out=tmp_path / "out.csv")
    assert [row["score"] for row in told] == pytest.approx([float(row["score"]) for row in rows], abs=1e-6)
    image = frame["image"][0]
    several = in_memory.search([image, "a red disc", {"text": "red.png"}], top=1)
    assert [row["query"] for row in several] == [0, 1, 2]
    assert several[1]["row"] == told[0]["row"]
    for query in (Path(image), Image.open(image), Path(image).read_bytes(), np.asarray(Image.open(image))):
        (alone,) = in_memory.search(query, top=1)
        assert alone == several[0] | {"score": pytest.approx(several[0]["score"], abs=1e-6)}
    for wrong in ({"txt": "a", "image": image}, [image, {"label": "a"}]):
        with pytest.raises(UserError, match=r"query: no such column: (txt|label)\..* There are image and text"):
            in_memory.search(wrong)
    of_table = in_memory.search(pd.DataFrame({"image": [None, image], "text": ["a disc", None]}), top=1)
    assert [row["row"] for row in of_table][1] == several[0]["row"]


def test_images_in_the_table_are_shown_from_the_index(table: Path, pair: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table).loc[:2]
    frame["image"] = [Path(image).read_bytes() for image in frame["image"]]
    frame.to_parquet(tmp_path / "rows.parquet")
    columns = ["data.columns.image=image", "data.columns.text=text"]
    given = [f"model.pair={pair}", f"data.path={tmp_path / 'rows.parquet'}", *columns, 'query="a red disc"']
    rows = found(*given, out=tmp_path / "out.csv")
    assert [row["image"] for row in rows] == [""] * 3
    assert main(["search", *given, f"out={tmp_path / 'page.html'}"]) == 0
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg;base64") == 3
    held = mmft.load_pair(pair).search("a red disc", frame)
    assert held[0]["image"] == frame["image"][held[0]["row"]]


def test_the_page_shows_queries_and_what_they_find(made: Path, pair: Path, table: Path, tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>'
    image = pd.read_csv(table)["image"][0]
    pd.DataFrame({"text": [evil, None, None], "image": [None, image, "not_there.png"]}).to_csv(
        tmp_path / "queries.csv", index=False
    )
    page = tmp_path / "page.html"
    typed = [f"model.pair={pair}", f"index={made}", f"queries={tmp_path / 'queries.csv'}", "top=3", f"out={page}"]
    assert main(["search", *typed]) == 0
    text = page.read_text()
    assert "<script" not in text
    assert text.count("<h2>") == 3
    assert "Not searched: image: no such file" in text
    assert text.count("data:image/jpeg;base64") >= 3
    assert f"Among {ROWS - 2} rows" in text
    assert "2 more rows cannot be used." in text


def test_other_tasks_compare_what_can_be_compared(finished_run: Run, shapes: Shapes, tmp_path: Path) -> None:
    """Image with image, text with text, both with both; the rows are the run's own if none are typed."""
    model = mmft.load(finished_run.path)
    frame = pd.read_csv(shapes.rows)
    image, text = str(shapes.rows.parent / frame["image"][4]), frame["text"][4]
    run = f"run={finished_run.path}"
    assert main(["index", run, f"out={tmp_path / 'index'}"]) == 0
    made = model.index(folder=tmp_path / "index")
    assert len(made) == len(frame)
    for query in (image, text, {"image": image, "text": text}):
        assert made.search(query, top=1)[0]["score"] == pytest.approx(1, abs=1e-5)
    assert made.search(image, top=1)[0]["row"] == 4
    with pytest.raises(UserError, match="not trained to compare images with texts, so that a text cannot find an imag"):
        made.search(text, find="image")
    assert made.search({"image": image, "text": text}, find="image") == made.search(image)


def test_a_fusion_of_tokens_needs_both(train_run: TrainRun, shapes: Shapes) -> None:
    small = ["model/fusion=merged", "model.fusion.width=32", "model.fusion.heads=2", "trainer.max_epochs=1"]
    model = mmft.load(train_run(*small).path)
    rows = pd.read_csv(shapes.rows).head(6)
    made = model.index(rows, root=shapes.rows.parent)
    with pytest.raises(UserError, match="reads image and text together, so that a text alone has no embedding"):
        made.search("a red disc")
    assert len(made.search("a red disc", find="fused")) == 6
    both = {"image": str(shapes.rows.parent / rows["image"][2]), "text": rows["text"][2]}
    assert made.search(both, top=1)[0]["row"] == 2


def test_an_index_of_another_model_is_refused(
    made: Path, finished_run: Run, pair_folder: Callable[[str], Path], tmp_path: Path, capsys: Any
) -> None:
    for model in (f"run={finished_run.path}", f"model.pair={pair_folder('siglip')}"):
        assert main(["search", model, f"index={made}", 'query="a red disc"']) == ExitCode.USER
        assert f"index={made} was made by another model" in capsys.readouterr().err
    moved = tmp_path / "elsewhere"
    shutil.copytree(finished_run.path / "model", moved / "model")
    assert mmft.load(moved / "model").saved.digest == mmft.load(finished_run.path).saved.digest


def test_what_is_wrong_is_said(made: Path, of_table: list[str], pair: Path, tmp_path: Path, capsys: Any) -> None:
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:40])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    pd.DataFrame({"title": ["a"]}).to_csv(tmp_path / "queries.csv", index=False)
    shutil.copytree(made, tmp_path / "cut")
    (tmp_path / "cut" / "image.npy").write_bytes((made / "image.npy").read_bytes()[:-8])
    use = ["search", f"model.pair={pair}"]
    index_ = f"index={made}"
    for typed, said in [
        ([*use, index_], 'query: is missing. Type query="a red heart", or query=IMAGE.png'),
        ([*use, index_, "query=' '"], "query: is empty"),
        ([*use, index_, "query=a", "queries=b.csv"], "query: does not go with"),
        ([*use, index_, "query=gone.png"], "query: there is no image file 'gone.png'"),
        ([*use, index_, f"query={tmp_path / 'half.png'}"], "query: image: "),
        ([*use, index_, "queries=gone.csv"], "queries: there is no file 'gone.csv'"),
        ([*use, index_, f"queries={tmp_path / 'queries.csv'}"], "there is no image in a column image and no text in a"),
        ([*use, "index=gone", "query=a"], "index: there is no folder 'gone'"),
        ([*use, f"index={tmp_path}", "query=a"], f"{tmp_path} is no index"),
        ([*use, f"index={tmp_path / 'cut'}", "query=a"], "image.npy has"),
        ([*use, index_, "query=a", "data.path=a.csv"], "index: does not go with data.path"),
        ([*use, index_, "query=a", "find=fused"], "the run compares images with texts. Type find=image or find=text"),
        ([*use, index_, "query=a", "out=page.pdf"], "unknown file extension; expected one of"),
        ([*use, index_, "query=a", "top=0"], "top"),
        (["index", *of_table, f"out={tmp_path / 'other'}"], "has other files in it. Type out=FOLDER with a new name"),
        (["index", *of_table, f"out={tmp_path / 'whole.png'}"], "is a file; type out=FOLDER"),
    ]:
        assert main(typed) == ExitCode.USER, typed
        assert said in capsys.readouterr().err, typed
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.txt"]


def test_an_index_is_there_as_a_whole_or_not_at_all(
    of_table: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmft.run.index.folder.seal", full)
    with pytest.raises(OSError, match="No space left"):
        index(compose("index", [*of_table, f"out={tmp_path / 'index'}"]))
    assert list(tmp_path.iterdir()) == []


def test_more_rows_than_are_written_at_once(
    of_table: list[str], table: Path, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmft.run.index.folder._CHUNK", 7)
    assert index(compose("index", [*of_table, f"out={tmp_path / 'index'}"])) == 0
    assert json.loads((tmp_path / "index" / "index.json").read_text())["rows"] == ROWS - 2
    model = mmft.load_pair(pair)
    frame = pd.read_csv(table)
    for row in model.index(folder=tmp_path / "index").search("a red disc", top=ROWS, find="text"):
        assert frame["id"][row["row"]] == row["id"]
        assert frame["text"][row["row"]] == row["text"]
