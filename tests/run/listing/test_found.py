"""Runs as they are found: marks, names, order, whatever lies among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmft.errors import UserError
from mmft.run.listing.filters import Filter
from mmft.run.listing.found import MISSING, FoundRun, find_runs, sort_runs
from mmft.run_folder import RunFolder


def make(path: Path, config: dict[str, Any] | None = None, **summary: Any) -> RunFolder:
    folder = RunFolder(path)
    folder.write_config(config or {}, [], {})
    folder.update_summary(**summary)
    return folder


def done(path: Path, started: str, accuracy: float = 0.5, **summary: Any) -> RunFolder:
    folder = make(
        path, started=started, status="completed", monitor="val/accuracy", test={"accuracy": accuracy}, **summary
    )
    folder.model.mkdir()
    return folder


def named(runs: list[FoundRun], root: Path) -> list[str]:
    return [run.folder.path.relative_to(root).as_posix() for run in runs]


def test_newest_first_with_marks(tmp_path: Path) -> None:
    done(tmp_path / "a" / "1", "2026-01-01T00:00:00+00:00")
    done(tmp_path / "b" / "sweep" / "0", "2026-01-03T00:00:00+00:00")
    make(tmp_path / "b" / "sweep" / "1", started="2026-01-04T00:00:00+00:00", status="failed")  # before a checkpoint
    make(tmp_path / "b" / "2", started="2026-01-02T00:00:00+00:00", status="stopped")
    runs = find_runs(tmp_path)
    assert named(runs, tmp_path) == ["b/sweep/1", "b/sweep/0", "b/2", "a/1"]
    assert [run.marks for run in runs] == [[], ["last"], ["resume"], []]
    assert [run.name for run in runs] == ["b", "b", "b", "a"]


def test_broken_and_foreign_folders(tmp_path: Path) -> None:
    done(tmp_path / "good" / "1", "2026-01-01T00:00:00+00:00")
    files = {
        "broken": "{",
        "list": "[1]",
        "foreign": json.dumps({"status": 1, "started": 5, "test": "x", "val": {"a": "b"}, "train_seconds": "long"}),
    }
    for name, text in files.items():
        (tmp_path / name / "x" / "model").mkdir(parents=True)
        (tmp_path / name / "x" / "summary.json").write_text(text)
        (tmp_path / name / "x" / "config.yaml").write_text("- 1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").touch()
    runs = {run.name: run for run in find_runs(tmp_path)}
    assert runs.keys() == {"good", "broken", "list", "foreign"}
    assert (runs["broken"].status, runs["list"].status, runs["foreign"].status) == ("unreadable", "unreadable", "1")
    assert runs["foreign"].metrics == {}
    assert runs["foreign"].started is None
    assert runs["foreign"].seconds is None
    assert runs["foreign"].get("seed") is MISSING


def test_a_broken_folder_does_not_hide_the_last_run(tmp_path: Path) -> None:
    done(tmp_path / "good" / "1", "2026-01-01T00:00:00+00:00")
    (tmp_path / "broken" / "model").mkdir(parents=True)
    (tmp_path / "broken" / "summary.json").write_text("{")
    assert [run.name for run in find_runs(tmp_path) if "last" in run.marks] == ["good"]


def test_no_runs(tmp_path: Path) -> None:
    assert find_runs(tmp_path) == []
    assert find_runs(tmp_path / "gone") == []


@pytest.fixture
def run(tmp_path: Path) -> FoundRun:
    config = {"name": None, "seed": 1, "optim": {"type": "sgd", "lr": 5e-5}, "init": None}
    folder = make(tmp_path / "mine" / "1", config, choices={"tune": "full"})
    return FoundRun(folder, "mine")


@pytest.mark.parametrize(
    ("key", "is_group", "values", "fits"),
    [
        ("seed", False, [0, 1], True),
        ("seed", False, [2], False),
        ("optim.lr", False, [5e-5], True),
        ("init", False, [None], True),
        ("optim.momentum", False, [None], False),  # the run's optimizer has no such key
        ("seed.deeper", False, [1], False),
        ("name", False, ["mine"], True),
        ("optim", True, ["sgd"], True),
        ("optim", True, ["adamw"], False),
        ("experiment", True, [None], True),
    ],
)
def test_filters(run: FoundRun, key: str, is_group: bool, values: list[Any], fits: bool) -> None:
    run.folder.update_summary(choices={"tune": "full"})
    assert run.fits(Filter(key, is_group, values)) is fits


def test_options_that_config_yaml_does_not_name(run: FoundRun) -> None:
    """`tune` is two sections, so that which option was chosen is known from summary.json alone."""
    assert run.fits(Filter("tune", True, ["full"]))
    old = FoundRun(make(run.folder.path.with_name("old"), {"tune": {"image_encoder": {}}}), "mine")
    old.folder.update_summary(choices=None)
    assert not old.fits(Filter("tune", True, ["full"]))


def test_sorting(tmp_path: Path) -> None:
    done(tmp_path / "b" / "1", "2026-01-03T00:00:00+00:00", accuracy=0.5, train_seconds=3, val={"loss": 2.0})
    done(tmp_path / "a" / "1", "2026-01-02T00:00:00+00:00", accuracy=0.9, train_seconds=20, val={"loss": 1.0})
    make(tmp_path / "c" / "1", {"seed": 4}, started="2026-01-04T00:00:00+00:00", status="failed")
    runs = find_runs(tmp_path)

    def order(by: str) -> str:
        return "".join(run.name for run in sort_runs(runs, by, ["seed"]))

    assert {by: order(by) for by in ("started", "name", "seconds", "status", "test/accuracy", "val/loss", "seed")} == {
        "started": "cba",
        "name": "abc",
        "seconds": "bac",
        "status": "bac",
        "test/accuracy": "abc",  # the highest first
        "val/loss": "abc",  # the lowest first
        "seed": "cba",
    }
    with pytest.raises(UserError, match=r"Did you mean test/accuracy\?"):
        order("test/acuracy")


def test_metrics_on_named_test_tables(tmp_path: Path) -> None:
    for number, sketch in enumerate((0.2, 0.6, 0.4)):
        tests = {"photo": {"accuracy": 0.5}, "sketch": {"accuracy": sketch, "auroc": None}}
        done(tmp_path / "a" / str(number), f"2026-01-0{number + 1}T00:00:00+00:00", tests=tests)
    done(tmp_path / "a" / "foreign", "2026-01-09T00:00:00+00:00", tests=["x"])
    runs = sort_runs(find_runs(tmp_path), "test/sketch/accuracy", [])
    assert named(runs, tmp_path) == ["a/1", "a/2", "a/0", "a/foreign"]
    assert runs[0].metrics == {"test/accuracy": 0.5, "test/photo/accuracy": 0.5, "test/sketch/accuracy": 0.6}
