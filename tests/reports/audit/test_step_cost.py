"""What `mmft check` says of memory is what training then takes; each in a process of its own, as a user types it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mmft.build import build_data, build_model, build_module, build_plan, build_task, encoders_apart
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_splits
from mmft.models.frozen_part import ROWS_AT_ONCE
from mmft.models.layers import block_modules
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.reports.audit.step_cost import StepCost, longest_rows, try_steps
from mmft.tuning.plan import TuningPlan

Command = Callable[..., Any]


def predicted_and_measured(mmft: Command, folder: Path, *overrides: str) -> tuple[float, float]:
    """Both in MiB, above what is there before training."""
    said = mmft("check", *overrides, cwd=folder)
    told = re.search(r"^memory +about ([\d,]+) MiB more than before", said.stdout, re.MULTILINE)
    assert told, said
    done = mmft("train", *overrides, "modality_report=false", "report=false", cwd=folder)
    run = Path(done.stdout.splitlines()[-1])
    summary = json.loads((folder / run / "summary.json").read_text())
    measured = (summary["peak_memory_bytes"] - summary["memory_before_fit_bytes"]) / 2**20
    print(f"predicted {told[1]} MiB, measured {measured:.0f} MiB")
    return float(told[1].replace(",", "")), measured


@pytest.mark.slow
def test_the_default_run(mmft: Command, tmp_path: Path) -> None:
    predicted, measured = predicted_and_measured(mmft, tmp_path, "trainer.max_epochs=1", "data.limit=400")
    assert predicted == pytest.approx(measured, rel=0.25)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    "options",
    [
        "tune=head_only",
        "tune=lora_8bit",
        "tune=full data.micro_batch_size=8 trainer.gradient_checkpointing=true callbacks.ema.decay=0.9",
    ],
)
def test_real_encoders(mmft: Command, shared: Path, tmp_path: Path, options: str) -> None:
    encoders = shared / "encoders"
    names = [
        f"model.image_encoder.name={encoders / 'dinov2-small'}",
        f"model.text_encoder.name={encoders / 'minilm-l6'}",
    ]
    few = ["model.image_encoder.image_size=112", "data.limit=48", "trainer.max_epochs=1", "cache=never"]
    predicted, measured = predicted_and_measured(mmft, tmp_path, *names, *few, *options.split())
    assert predicted == pytest.approx(measured, rel=0.25, abs=16)  # of pages of the libraries' code


def try_on_shapes(overrides: list[str], rows: int) -> tuple[VisionLanguageModel, TuningPlan, Callable[[], StepCost]]:
    """A model, its plan, and what tries steps of batches of so many rows."""
    config = compose("train", overrides).config
    config.trainer.devices = 1
    splits = load_splits(config.data, config.seed)
    task = build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build_model(config.model, task.width, config.seed)
    plan = build_plan(config, model)
    data = build_data(config, splits, model, task)
    module = build_module(config, model, task, plan)
    module.micro_batch_size = config.data.micro_batch_size
    batch, device, apart = longest_rows(data, rows), torch.device("cpu"), encoders_apart(config)
    return model, plan, partial(try_steps, module, batch, batch, device, "32-true", apart)


def test_weights_stay_and_the_parts_are_counted(shapes_overrides: list[str]) -> None:
    model, plan, tried = try_on_shapes([*shapes_overrides, "tune=lora", "data.micro_batch_size=4"], 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trial = tried()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    trained = plan.counts()["trainable"] * 4
    assert trial.gradients == trained
    assert trained * 2 <= trial.optimizer <= trained * 2 + 4 * len(plan.names)  # two moments, and a step count each
    assert trial.weights >= plan.counts()["total"] * 4


@pytest.mark.parametrize(("tune", "largest"), [("head_only", ROWS_AT_ONCE), ("full", 2 * ROWS_AT_ONCE)])
def test_frozen_encoders_compute_as_many_rows_at_once_as_in_training(
    tune: str, largest: int, shapes_overrides: list[str]
) -> None:
    """In groups, so that they need less memory than a batch."""
    others = [one for one in shapes_overrides if not one.startswith("optim.lr=")]  # of no use to head_only
    model, _, tried = try_on_shapes([*others, f"tune={tune}"], 2 * ROWS_AT_ONCE)
    seen: list[int] = []
    for encoder in (model.image_encoder, model.text_encoder):
        block_modules(encoder.backbone)[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    tried()
    assert max(seen) == largest
    assert not model.frozen_parts
