"""The moving average: its arithmetic, what is judged by it, and that training does not notice it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TrainRun, killed_run, of_one_and_two_ranks, resumed, same_weights
from torch import Tensor

from mmft.commands.test import test as run_test
from mmft.config.compose import compose
from mmft.training.callbacks.weight_averaging import WeightAveraging, validated_weights
from mmft.training.checkpoint import read
from mmft.training.module import FineTuning

EMA = ["callbacks.ema.decay=0.6", "optim.lr=1e-2"]
Weights = dict[str, Tensor]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Weights]]:
    """Training's own weights at the start and after each step, and the weights that each validation sees."""
    found: dict[str, list[Weights]] = {"trained": [], "validated": []}
    start, step = WeightAveraging.on_fit_start, WeightAveraging.on_train_batch_end
    validated = FineTuning.on_validation_epoch_end

    def copied(callback: WeightAveraging) -> Weights:
        return {name: value.detach().clone() for name, value in callback._weights.items()}

    def on_fit_start(self: WeightAveraging, *args: Any) -> None:
        start(self, *args)
        found["trained"].append(copied(self))

    def on_train_batch_end(self: WeightAveraging, *args: Any) -> None:
        found["trained"].append(copied(self))
        step(self, *args)

    def on_validation_epoch_end(self: FineTuning) -> None:
        found["validated"].append({name: value.detach().clone() for name, value in self.state_dict().items()})
        validated(self)

    monkeypatch.setattr(WeightAveraging, "on_fit_start", on_fit_start)
    monkeypatch.setattr(WeightAveraging, "on_train_batch_end", on_train_batch_end)
    monkeypatch.setattr(FineTuning, "on_validation_epoch_end", on_validation_epoch_end)
    return found


def average(weights: list[Weights], warmup: bool) -> Weights:
    """By the definition, in float64, of the first weights and those after each step."""
    mean = {name: value.double() for name, value in weights[0].items()}
    for step, after in enumerate(weights[1:]):
        decay = min(0.6, (1 + step) / (10 + step)) if warmup else 0.6
        mean = {name: decay * value + (1 - decay) * after[name].double() for name, value in mean.items()}
    return mean


def difference(a: Weights, b: Weights) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in b)


@pytest.mark.parametrize("warmup", [True, False])
def test_it_is_the_average_and_what_is_judged(
    warmup: bool, train_run: TrainRun, seen: dict[str, list[Weights]], image_encoder_folder: Any
) -> None:
    """With a BatchNorm, whose running statistics are averaged and whose count is not."""
    typed = [f"callbacks.ema.warmup={warmup}", f"model.image_encoder.name={image_encoder_folder('timm_resnet')}"]
    run = train_run(*EMA, *typed, "checkpoint.use=last")
    steps = run.summary["optimizer_steps"]
    assert len(seen["trained"]) == 1 + steps == 7
    expected = average(seen["trained"], warmup)
    assert any("running_mean" in name for name in expected)
    assert not any("num_batches_tracked" in name for name in expected)
    assert difference(average(seen["trained"][:4], warmup), seen["trained"][3]) > 1e-3  # it is not the weights
    assert difference(seen["validated"][0], average(seen["trained"][:4], warmup)) < 1e-5
    assert difference(seen["validated"][1], expected) < 1e-5
    last = run.path / "checkpoints" / "last"
    assert difference(validated_weights(last), expected) < 1e-5
    assert difference(read(last)["state_dict"], seen["trained"][-1]) == 0
    finished = {f"model.{name}": value for name, value in run.model_state.items()}
    assert difference(finished, expected) < 1e-5
    assert run_test(compose("test", [f"run={run.path}"])) == 0


def test_training_itself_does_not_notice(train_run: TrainRun) -> None:
    plain, run = train_run("optim.lr=1e-2"), train_run(*EMA)
    own = [read(one.path / "checkpoints" / "last")["state_dict"] for one in (plain, run)]
    assert difference(own[0], own[1]) == 0
    assert plain.summary["val"] != run.summary["val"]


def test_the_best_is_the_average_of_its_step(train_run: TrainRun, seen: dict[str, list[Weights]]) -> None:
    run = train_run(*EMA, "checkpoint.monitor=loss", "trainer.max_epochs=3")
    best = seen["validated"][run.summary["best_step"] // 3 - 1]
    finished = {f"model.{name}": value for name, value in run.model_state.items()}
    assert difference(best, finished) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "more"), [(2, []), (4, []), (6, []), (4, ["tune=gradual", "optim=adamw_8bit"]), (2, ["tune=lora"])]
)
def test_resume_is_exact(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path, step: int, more: list[str]
) -> None:
    typed = [*EMA, "checkpoint.every_steps=1", "checkpoint.use=last", *more]
    undisturbed = train_run(*typed)
    killed_run([*shapes_overrides, *typed], tmp_path / "killed", step, "after")
    run = resumed([*shapes_overrides, *typed], tmp_path / "killed")
    assert run.summary["resumed_from"] == [step]
    assert same_weights(run, undisturbed)  # the average is among them
    assert difference(run.model_state, undisturbed.model_state) == 0
    assert run.metrics == undisturbed.metrics
    assert run.summary["test"] == undisturbed.summary["test"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_have_the_average_of_one(shapes_overrides: list[str], tmp_path: Path) -> None:
    plain = ["optim=sgd", "optim.lr=0.05", "optim.head_lr=0.05", "model.dropout=0", "trainer.precision=64-true"]
    typed = [*shapes_overrides, "callbacks.ema.decay=0.6", *plain]
    one, two = of_one_and_two_ranks(typed, "ddp", tmp_path)
    assert difference(one.model_state, two.model_state) < 1e-12
    for name, value in one.summary["test"].items():
        assert two.summary["test"][name] == pytest.approx(value, abs=1e-12)


def test_an_average_of_what_is_frozen_stays_it() -> None:
    callback = WeightAveraging(0.999, warmup=True)
    value = torch.randn(100)
    callback._weights, callback._averages = {"a": value}, {"a": value.clone()}
    for step in range(50):
        trainer: Any = type("T", (), {"global_step": step + 1})
        module: Any = None
        callback.on_train_batch_end(trainer, module)
    assert torch.equal(callback._averages["a"], value)
