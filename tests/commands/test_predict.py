"""`mmft test`, `mmft predict` and `mmft.load` on a finished run."""

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
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from runs import Run, TrainRun

import mmft
from mmft.commands.predict import predict
from mmft.commands.test import test as run_test
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_rows
from mmft.errors import UserError

Answers = list[dict[str, str]]


@pytest.fixture
def run(finished_run: Run) -> Run:
    return finished_run


def predicted(run: Run, table: Path, out: Path, *more: str) -> Answers:
    assert predict(compose("predict", [f"run={run.path}", f"data.path={table}", f"out={out}", *more])) == 0
    return list(csv.DictReader(out.open()))


def write(table: Path, rows: list[dict[str, Any]]) -> Path:
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "image", "text"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return table


def sample(shapes: Any, count: int) -> list[dict[str, Any]]:
    """Rows with absolute paths."""
    rows = list(csv.DictReader(shapes.rows.open()))[:count]
    return [row | {"image": str(shapes.rows.parent / row["image"])} for row in rows]


def spoilers(folder: Path, good: Path) -> dict[str, Callable[[], str]]:
    """Ways to make a row's image bad: each gives what stands in the table's cell."""
    from PIL import Image

    def file(name: str, content: bytes) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    def truncated(ending: str, **options: Any) -> str:
        path = folder / f"cut{ending}"
        Image.effect_noise((64, 64), 90).convert("RGB").save(path, **options)
        return file(path.name, path.read_bytes()[: path.stat().st_size // 2])

    def bomb() -> str:
        png = bytearray(good.read_bytes())
        png[16:24] = (30_000).to_bytes(4, "big") * 2
        return file("bomb.png", bytes(png))

    def folder_itself() -> str:
        (folder / "folder.png").mkdir(exist_ok=True)
        return str(folder / "folder.png")

    def loop() -> str:
        if not (folder / "loop.png").is_symlink():
            (folder / "loop.png").symlink_to(folder / "loop.png")
        return str(folder / "loop.png")

    return {
        "missing": lambda: str(folder / "gone.png"),
        "empty": lambda: file("empty.png", b""),
        "text": lambda: file("text.png", b"not an image at all"),
        "html": lambda: file("page.jpg", b"<html><body>404</body></html>"),
        "svg": lambda: file("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "cut png": lambda: truncated(".png"),
        "cut jpeg": lambda: truncated(".jpg", quality=95),
        "cut webp": lambda: truncated(".webp", quality=95),
        "cut bmp": lambda: truncated(".bmp"),
        "cut tiff": lambda: truncated(".tif"),
        "header only": lambda: file("header.png", good.read_bytes()[:33]),
        "bomb": bomb,
        "folder": folder_itself,
        "url": lambda: "https://example.org/a.png",
        "s3": lambda: "s3://bucket/a.png",
        "link in a circle": loop,
        "name too long": lambda: "x" * 5000 + ".png",
        "zeros": lambda: file("zeros.png", bytes(1000)),
        "broken data": lambda: file("broken.png", good.read_bytes()[:60] + bytes(40) + good.read_bytes()[100:]),
        "pdf": lambda: file("paper.pdf", b"%PDF-1.7 " + bytes(100)),
    }


def test_200_rows_of_which_40_are_bad_in_20_ways(run: Run, shapes: Any, tmp_path: Path) -> None:
    rows = sample(shapes, 200)
    alone = predicted(run, write(tmp_path / "good.csv", rows), tmp_path / "alone.csv")
    ways = spoilers(tmp_path, Path(rows[0]["image"]))
    assert len(ways) >= 15
    bad = {5 * k: list(ways)[k % len(ways)] for k in range(40)}
    mixed = [row | ({"image": ways[bad[i]]()} if i in bad else {}) for i, row in enumerate(rows)]
    answers = predicted(run, write(tmp_path / "mixed.csv", mixed), tmp_path / "out.csv")
    assert [int(a["row"]) for a in answers] == list(range(200))
    assert [a["id"] for a in answers] == [a["id"] for a in alone]
    for i, (answer, before) in enumerate(zip(answers, alone, strict=True)):
        if i in bad:
            assert answer["error"].startswith("image: "), bad[i]
            assert not answer["prediction"], bad[i]
            assert not answer["score"], bad[i]
        else:
            assert not answer["error"]
            assert answer["prediction"] == before["prediction"]
            assert float(answer["score"]) == pytest.approx(float(before["score"]), abs=1e-5)


def test_neighbours_change_nothing_after_training_in_bf16(train_run: TrainRun, shapes: Any) -> None:
    """A long text beside a row lengthens its padding, which moves its scores by 4e-3 in bfloat16."""
    run = train_run("trainer.precision=bf16-mixed", "trainer.max_epochs=1")
    assert run.summary["status"] == "completed"
    rows = sample(shapes, 32)
    alone = mmft.load(run.path).predict(rows)
    rows[3]["text"] = " ".join(row["text"] for row in rows)
    beside = mmft.load(run.path).predict(rows)
    frame = [(a, b) for i, (a, b) in enumerate(zip(alone, beside, strict=True)) if i != 3]
    assert all(a["prediction"] == b["prediction"] for a, b in frame)
    assert max(abs(a["score"] - b["score"]) for a, b in frame) < 1e-5
    assert {a["score"] for a in alone} != {a["score"] for a in beside}


def test_a_run_in_float64_predicts_in_float64(train_run: TrainRun, shapes: Any) -> None:
    model = mmft.load(train_run("trainer.precision=64-true", "trainer.max_epochs=1").path)
    answers = model.predict(sample(shapes, 4))
    assert next(model.model.parameters()).dtype == torch.float64
    assert any(a["score"] != float(np.float32(a["score"])) for a in answers)


@pytest.mark.parametrize("tune", ["lora_8bit", "lora_4bit"])
def test_nothing_is_said_for_every_layer_and_batch(
    tune: str, train_run: TrainRun, shapes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run = train_run(f"tune={tune}", "trainer.max_epochs=1")
    logging.getLogger("bitsandbytes").setLevel(logging.NOTSET)  # as in Python, without a command
    caplog.clear()
    mmft.load(run.path).predict(sample(shapes, 4))
    assert [record.getMessage() for record in caplog.records if record.name.startswith("bitsandbytes")] == []


def test_what_test_evaluates_in(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mmft.load(run.path)
    table = {("bf16-mixed", True): "bf16-mixed", ("bf16-mixed", False): "32-true", ("64-true", False): "64-true"}
    table |= {("16-mixed", False): "32-true"}  # this is a CPU
    for (trained, hardware), expected in table.items():
        model.saved.config.trainer.precision = trained  # type: ignore[assignment]
        monkeypatch.setattr("mmft.run.model_on_device.has_bf16", lambda _, has=hardware: has)
        assert model.test_precision == expected


def test_a_gpu_that_is_not_there(run: Run, shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"trainer.accelerator=gpu: torch sees no GPU"):
        predicted(run, shapes.rows, tmp_path / "out.csv", "trainer.accelerator=gpu")
    with pytest.raises(UserError, match=r"trainer.accelerator=gpu: torch sees no GPU"):
        run_test(compose("test", [f"run={run.path}", "trainer.accelerator=gpu"]))


def test_the_callers_code_is_not_in_inference_mode(run: Run, shapes: Any) -> None:
    model = mmft.load(run.path)
    data = model.saved.config.data
    data.path = str(shapes.rows)
    assert not any(torch.is_inference_mode_enabled() for _ in model.answers(load_rows(data, None), data))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_nothing_is_left_of_an_output_that_failed(
    run: Run, shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(type(mmft.load(run.path).saved.task), "answers", fail)
    out = tmp_path / "out" / f"p.{ending}"
    out.parent.mkdir()
    out.write_text("the old one")
    with pytest.raises(RuntimeError, match="in the middle"):
        predicted(run, shapes.rows, out)
    assert [path.read_text() for path in out.parent.iterdir()] == ["the old one"]


def test_rows_that_the_table_itself_spoils_keep_their_place(run: Run, shapes: Any, tmp_path: Path) -> None:
    rows = sample(shapes, 4)
    good = [json.dumps({"image": r["image"], "text": r["text"]}) for r in rows]
    lines = [
        good[0],
        "{not json",
        good[1],
        "[1, 2]",
        '{"image": null, "text": null}',
        good[2],
        '{"text": ["a"]}',
        good[3],
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    answers = predicted(run, tmp_path / "rows.jsonl", tmp_path / "out.csv", "data.columns.id=null")
    assert [bool(a["error"]) for a in answers] == [False, True, False, True, True, False, True, False]
    assert [int(a["row"]) for a in answers] == list(range(8))


def test_a_missing_modality_is_no_error(run: Run, shapes: Any, tmp_path: Path) -> None:
    rows = sample(shapes, 3)
    rows[0]["image"] = ""
    rows[1]["text"] = ""
    answers = predicted(run, write(tmp_path / "rows.csv", rows), tmp_path / "out.csv")
    assert [a["error"] for a in answers] == ["", "", ""]
    assert all(a["prediction"] for a in answers)


def test_every_format_of_output_says_the_same(
    run: Run, shapes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = sample(shapes, 5)
    rows[2]["image"] = "gone.png"
    table = write(tmp_path / "rows.csv", rows)
    answers = predicted(run, table, tmp_path / "out.csv")
    predict(compose("predict", [f"run={run.path}", f"data.path={table}", f"out={tmp_path / 'out.jsonl'}"]))
    predict(compose("predict", [f"run={run.path}", f"data.path={table}", f"out={tmp_path / 'out.parquet'}"]))
    capsys.readouterr()
    predict(compose("predict", [f"run={run.path}", f"data.path={table}", "out=-"]))
    assert list(csv.DictReader(capsys.readouterr().out.splitlines())) == answers
    as_json = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    as_parquet = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    labels = [a["prediction"] or None for a in answers]
    assert [a["prediction"] for a in as_json] == [a["prediction"] for a in as_parquet] == labels
    assert as_json[2]["score"] is None
    assert list(as_json[0]) == list(answers[0]) == list(as_parquet[0])


def test_columns_of_the_table_are_kept_on_request(run: Run, shapes: Any, tmp_path: Path) -> None:
    rows = [row | {"price": 2.5 + at, "tags": ["a", "b"][: at % 3]} for at, row in enumerate(sample(shapes, 4))]
    rows[1]["image"] = "gone.png"
    table = tmp_path / "rows.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    kept = predicted(run, table, tmp_path / "out.csv", "keep=[price,tags]")
    assert [(one["price"], one["tags"]) for one in kept] == [(str(r["price"]), json.dumps(r["tags"])) for r in rows]
    assert "price" not in predicted(run, table, tmp_path / "out.csv")[0]
    assert "/gone.png" in kept[1]["error"]
    predict(
        compose("predict", [f"run={run.path}", f"data.path={table}", "keep=price", f"out={tmp_path / 'out.parquet'}"])
    )
    assert parquet.read_table(tmp_path / "out.parquet")["price"].to_pylist() == [2.5, 3.5, 4.5, 5.5]
    every = predicted(run, table, tmp_path / "out.csv", "keep=all")  # the predictions have an id of their own
    assert [(one["id"], one["price"], one["label"]) for one in every] == [
        (one["id"], str(row["price"]), row["label"]) for one, row in zip(kept, rows, strict=True)
    ]
    with pytest.raises(UserError, match=r"keep=id: the predictions have a column of this name"):
        predicted(run, table, tmp_path / "out.csv", "keep=[id,price]")
    with pytest.raises(UserError, match=r"keep=none: .*rows.jsonl has no such column"):
        predicted(run, table, tmp_path / "out.csv", "keep=none")


def test_labels_that_training_lacks_are_mistakes(
    run: Run, shapes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        assert run_test(compose("test", [f"run={run.path}", f"data.path={tmp_path / 'rows.jsonl'}"])) == 0
        return {name: float(value) for name, value in map(str.split, capsys.readouterr().out.splitlines())}

    capsys.readouterr()
    rows = [row | {"split": "test"} for row in sample(shapes, 20)]
    known = figures(rows[:15])
    whole = figures(rows[:15] + [row | {"label": "new"} for row in rows[15:]])
    assert (whole["rows"], whole["bad_rows"]) == (20, 0)
    assert whole["accuracy"] == pytest.approx(known["accuracy"] * 15 / 20, abs=1e-6)
    assert whole["loss"] == pytest.approx(known["loss"], abs=1e-5)


@pytest.mark.parametrize(("out", "said"), [("out.xlsx", "unknown file extension"), ("no/such/out.csv", "no folder")])
def test_an_output_that_cannot_be_written(run: Run, shapes: Any, tmp_path: Path, out: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        predicted(run, shapes.rows, tmp_path / out)


def test_test_gives_the_runs_own_figures_and_other_rows_theirs(
    run: Run, shapes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def figures(*overrides: str) -> dict[str, float]:
        capsys.readouterr()
        assert run_test(compose("test", [f"run={run.path}", *overrides])) == 0
        return {name: float(value) for name, value in map(str.split, capsys.readouterr().out.splitlines())}

    same = figures()
    assert {k: v for k, v in same.items() if k in run.summary["test"]} == pytest.approx(run.summary["test"], abs=1e-6)
    assert figures(f"data.path={shapes.rows}")["rows"] == 30
    assert figures(f"data.path={shapes.rows}", "data.limit=7")["rows"] == figures("data.limit=7")["rows"] == 7
    assert figures(f"data.path={shapes.rows}", "data.limit=7") == figures("data.limit=7")
    rows = [r | {"label": r["label"]} for r in csv.DictReader(shapes.rows.open())][:50]
    table = tmp_path / "rows.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["image", "text", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert figures(f"data.path={table}", f"data.root={shapes.rows.parent}", "data.columns.id=null")["rows"] == 50


def test_ids_are_optional_where_only_the_run_has_them(
    train_run: TrainRun, shapes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """New rows have none; nothing that could be typed would do without the run's column."""
    run = train_run("data.columns.id=id", "trainer.max_epochs=1")
    rows = [{name: row[name] for name in ("image", "text", "label")} for row in sample(shapes, 4)]
    table = tmp_path / "rows.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    answers = predicted(run, table, tmp_path / "out.csv")
    assert [(answer["id"], answer["error"]) for answer in answers] == [(str(row), "") for row in range(4)]
    assert "has no column id, the run's ids: row numbers are used instead" in capsys.readouterr().err
    model = mmft.load(run.path)
    assert [answer["prediction"] for answer in model.predict(rows)] == [answer["prediction"] for answer in answers]
    assert len(model.embed(rows)["fused"]) == 4
    assert run_test(compose("test", [f"run={run.path}", f"data.path={table}"])) == 0
    with pytest.raises(UserError, match=r"data.columns.id=id: .* has no such column"):
        predicted(run, table, tmp_path / "out.csv", "data.columns.id=id")


def test_test_counts_all_rows_without_a_label_before_it_ends(run: Run, shapes: Any, tmp_path: Path) -> None:
    """Not those of the first batches alone: who mends what is named should not meet as many again."""
    rows = [row | {"label": "" if number % 5 < 2 else row["label"]} for number, row in enumerate(sample(shapes, 200))]
    table = tmp_path / "rows.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["image", "text", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(UserError, match="80 of 200 rows are known to be bad"):
        run_test(compose("test", [f"run={run.path}", f"data.path={table}", "data.columns.id=null"]))


def test_test_on_the_runs_own_table_takes_its_own_test_rows(
    train_run: TrainRun, shapes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the rows that it was trained on, however they were split off."""
    run = train_run("data.columns.split=null", "data.columns.id=id", "data.limit=null")
    capsys.readouterr()
    assert run_test(compose("test", [f"run={run.path}", f"data.path={shapes.rows}"])) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert int(lines["rows"]) == run.summary["rows"]["test"] < 240
    assert float(lines["accuracy"]) == pytest.approx(run.summary["test"]["accuracy"], abs=1e-6)


ENCODERS = [
    ("timm_vit", "bert", "full"),
    ("hf_dinov2", "roberta", "full"),
    ("hf_siglip", "deberta_v2", "head_only"),
    ("timm_convnext", "clip", "head_only"),
]


@pytest.mark.parametrize(("image", "text", "tune"), ENCODERS)
@pytest.mark.parametrize("width", [32, 64])
def test_a_moved_run_with_moved_encoders_gives_identical_logits(
    train_run: TrainRun,
    shapes: Any,
    tmp_path: Path,
    image_encoder_folder: Any,
    text_encoder_folder: Any,
    image: str,
    text: str,
    tune: str,
    width: int,
) -> None:
    names = {"image_encoder": image_encoder_folder(image, width), "text_encoder": text_encoder_folder(text, width)}
    here = {encoder: shutil.copytree(folder, tmp_path / "here" / encoder) for encoder, folder in names.items()}
    run = train_run(
        *(f"model.{encoder}.name={folder}" for encoder, folder in here.items()), f"tune={tune}", "optim.lr=null"
    )
    rows = sample(shapes, 50)
    before = mmft.load(run.path).predict(rows)
    shutil.move(run.path, tmp_path / "elsewhere")
    shutil.move(tmp_path / "here", tmp_path / "there")
    if tune == "head_only":
        with pytest.raises(UserError, match=r"the frozen encoder .*sha256 .*MMFT_ENCODERS"):
            mmft.load(tmp_path / "elsewhere")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MMFT_ENCODERS", str(tmp_path / "there"))
            assert mmft.load(tmp_path / "elsewhere").predict(rows) == before
    else:
        assert mmft.load(tmp_path / "elsewhere" / "model").predict(rows) == before


def test_another_base_with_the_same_name_is_refused_by_its_hash(
    train_run: TrainRun, tmp_path: Path, image_encoder_folder: Any
) -> None:
    here = shutil.copytree(image_encoder_folder("timm_vit"), tmp_path / "encoder")
    run = train_run("tune=head_only", "optim.lr=null", f"model.image_encoder.name={here}")
    shutil.rmtree(here)
    shutil.copytree(image_encoder_folder("timm_vit", seed=1), here)
    with pytest.raises(UserError, match="the frozen encoder"):
        mmft.load(run.path)


def test_rows_come_back_in_the_type_that_they_were_given_in(run: Run, shapes: Any) -> None:
    rows = [{"image": r["image"], "text": r["text"]} for r in sample(shapes, 3)]
    model = mmft.load(run.path)
    assert model.labels == sorted(model.labels)
    listed = model.predict(rows)
    frame = model.predict(pd.DataFrame(rows, index=[7, 8, 9]))
    table = model.predict(pa.Table.from_pylist(rows))
    assert isinstance(frame, pd.DataFrame)
    assert isinstance(table, pa.Table)
    assert list(frame.index) == [7, 8, 9]
    assert model.predict([]) == []
    assert list(model.predict(pd.DataFrame(rows)[:0])) == list(frame)
    assert frame["prediction"].tolist() == table["prediction"].to_pylist() == [a["prediction"] for a in listed]


def test_a_misspelt_name_is_no_missing_text(run: Run, shapes: Any) -> None:
    rows = [{"image": row["image"], "text": row["text"]} for row in sample(shapes, 2)]
    model = mmft.load(run.path)
    rows[1]["texts"] = rows[1].pop("text")
    with pytest.raises(UserError, match=r"rows: row 1 has 'texts', but no 'text'\. Did you mean 'text'\?"):
        model.predict(rows)
    del rows[1]["texts"]
    assert model.predict(rows)[1]["error"] is None
    frame = pd.DataFrame(sample(shapes, 2)).rename(columns={"image": "img"})
    with pytest.raises(UserError, match=r"rows: they have 'img', but no 'image'\. Did you mean 'image'\?"):
        model.predict(frame)
    assert model.predict(frame.assign(image=None))["error"].isna().all()


def test_last_is_the_newest_run(train_run: TrainRun, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    train_run(folder=runs / "a" / "1")
    second = train_run("model.fusion.hidden=48", folder=runs / "b" / "0")
    assert mmft.load("last", runs).model.fusion.width == 48
    assert second.summary["started"] > ""
    with pytest.raises(UserError, match="no finished run under"):
        mmft.load("last", tmp_path / "nothing")
    with pytest.raises(UserError, match="not a run folder"):
        mmft.load(tmp_path)
