"""Runs as lines and side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmft.config.nested import flat
from mmft.reports.aligned import aligned
from mmft.run.listing.found import MISSING, FoundRun
from mmft.run.listing.table import comparison, comparison_table, records, run_table
from mmft.run_folder import RunFolder


def found(path: Path, config: dict[str, Any], **summary: Any) -> FoundRun:
    folder = RunFolder(path)
    folder.write_config(config, [], {})
    folder.update_summary(**summary)
    return FoundRun(folder, path.parent.name)


def test_aligned() -> None:
    assert aligned([["a", "value"], ["long", "1"]], right=[1]) == "a     value\nlong      1"


def test_flat() -> None:
    nested = {"a": {"b": 1, "c": {}}, "schedule": {0: 16, 2: 32}}
    assert flat(nested) == {"a.b": 1, "schedule": {0: 16, 2: 32}}


def test_table(tmp_path: Path) -> None:
    runs = [
        found(tmp_path / "a" / "1", {"seed": 1}, status="completed", monitor="val/accuracy", train_seconds=2.25),
        found(tmp_path / "a" / "2", {"seed": 2}, status="completed", monitor="val/accuracy", test={"accuracy": 0.5}),
        found(tmp_path / "b" / "3", {}, status="running", val={"loss": 0.25, "accuracy": 1}),
    ]
    runs[0].marks.append("last")
    header, *lines = run_table(runs, ["seed"]).splitlines()
    assert header.split() == ["run", "seed", "status", "started", "test/accuracy", "val/accuracy", "seconds"]
    assert lines[0].split() == [f"{tmp_path}/a/1", "1", "completed", "2.2", "last"]
    assert lines[1].split()[-1] == "0.5000"
    assert lines[2].endswith("loss 0.2500")  # another metric than most, by name
    assert len({line.index("completed") for line in lines[:2]}) == 1


def test_records(tmp_path: Path) -> None:
    config = {"name": None, "optim": {"lr": 1.0}}
    [record] = records([found(tmp_path / "a" / "1", config, status="failed", test={"accuracy": 0.5})])
    assert record == {
        "run": str(tmp_path / "a" / "1"),
        "name": "a",
        "status": "failed",
        "started": None,
        "seconds": None,
        "marks": "",
        "test/accuracy": 0.5,
        "optim.lr": 1.0,
    }


def test_comparison(tmp_path: Path) -> None:
    runs = [
        found(
            tmp_path / "a" / "1",
            {"seed": 1, "optim": {"lr": 1e-5, "momentum": 0.9}},
            status="completed",
            test={"x": 1.0},
        ),
        found(tmp_path / "a" / "2", {"seed": 1, "optim": {"lr": 1e-3}}, status="failed"),
    ]
    header, lines = comparison(runs)
    assert header == ["", str(tmp_path / "a" / "1"), str(tmp_path / "a" / "2")]
    assert lines == [
        ["optim.lr", 1e-5, 1e-3],
        ["optim.momentum", 0.9, MISSING],
        ["status", "completed", "failed"],
        ["test/x", 1.0, MISSING],
    ]
    text = comparison_table(runs)
    assert f"[2] {tmp_path}/a/2" in text
    assert "optim.momentum  0.9        -\n" in text


def typed(path: Path, words: list[str], config: dict[str, Any], **summary: Any) -> FoundRun:
    folder = RunFolder(path)
    folder.write_config(config, words, {"tune": words[0].partition("=")[2]})
    folder.update_summary(status="completed", **summary)
    return FoundRun(folder, path.parent.name)


def two(tmp_path: Path) -> list[FoundRun]:
    long = "a" * 40
    one = {"optim": {"lr": 0.1, "eps": 1e-8}, "note": long, "seed": 0, "paths": {"runs": "a"}}
    other = {"optim": {"lr": 0.2, "eps": 1e-6}, "note": "b", "seed": 0, "paths": {"runs": "b"}}
    words = ["optim.lr=0", "note=x", "seed=0", "paths.runs=x"]
    return [
        typed(tmp_path / "x" / "1", ["tune=lora", *words], one, val={"accuracy": 0.5, "loss": 1.0}, best_step=3),
        typed(tmp_path / "x" / "2", ["tune=full", *words], other, val={"accuracy": 0.4, "loss": 0.5}, best_step=3),
    ]


def test_the_list_has_what_differs_of_what_was_typed(tmp_path: Path) -> None:
    runs = two(tmp_path)
    header, *lines = run_table(runs).splitlines()
    assert header.split()[:4] == ["run", "tune", "optim.lr", "note"]  # neither the equal seed nor the folder of runs
    assert lines[0].split()[1:4] == ["lora", "0.1", "a" * 21 + "..."]
    assert lines[1].split()[1:4] == ["full", "0.2", "b"]
    assert run_table(runs[:1]).split()[:2] == ["run", "status"]


def test_a_comparison_begins_with_what_was_typed_and_marks_the_best(tmp_path: Path) -> None:
    keys = [line[0] for line in comparison(two(tmp_path))[1]]
    assert keys.index("optim.lr") < keys.index("optim.eps")
    assert keys.index("note") < keys.index("optim.eps")
    cells = {line.split()[0]: line.split()[1:] for line in comparison_table(two(tmp_path)).splitlines()[3:] if line}
    assert cells["val/accuracy"] == ["0.5", "*", "0.4"]
    assert cells["val/loss"] == ["1", "0.5", "*"]
    assert cells["best_step"] == ["3", "3"]
