"""`trainer.precision=16-mixed`: the loss scale is exact under micro-batches, survives overflows, and resumes."""

from __future__ import annotations

import copy
import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Run, TrainRun, killed_run, resumed, same_weights
from torch import Tensor, nn

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_splits
from mmft.errors import TrainingError
from mmft.training import half_precision, hardware
from mmft.training.half_precision import LossScale
from mmft.training.module import FineTuning
from mmft.training.objective import Objective

HALF = ["trainer.precision=16-mixed", "trainer.log_every_steps=1"]


SGD = ["optim=sgd", "optim.lr=0.1", "optim.head_lr=0.1", "optim.momentum=0", "optim.weight_decay=0"]


def made(overrides: list[str], *more: str, plain: list[str] = SGD) -> tuple[FineTuning, Batch]:
    """A module of 16-mixed in train mode without dropout, and a logical batch."""
    config = compose("train", [*overrides, *HALF, "model.dropout=0", *plain, *more]).config
    splits = load_splits(config.data, 0)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, task.make_head, seed=0)
    plan = build.build_plan(config, model)
    data = build.build_data(config, splits, model, task)
    module = build.build_module(config, model, task, plan)
    module.micro_batch_size = config.data.micro_batch_size
    plan.activate(model, plan.names)
    return module, next(iter(data.train_dataloader()))


def stepped(module: FineTuning, batch: Batch, autocast: bool = True) -> dict[str, Tensor]:
    """What one optimizer step adds to the weights."""
    module = copy.deepcopy(module)
    before = {name: p.detach().clone() for name, p in module.model.named_parameters()}
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        module.update(batch, module.configure_optimizers(), 0, Tensor.backward)
    return {name: p.detach() - before[name] for name, p in module.model.named_parameters()}


def norm(tensors: dict[str, Tensor]) -> float:
    return float(torch.stack([t.double().norm() for t in tensors.values()]).norm())


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Relative to the whole."""
    return norm({name: one[name].double() - value.double() for name, value in other.items()}) / norm(other)


def rows(run: Run) -> list[dict[str, str]]:
    """The lines of metrics.csv that are of training steps."""
    with (run.path / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["train/loss"]]


@pytest.fixture
def fussy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale that overflows at first and grows after two good steps, so that a run of six has some of all."""
    monkeypatch.setattr(half_precision, "_START", 2.0**56)
    monkeypatch.setattr(half_precision, "_BACKOFF", 2.0**-22)
    monkeypatch.setattr(half_precision, "_INTERVAL", 2)


@pytest.mark.parametrize("task", [[], ["task=contrastive", "data.columns.label=null"]])
def test_micro_batches_give_the_update_of_the_whole_batch(shapes_overrides: list[str], task: list[str]) -> None:
    """In float16 within its rounding; in float64, where the scale is the same, to the last digits."""
    kept = [o for o in shapes_overrides if not (task and o.startswith("data.columns.label"))]
    (whole, batch), (parts, _) = (made(kept, *task, *more) for more in ([], ["data.micro_batch_size=3"]))
    update = stepped(whole, batch)
    assert norm(update) > 0
    assert difference(stepped(parts, batch), update) < 5e-3
    whole.double(), parts.double()
    exact = stepped(whole, batch, autocast=False)
    assert difference(stepped(parts, batch, autocast=False), exact) < 1e-12
    assert difference(update, exact) < 5e-3
    whole.loss_scale = None
    assert difference(exact, stepped(whole, batch, autocast=False)) == 0  # powers of two change no bit


def test_the_norm_that_clips_is_of_the_unscaled_gradient(shapes_overrides: list[str]) -> None:
    module, batch = made(shapes_overrides, "optim.clip_norm=0.01", "data.micro_batch_size=3")
    assert norm(stepped(module, batch)) == pytest.approx(0.1 * 0.01, rel=1e-3)
    module.clip_norm = 1e9
    unclipped = norm(stepped(module, batch)) / 0.1
    assert 0.01 < unclipped < 100


def test_the_rules_are_those_of_grad_scaler() -> None:
    """Against torch's own, over 3,000 steps of which some overflow; a gradient of every size."""
    scale, theirs = LossScale(), torch.amp.GradScaler("cpu")
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for step in range(3000):
        assert scale.value == theirs.get_scale()
        gradient = torch.tensor([1.0, math.inf if step in {0, 1, 5, 700, 2900} else 2.0**-20])
        theirs.scale(torch.zeros(()))
        weight.grad = gradient * scale.value
        theirs.unscale_(optimizer)
        theirs.step(optimizer)
        theirs.update()
        weight.grad = gradient * scale.value
        scale.unscale([weight])
        if scale.update(weight.grad.norm()):
            assert weight.grad.tolist() == gradient.tolist()
    assert scale.skipped_steps == 5
    assert scale.value == 2.0**12


@pytest.mark.usefixtures("fussy")
def test_an_overflow_skips_the_step_and_the_run_goes_on(train_run: TrainRun) -> None:
    run = train_run(*HALF, "trainer.max_epochs=3", "schedule=constant", "schedule.warmup=0")
    lines = rows(run)
    scales = [float(line["train/loss_scale"]) for line in lines]
    assert scales[:4] == [2.0**56, 2.0**34, 2.0**12, 2.0**12]
    assert scales[4] == 2.0**13
    assert [float(line["train/skipped_steps"]) for line in lines[:4]] == [1, 2, 2, 2]
    norms = [float(line["train/grad_norm"]) for line in lines]
    assert [math.isfinite(value) for value in norms] == [False, False, *[True] * 7]
    losses = [float(line["train/loss"]) for line in lines]
    assert all(0.1 < loss < 3 for loss in losses)  # whatever the scale
    assert run.summary["optimizer_steps"] == 9
    state = json.loads((run.path / "checkpoints" / "last" / "state.json").read_text())
    assert state["loss_scale"]["skipped_steps"] == float(lines[-1]["train/skipped_steps"])


@pytest.mark.parametrize("optim", ["adamw", "sgd", "adamw_8bit"])
def test_a_skipped_step_changes_nothing(shapes_overrides: list[str], optim: str) -> None:
    """Neither weights (by decay, by momentum) nor moments."""
    module, batch = made(shapes_overrides, plain=[f"optim={optim}", "optim.weight_decay=0.1"])
    optimizer: Any = module.configure_optimizers()
    assert module.loss_scale is not None
    with torch.autocast("cpu", torch.float16):
        module.update(batch, optimizer, 0, Tensor.backward)
        kept = copy.deepcopy([module.model.state_dict(), optimizer.state_dict()["state"]])
        module.loss_scale.value = 2.0**100
        module.update(batch, optimizer, 1, Tensor.backward)
    assert module.loss_scale.overflowed
    assert kept[1]
    torch.testing.assert_close([module.model.state_dict(), optimizer.state_dict()["state"]], kept, rtol=0, atol=0)


def test_a_loss_that_is_not_finite_ends_the_run(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = Objective.sums
    monkeypatch.setattr(Objective, "sums", lambda *given: sums(*given) * math.nan)
    with pytest.raises(TrainingError, match=r"Optimizer step 1 has loss nan and gradient norm nan"):
        train_run(*HALF)


def test_a_gradient_that_never_is_finite_ends_the_run(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_precision, "_SMALLEST", 2.0**15)
    monkeypatch.setattr(FineTuning, "_clip", lambda _: torch.tensor(math.inf))
    with pytest.raises(TrainingError, match=r"not finite even at a loss scale of 32768.*precision=bf16-mixed"):
        train_run(*HALF)


@pytest.mark.usefixtures("fussy")
@pytest.mark.parametrize("step", [1, 4])
def test_a_resumed_run_ends_bit_for_bit_as_undisturbed(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path, step: int
) -> None:
    """Killed inside the overflows, and between two doublings; in micro-batches and with dropout."""
    overrides = [*HALF, "checkpoint.every_steps=1", "data.micro_batch_size=6"]
    undisturbed = train_run(*overrides)
    killed_run([*shapes_overrides, *overrides], tmp_path / "killed", step, "after")
    run = resumed([*shapes_overrides, *overrides], tmp_path / "killed")
    assert run.summary["resumed_from"] == [step]
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics
    assert len({line["train/loss_scale"] for line in rows(run)}) > 3


@pytest.mark.parametrize(
    "more",
    [
        ["task=contrastive", "data.columns.label=null", "data.micro_batch_size=5"],
        ["tune=lora_8bit", "trainer.gradient_checkpointing=true"],
        ["tune=lora_4bit"],
        ["model/fusion=cross", "model.fusion.width=32", "model.fusion.heads=2", "callbacks.ema.decay=0.9"],
    ],
    ids=["pairs", "8 bits", "4 bits", "cross"],
)
def test_whatever_is_trained(train_run: TrainRun, more: list[str]) -> None:
    lines = rows(train_run(*HALF, "trainer.max_epochs=1", *more))
    assert float(lines[-1]["train/skipped_steps"]) <= 1  # a first scale may be too large
    assert all(0 < float(line["train/grad_norm"]) < 1e3 for line in lines[1:])


def test_what_auto_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, device, expected in [
        (True, "cuda", "bf16-mixed"),
        (False, "cuda", "16-mixed"),
        (True, "cpu", "bf16-mixed"),
        (False, "cpu", "32-true"),
    ]:
        monkeypatch.setattr(hardware, "has_bf16", lambda _, has=has: has)
        assert hardware.auto_precision(torch.device(device)) == expected
