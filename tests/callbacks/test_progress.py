"""The plain lines of progress."""

from __future__ import annotations

from runs import TrainRun


def test_an_epoch_without_validation_shows_no_metrics(train_run: TrainRun) -> None:
    run = train_run("callbacks.progress=plain", "trainer.max_epochs=3", "trainer.val_every_epochs=2")
    lines = [line for line in (run.path / "train.log").read_text().splitlines() if " done" in line]
    assert ["val/accuracy" in line for line in lines] == [False, True, False]
