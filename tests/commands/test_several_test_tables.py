"""Several test tables by name, `data.test={photo:a.csv,sketch:b.csv}`: tested one by one, told side by side."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command import Mmft
from make_shapes import Shapes
from runs import Run, TrainRun, resumed

import mmft
from mmft import build
from mmft.cli.main import main
from mmft.commands.check import check
from mmft.commands.test import test as run_test
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.run.export.card import model_card
from mmft.training.loggers.base import Prediction, RunLogger

Rows = list[dict[str, str]]


class Tables(NamedTuple):
    """Where the tables lie; `photo` and `sketch` have the sample's test rows, `sketch` others' texts, and fewer."""

    folder: Path
    write: Callable[[str, Rows], Path]
    test_rows: Rows

    @property
    def of_training(self) -> list[str]:
        """The overrides that train on the sample's rows, with one file per split."""
        files = [f"data.{name}={self.folder / name}.csv" for name in ("train", "val")]
        return ["data.path=null", "data.columns.split=null", "data.columns.id=id", *files]

    @property
    def named(self) -> str:
        """The override that names both test tables."""
        return f"data.test={{photo:{self.folder / 'photo.csv'},sketch:{self.folder / 'sketch.csv'}}}"


@pytest.fixture
def tables(shapes: Shapes, tmp_path: Path) -> Tables:
    folder = tmp_path / "tables"
    folder.mkdir()

    def write(name: str, rows: Rows) -> Path:
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return folder / f"{name}.csv"

    rows = [row | {"image": str(shapes.rows.parent / row["image"])} for row in csv.DictReader(shapes.rows.open())]
    for name in ("train", "val"):
        write(name, [row for row in rows if row["split"] == name])
    photo = [row for row in rows if row["split"] == "test"]
    texts = [row["text"] for row in photo]
    write("photo", photo)
    write("sketch", [row | {"text": text} for row, text in zip(photo, texts[7:] + texts[:7], strict=True)][:20])
    return Tables(folder, write, photo)


def told_by_test(capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[dict[str, float], list[str]]:
    """What `mmft test` prints: figures by name on stdout, and the lines on stderr."""
    capsys.readouterr()
    assert run_test(compose("test", list(overrides))) == 0
    out, err = capsys.readouterr()
    return {name: float(value) for name, value in map(str.split, out.splitlines())}, err.splitlines()


def cells(lines: list[str]) -> list[list[str]]:
    return [line.split() for line in lines]


class Recorder(RunLogger):
    """Remembers what it is given."""

    def __init__(self) -> None:
        super().__init__(predictions=6)
        self.metrics: set[str] = set()
        self.tables: set[str] = set()
        self.rows: Sequence[Prediction] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # noqa: ARG002
        self.metrics |= set(metrics)

    def log_table(self, name: str, rows: Sequence[Sequence[Any]]) -> None:  # noqa: ARG002
        self.tables.add(name)

    def log_predictions(self, rows: Sequence[Prediction]) -> None:
        self.rows = rows


def test_a_run_tests_each_table_as_if_it_were_the_only_one(
    train_run: TrainRun, tables: Tables, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = Recorder()
    with monkeypatch.context() as patched:
        patched.setattr(build, "build_logger", lambda _: logger)
        run = train_run(*tables.of_training, tables.named, "modality_report=true")
    summary, log_text = run.summary, (run.path / "train.log").read_text()
    assert list(summary["tests"]) == ["photo", "sketch"]
    for name in ("photo", "sketch"):
        alone = train_run(*tables.of_training, f"data.test={tables.folder / name}.csv").summary
        assert summary["tests"][name] == alone["test"]
        assert summary["rows"][f"test/{name}"] == alone["rows"]["test"]
        assert (run.path / f"confusion_matrix_{name}.csv").is_file()
    assert summary["tests"]["photo"] != summary["tests"]["sketch"]
    assert summary["test"] == summary["tests"]["photo"]  # what reads one table's figures reads the first's
    assert summary["rows"]["test"] == summary["rows"]["test/photo"] == 30
    assert summary["modalities"]["both"] == summary["test"]["accuracy"]
    assert "test/photo accuracy: majority class" in log_text
    accuracies = [f"{summary['tests'][name]['accuracy']:.4f}" for name in ("photo", "sketch")]
    last = [line.split()[-3:] for line in log_text.splitlines()[-3:]]
    assert last == [["table", "rows", "accuracy"], ["photo", "30", accuracies[0]], ["sketch", "20", accuracies[1]]]

    assert {"test/photo/accuracy", "test/sketch/accuracy"} <= logger.metrics
    assert {"test/photo/confusion_matrix", "test/sketch/confusion_matrix"} <= logger.tables
    assert [row.split for row in logger.rows] == ["test/photo"] * 3 + ["test/sketch"] * 3
    logged = list(csv.DictReader((run.path / "metrics.csv").open()))
    assert float(logged[-2]["test/photo/accuracy"]) == summary["tests"]["photo"]["accuracy"]
    assert float(logged[-1]["test/sketch/accuracy"]) == summary["tests"]["sketch"]["accuracy"]

    card = model_card(mmft.load(run.path).saved, summary, [])
    assert f"| metric | photo | sketch |\n|---|---|---|\n| accuracy | {accuracies[0]} | {accuracies[1]} |" in card

    found, _ = told_by_test(capsys, f"run={run.path}")  # the run's own tables
    for name in ("photo", "sketch"):
        assert found[f"{name}/rows"] == summary["rows"][f"test/{name}"]
        for metric, value in summary["tests"][name].items():
            assert found[f"{name}/{metric}"] == pytest.approx(value, abs=1e-5)


def test_test_takes_several_tables_or_one(
    train_run: TrainRun, tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"run={train_run().path}"  # on one table, with a split column
    found, told = told_by_test(capsys, run, tables.named)
    accuracies = [f"{found[f'{name}/accuracy']:.4f}" for name in ("photo", "sketch")]
    assert cells(told[-3:]) == [
        ["table", "rows", "accuracy"],
        ["photo", "30", accuracies[0]],
        ["sketch", "20", accuracies[1]],
    ]
    for name in ("photo", "sketch"):
        alone, told = told_by_test(capsys, run, f"data.test={tables.folder / name}.csv")
        assert {f"{name}/{metric}": value for metric, value in alone.items()}.items() <= found.items()
        assert not [line for line in told if line.startswith("table")]
    both, _ = told_by_test(
        capsys,
        run,
        f"data.test={{all:'{tables.folder}/[ps]*.csv',photo:[{tables.folder / 'photo.csv'}]}}",
        "data.limit=null",
    )
    assert (both["all/rows"], both["photo/rows"]) == (50, 30)
    assert both["photo/accuracy"] == found["photo/accuracy"]


@pytest.mark.slow
def test_each_modality_is_told_for_each_table(
    train_run: TrainRun, tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"run={train_run(*tables.of_training).path}"
    found, told = told_by_test(capsys, run, tables.named, "modalities=true")
    assert [line for line in told if line in ("photo:", "sketch:")] == ["photo:", "sketch:"]
    for name in ("photo", "sketch"):
        alone, _ = told_by_test(capsys, run, f"data.test={tables.folder / name}.csv", "modalities=true")
        assert found[f"{name}/text_only/accuracy"] == alone["text_only/accuracy"]
        assert found[f"{name}/image_shuffled/accuracy"] == alone["image_shuffled/accuracy"]


def test_what_a_run_started_from_is_told_beside_it(
    train_run: TrainRun, tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train_run(*tables.of_training, tables.named)
    tuned = train_run(*tables.of_training, tables.named, f"init={first.path}", "trainer.max_epochs=4")
    before, after = tuned.summary["tests_before"], tuned.summary["tests"]
    for name in ("photo", "sketch"):
        assert before[name] == pytest.approx(first.summary["tests"][name], abs=1e-5)
    header, photo = (line[-6:] for line in cells((tuned.path / "train.log").read_text().splitlines()[-3:-1]))
    assert header == ["table", "rows", "accuracy", "before", "after", "difference"]
    was, now = (figures["photo"]["accuracy"] for figures in (before, after))
    assert photo[-5:] == ["photo", "30", f"{was:.4f}", f"{now:.4f}", f"{now - was:+.4f}"]
    assert cells(told_by_test(capsys, f"run={tuned.path}")[1][-2:-1]) == [photo[-5:]]  # the run remembers
    assert "before" not in "".join(told_by_test(capsys, f"run={first.path}")[1])
    shutil.rmtree(first.path)
    _, told = told_by_test(capsys, f"run={tuned.path}")
    assert told[-4].startswith(f"no figures from before the training: init={first.path}: ")
    assert told[-3].split() == ["table", "rows", "accuracy"]


@pytest.mark.slow
def test_figures_of_other_labels_are_not_compared(train_run: TrainRun, tables: Tables) -> None:
    rows = list(csv.DictReader((tables.folder / "train.csv").open()))
    few = tables.write("few", [row for row in rows if row["label"].startswith("red")])
    first = train_run(*tables.of_training, f"data.train={few}", "data.val=null")
    run = train_run(*tables.of_training, tables.named, f"init={first.path}")
    told = (run.path / "train.log").read_text()
    assert f"no figures from before the training: init={first.path} has another task, or other labels" in told
    assert "tests_before" not in run.summary
    assert cells(told.splitlines()[-3:-2])[0][-3:] == ["table", "rows", "accuracy"]


@pytest.mark.slow
def test_init_last_is_written_down(train_run: TrainRun, tables: Tables, tmp_path: Path) -> None:
    first = train_run(*tables.of_training)
    runs = tmp_path / "runs"
    runs.mkdir()
    first.path.rename(runs / "first")
    run = train_run(*tables.of_training, tables.named, "init=last", f"paths.runs={runs}")
    assert f"init: {runs / 'first'}\n" in (run.path / "config.yaml").read_text()
    assert set(run.summary["tests_before"]) == {"photo", "sketch"}


def test_bad_rows_are_told_of_each_table(
    train_run: TrainRun, tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a row of two tables has the same number and id."""
    rows = [row | ({"image": "gone.png"} if at < 2 else {}) for at, row in enumerate(tables.test_rows)]
    one, other = tables.write("one", rows), tables.write("other", rows)
    named = f"data.test={{photo:{tables.folder / 'photo.csv'},one:{one},other:{other}}}"
    run = train_run(*tables.of_training, named, "data.max_bad_fraction=0.5", "data.limit=null")
    assert run.summary["rows"] == {
        "train": 180,
        "val": 30,
        "test/photo": 30,
        "test/one": 28,
        "test/other": 28,
        "test": 30,
        "bad": 4,
    }
    assert "(test/one 2, test/other 2)" in (run.path / "train.log").read_text()
    listed = list(csv.DictReader((run.path / "bad_rows.csv").open()))
    assert [(row["row"], row["split"]) for row in listed] == [
        *(("0", "test/one"), ("1", "test/one"), ("0", "test/other"), ("1", "test/other"))
    ]
    found, told = told_by_test(capsys, f"run={run.path}")
    assert [found[f"{name}/bad_rows"] for name in ("photo", "one", "other")] == [0, 2, 2]
    assert [line[1:3] for line in cells(told[-3:])] == [["30", "0"], ["28", "2"], ["28", "2"]]
    with pytest.raises(UserError) as wrong:
        run_test(compose("test", [f"run={run.path}", "data.max_bad_fraction=0.01"]))
    assert [message.split("=")[0] for message in wrong.value.messages] == ["data.test.one", "data.test.other"]
    assert capsys.readouterr().out == ""  # nothing was evaluated


def test_a_table_that_was_trained_on_is_told(
    train_run: TrainRun, tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"run={train_run(*tables.of_training).path}"
    assert "training rows" not in "".join(told_by_test(capsys, run, tables.named)[1])
    told = told_by_test(capsys, run, tables.named, f"data.test.seen={tables.folder / 'train.csv'}")[1]
    assert "data.test.seen is a table of the run, whose training rows are tested, too" in told


def test_missing_columns_and_files_are_told_by_table(
    train_run: TrainRun, tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run(*tables.of_training)
    lacking = tables.write("lacking", [{"image": "a.png", "words": "a", "label": "b"}])
    assert main(["test", f"run={run.path}", tables.named, f"data.test.new={lacking}"]) == 2
    assert f"data.columns.text=text: data.test.new={lacking} has no such column" in capsys.readouterr().err
    assert main(["test", f"run={run.path}", "data.test={photo:gone.csv}"]) == 2
    assert "data.test.photo: there is no file 'gone.csv'" in capsys.readouterr().err


def test_check_covers_each_table(
    shapes_overrides: list[str], tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    train = list(csv.DictReader((tables.folder / "train.csv").open()))
    new = tables.write("new", [tables.test_rows[0] | {"image": "gone.png"}, train[3], tables.test_rows[1]])
    overrides = [*shapes_overrides, *tables.of_training, tables.named, f"data.test.new={new}", "data.limit=null"]
    assert check(compose("check", [*overrides, "audit.shown=null", "data.max_bad_fraction=0.1"])) == 0
    told = capsys.readouterr().out
    assert "rows      train 180  val 30  test/photo 30  test/sketch 20  test/new 3" in told
    assert f"test/new row 0 (id {tables.test_rows[0]['id']})  image: no such file" in told
    assert f"test/new row 1 (id {train[3]['id']})  ~  train row 3 (id {train[3]['id']})" in told
    assert "~  test/photo" not in told  # whose row 1 is also in `new`, and all whose images are in `sketch`


@pytest.mark.slow
def test_a_run_resumes_with_its_tables_only(train_run: TrainRun, shapes_overrides: list[str], tables: Tables) -> None:
    run = train_run(*tables.of_training, tables.named)
    again = resumed([*shapes_overrides, *tables.of_training, tables.named, "trainer.max_epochs=3"], run.path)
    assert set(again.summary["tests"]) == {"photo", "sketch"}
    photo = f"data.test={{photo:{tables.folder / 'photo.csv'}}}"
    with pytest.raises(UserError, match=r"^data\.test\.sketch: .* would be another experiment"):
        resumed([*shapes_overrides, *tables.of_training, photo, "trainer.max_epochs=4"], run.path)


@pytest.mark.slow
def test_ranks_give_the_same_figures(
    forked_mmft: Mmft, shapes_overrides: list[str], tables: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = f"paths.runs={tmp_path / 'runs'}"
    done = forked_mmft("train", *shapes_overrides, *tables.of_training, tables.named, runs, "trainer.devices=2")
    run = Run(Path(done.stdout.splitlines()[-1]))
    found, _ = told_by_test(capsys, f"run={run.path}")
    for name, metrics in run.summary["tests"].items():
        for metric, value in metrics.items():
            assert found[f"{name}/{metric}"] == pytest.approx(value, abs=2e-6), (name, metric)
    assert json.loads((run.path / "summary.json").read_text())["rows"]["test/sketch"] == 20
