"""The profile where it does not fit into the run, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import TrainRun

from mmft.training.callbacks.profiling import Profiling, profiling


def test_none_unless_asked_for(tmp_path: Path) -> None:
    assert profiling(tmp_path, None, 3) == []


def test_training_that_is_too_short(train_run: TrainRun) -> None:
    """Says so, and writes what was measured."""
    run = train_run("callbacks.profile.steps=50", "callbacks.profile.after=1", "trainer.max_epochs=1")
    steps = run.summary["optimizer_steps"]
    assert (run.path / "profile" / "table.txt").read_text().startswith(f"{steps - 1} optimizer steps, after skipping 1")
    assert "before the profile was complete" in (run.path / "train.log").read_text()


def test_training_that_ends_before_it_begins(train_run: TrainRun) -> None:
    run = train_run("callbacks.profile.steps=1", "callbacks.profile.after=50", "trainer.max_epochs=1")
    assert not (run.path / "profile").exists()
    assert "before the profile was complete" in (run.path / "train.log").read_text()


def test_the_first_step_can_be_profiled_and_nothing_changes(train_run: TrainRun) -> None:
    profiled = train_run("callbacks.profile.steps=1", "callbacks.profile.after=0", "trainer.max_epochs=1")
    plain = train_run("trainer.max_epochs=1")
    assert (profiled.path / "profile" / "trace.json").stat().st_size > 0
    assert profiled.weights.keys() == plain.weights.keys()
    assert all(bool((value == plain.weights[name]).all()) for name, value in profiled.weights.items())


def test_hooks_are_gone_after_an_exception(monkeypatch: pytest.MonkeyPatch, train_run: TrainRun) -> None:
    """Whatever stops training also stops the profiler."""
    stopped: list[Profiling] = []
    genuine = Profiling._stop

    def stop(self: Profiling) -> object:
        stopped.append(self)
        return genuine(self)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Profiling, "_stop", stop)
    monkeypatch.setattr("mmft.training.callbacks.learning_rate_warmup.LearningRateWarmup.on_train_batch_start", fail)
    with pytest.raises(ZeroDivisionError):
        train_run("callbacks.profile.steps=1", "callbacks.profile.after=0")
    assert [one._profile for one in stopped] == [None]
    assert stopped[0]._unhook == []
