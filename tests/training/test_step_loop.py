"""Our loop over steps trains as Lightning's own does, and leaves the step to it for callbacks from elsewhere."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer import call
from runs import TrainRun, same_weights

from mmft import build
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.training.step_loop import StepLoop


class _Before(pl.Callback):
    """A callback from elsewhere."""

    def __init__(self) -> None:
        self.steps = 0

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        assert optimizer in trainer.optimizers
        self.steps += 1
        pl_module.log("own", float(self.steps))


def _with(callback: pl.Callback, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = build.build_callbacks
    monkeypatch.setattr(build, "build_callbacks", lambda *given: [*plain(*given), callback])


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the hooks that Lightning calls of all callbacks."""
    called: list[str] = []
    plain = call._call_callback_hooks

    def noted(trainer: pl.Trainer, hook: str, *given: Any, **named: Any) -> None:
        called.append(hook)
        plain(trainer, hook, *given, **named)

    monkeypatch.setattr(call, "_call_callback_hooks", noted)
    return called


@pytest.mark.parametrize(
    "typed",
    [
        ["trainer.log_every_steps=1", "data.micro_batch_size=5"],
        pytest.param(["trainer.precision=64-true", "checkpoint.every_steps=1"], marks=pytest.mark.slow),
        pytest.param(["trainer.precision=bf16-mixed", "trainer.val_every_steps=2"], marks=pytest.mark.slow),
    ],
)
def test_it_trains_as_lightnings_own(
    train_run: TrainRun, typed: list[str], monkeypatch: pytest.MonkeyPatch, hooks: list[str]
) -> None:
    ours = train_run(*typed)
    assert "on_train_batch_start" not in hooks
    assert "on_before_backward" not in hooks
    monkeypatch.setattr(StepLoop, "advance", _TrainingEpochLoop.advance)
    theirs = train_run(*typed)
    assert "on_before_backward" in hooks
    assert same_weights(ours, theirs)
    assert ours.metrics == theirs.metrics
    assert ours.summary["optimizer_steps"] == theirs.summary["optimizer_steps"]


def test_a_hook_from_elsewhere_is_called_in_each_step(
    train_run: TrainRun, monkeypatch: pytest.MonkeyPatch, hooks: list[str]
) -> None:
    plain = train_run()
    callback = _Before()
    _with(callback, monkeypatch)
    run = train_run()
    assert callback.steps == run.summary["optimizer_steps"]
    assert "on_before_optimizer_step" in hooks
    assert same_weights(plain, run)


@pytest.mark.parametrize("typed", [[], ["model.modality_dropout=0.5"]])
def test_stand_ins_take_part_in_each_step(
    train_run: TrainRun, typed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if each step computed with them: moments included, also of steps in which no row lacks anything."""
    ours = train_run(*typed)
    monkeypatch.setattr(VisionLanguageModel, "reads_stand_ins", True)
    assert same_weights(ours, train_run(*typed))
