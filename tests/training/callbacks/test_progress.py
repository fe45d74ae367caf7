"""The plain lines of progress."""

from __future__ import annotations

import pytest
from runs import TrainRun


def test_an_epoch_without_validation_shows_no_metrics(train_run: TrainRun) -> None:
    run = train_run("callbacks.progress=plain", "trainer.max_epochs=3", "trainer.val_every_epochs=2")
    lines = [line for line in (run.path / "train.log").read_text().splitlines() if " done" in line]
    assert ["val/accuracy" in line for line in lines] == [False, True, False]


def test_the_bar_counts_epochs_from_one(train_run: TrainRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run("callbacks.progress=rich")
    shown = capsys.readouterr().err
    assert "Epoch 2/2" in shown
    assert "val/loss" in shown
    assert "epoch 1 done" not in shown  # the bar says it; train.log keeps the line
    assert "epoch 1 done" in (run.path / "train.log").read_text()
