"""The plain lines of progress."""

from __future__ import annotations

import csv
import re
from types import SimpleNamespace
from typing import Any

import pytest
from runs import TrainRun

from mmft.training.callbacks.progress import PlainProgress, _clock, _Pace


def test_an_epoch_without_validation_shows_no_metrics(train_run: TrainRun) -> None:
    run = train_run("callbacks.progress=plain", "trainer.max_epochs=3", "trainer.val_every_epochs=2")
    lines = [line for line in (run.path / "train.log").read_text().splitlines() if " done" in line]
    assert ["val/accuracy" in line for line in lines] == [False, True, False]


def test_the_bar_counts_epochs_from_one(train_run: TrainRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run("callbacks.progress=rich")
    shown = capsys.readouterr().err
    assert "Epoch 2/2" in shown
    assert "val/loss" in shown
    assert "epoch 1/2  done" not in shown  # the bar says it; train.log keeps the line
    assert "epoch 1/2  done" in (run.path / "train.log").read_text()


def test_lines_tell_loss_rate_and_times(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmft.training.callbacks.progress._EVERY_SECONDS", 0.0)
    run = train_run("callbacks.progress=plain", "trainer.log_every_steps=1")
    lines = [line for line in (run.path / "train.log").read_text().splitlines() if "rows/s" in line]
    steps = [line for line in lines if "done" not in line]
    assert len(steps) == run.summary["optimizer_steps"]
    losses = [
        f"loss {float(row['train/loss']):.4f}" for row in csv.DictReader(run.metrics.splitlines()) if row["train/loss"]
    ]
    assert [re.search(r"loss \S+", line).group() for line in steps] == losses  # type: ignore[union-attr]
    assert all(re.search(r"  [\d,.]+ rows/s  \d+:\d\d elapsed  \d+:\d\d left$", line) for line in lines), lines
    assert lines[-1].endswith(" 0:00 left")


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (7322, "2:02:02")])
def test_times_are_minutes_and_hours(seconds: float, shown: str) -> None:
    assert _clock(seconds) == shown


def test_time_left_is_that_of_the_steps_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 110.0, 112.0, 130.0])  # start, validation from and to, the line
    monkeypatch.setattr("mmft.training.callbacks.progress.time.monotonic", lambda: next(now))
    trainer: Any = SimpleNamespace(global_step=5, world_size=2, estimated_stepping_batches=25)
    module: Any = SimpleNamespace(logged_loss=(0.5, 10))
    pace = PlainProgress()
    pace.on_train_start(trainer, module)
    trainer.global_step = 15  # ten steps after a resume at step 5
    pace._rows = 140
    pace.on_validation_start(trainer, module)
    _Pace.on_validation_end(pace, trainer, module)
    assert pace.pace(trainer, module) == ["loss 0.5000 (step 10)", "5 rows/s", "0:30 elapsed", "0:30 left"]
