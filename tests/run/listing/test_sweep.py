"""A sweep's closing table and its sweep.csv."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmft.run.listing.sweep import Sweep
from mmft.run_folder import RunFolder

Job = Callable[..., None]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """`job(number, accuracy, status, *overrides)` writes one job of a sweep."""

    def write(number: int, accuracy: float | None, *typed: str, status: str = "completed") -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "overrides.yaml").write_text(yaml.safe_dump(list(typed)))
        summary: dict[str, Any] = {"status": status, "error": None if accuracy else "it broke", "train_seconds": 1.5}
        if accuracy is not None:
            summary |= {"monitor": "val/accuracy", "val": {"accuracy": accuracy}, "test": {"accuracy": accuracy - 0.1}}
        (folder / "summary.json").write_text(json.dumps(summary))

    return write


def test_settings_are_ordered_and_seeds_are_put_together(job: Job, tmp_path: Path) -> None:
    job(0, 0.5, "optim.lr=1e-5", "seed=0", "name=mine")
    job(1, 0.7, "optim.lr=1e-5", "seed=1", "name=mine")
    job(2, 0.9, "optim.lr=1e-4", "seed=0", "name=mine")
    job(10, 0.8, "optim.lr=1e-4", "seed=1", "name=mine")
    header, best, other, command = Sweep(tmp_path).table().splitlines()
    assert header.split() == ["jobs", "optim.lr", "runs", "val/accuracy", "test/accuracy"]
    assert best.split() == ["2,10", "1e-4", "2", "0.8500", "+/-", "0.0707", "0.7500", "+/-", "0.0707"]
    assert other.split()[:2] == ["0,1", "1e-5"]
    assert command == "job 2 is the best; to run it again: mmft train optim.lr=1e-4 seed=0 name=mine"


def test_a_lower_loss_is_better(job: Job, tmp_path: Path) -> None:
    job(0, 0.5, "optim.lr=1e-5")
    job(1, 0.7, "optim.lr=1e-4")
    for number, loss in ((0, 1.0), (1, 2.0)):
        path = tmp_path / str(number) / "summary.json"
        summary = json.loads(path.read_text()) | {"monitor": "val/loss", "val": {"loss": loss}}
        path.write_text(json.dumps(summary))
    assert Sweep(tmp_path).table().splitlines()[1].split()[:2] == ["0", "1e-5"]


def test_while_all_texts_are_wrong_the_loss_decides(job: Job, tmp_path: Path) -> None:
    for number, loss in enumerate((3.0, 2.0, 4.0)):
        job(number, 0.0, f"optim.lr=1e-{number}")
        path = tmp_path / str(number) / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"val": {"accuracy": 0.0, "loss": loss}}))
    header, *rows, command = Sweep(tmp_path).table().splitlines()
    assert "val/loss" in header
    assert [row.split()[0] for row in rows] == ["1", "0", "2"]
    assert command.startswith("job 1 is the best")


def test_the_command_has_the_folders_and_the_leave_that_were_typed(job: Job, tmp_path: Path) -> None:
    job(0, 0.5, "experiment=mine")
    (tmp_path / "sweep.json").write_text('{"config_dirs": ["my configs", "b"]}')
    command = "mmft train --config-dir 'my configs' --config-dir b experiment=mine"
    assert Sweep(tmp_path).table().endswith(f"to run it again: {command}")
    (tmp_path / "0" / "config.yaml").write_text("plugins: [./own.py]\n")
    assert " mmft train --allow-code --config-dir" in Sweep(tmp_path).table()
    assert ": mmft train --allow-code resume=" in RunFolder(tmp_path / "0").way_on()


def test_a_trial_that_was_repeated_has_no_spread(job: Job, tmp_path: Path) -> None:
    for number, seed in enumerate((0, 0, 1)):
        job(number, 0.5 + 0.2 * seed, "optim.lr=1e-4", f"seed={seed}")
    job(3, 0.3, "optim.lr=1e-3", "seed=0")
    job(4, 0.3, "optim.lr=1e-3", "seed=0")
    _, one, other, _ = Sweep(tmp_path).table().splitlines()
    assert one.split()[:6] == ["0,1,2", "1e-4", "3", "0.6000", "+/-", "0.1414"]
    assert other.split() == ["3,4", "1e-3", "2", "0.3000", "0.2000"]


def test_failed_jobs_are_listed(job: Job, tmp_path: Path) -> None:
    job(0, None, "optim.lr=9", "seed=0", status="failed")
    job(1, 0.7, "optim.lr=1e-4", "seed=0")
    job(2, None, "optim.lr=1e-4", "seed=1", status="failed")
    sweep = Sweep(tmp_path)
    table = sweep.table().splitlines()
    assert table[1].split()[:5] == ["1,2", "1e-4", "1", "of", "2"]
    assert table[2].split()[-3:] == ["failed", "-", "-"]
    rows = list(csv.DictReader(sweep.write().open()))
    assert [row["status"] for row in rows] == ["failed", "completed", "failed"]
    assert [row["optim.lr"] for row in rows] == ["9", "1e-4", "1e-4"]
    assert rows[0]["error"] == "it broke"
    assert float(rows[1]["test/accuracy"]) == pytest.approx(0.6)


def test_a_sweep_of_nothing_but_failures_names_no_best(job: Job, tmp_path: Path) -> None:
    job(0, None, "seed=0", status="failed")
    job(1, None, "seed=1", status="failed")
    assert "best" not in Sweep(tmp_path).table()


def test_pruned_trials_come_after_those_that_were_trained_to_the_end(job: Job, tmp_path: Path) -> None:
    job(0, 0.9, "optim.lr=0.00012520653814999459", status="pruned")
    job(1, 0.5, "optim.lr=1e-3")
    job(2, None, "optim.lr=1e-2", status="failed")
    header, best, *others, command = Sweep(tmp_path).table().splitlines()
    assert header.split()[2] == "runs"
    assert best.split()[:3] == ["1", "1e-3", "1"]
    assert sorted(line.split()[:3] for line in others) == [["0", "0.0001252", "pruned"], ["2", "1e-2", "failed"]]
    assert command == "job 1 is the best; to run it again: mmft train optim.lr=1e-3"
    rows = list(csv.DictReader(Sweep(tmp_path).write().open()))
    assert [row["status"] for row in rows] == ["pruned", "completed", "failed"]
    assert rows[0]["optim.lr"] == "0.00012520653814999459"


def test_named_test_tables_have_columns(job: Job, tmp_path: Path) -> None:
    for number, sketch in ((0, 0.4), (1, 0.2)):
        job(number, 0.8, f"seed={number}")
        path = tmp_path / str(number) / "summary.json"
        tests = {"photo": {"accuracy": 0.7}, "sketch": {"accuracy": sketch}}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"test": tests["photo"], "tests": tests}))
    header, line, _ = (line.split() for line in Sweep(tmp_path).table().splitlines())
    assert header == ["jobs", "runs", "val/accuracy", "test/photo/accuracy", "test/sketch/accuracy"]
    assert line[-6:] == ["0.7000", "+/-", "0.0000", "0.3000", "+/-", "0.1414"]
    [one, other] = csv.DictReader(Sweep(tmp_path).write().open())
    assert (one["test/accuracy"], one["test/sketch/accuracy"], other["test/sketch/accuracy"]) == ("0.7", "0.4", "0.2")


def test_a_pruned_seed_does_not_count_beside_completed_ones(job: Job, tmp_path: Path) -> None:
    job(0, 0.8, "optim.lr=1e-3", "seed=0")
    job(1, 0.1, "optim.lr=1e-3", "seed=1", status="pruned")
    job(2, 0.7, "optim.lr=1e-4", "seed=0")
    _, first, second, command = Sweep(tmp_path).table().splitlines()
    assert first.split() == ["0,1", "1e-3", "1", "of", "2", "0.8000", "0.7000"]
    assert second.split() == ["2", "1e-4", "1", "0.7000", "0.6000"]
    assert command.startswith("job 0 is the best")


def test_overrides_that_cannot_be_read_are_none(job: Job, tmp_path: Path) -> None:
    job(0, 0.8, "optim.lr=1e-3")
    (tmp_path / "0" / "overrides.yaml").write_bytes(b"\xff\xfe\x00")
    assert Sweep(tmp_path).varied == []
