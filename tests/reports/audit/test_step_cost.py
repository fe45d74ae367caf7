"""What `mmft check` says of memory is what training then takes; each in a process of its own, as a user types it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmft.build import build_data, build_model, build_module, build_plan, build_task
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_splits
from mmft.reports.audit.step_cost import longest_rows, try_steps

Command = Callable[..., Any]


def predicted_and_measured(mmft: Command, folder: Path, *overrides: str) -> tuple[float, float]:
    """Both in MiB, above what is there before training."""
    said = mmft("check", *overrides, cwd=folder)
    told = re.search(r"^memory +about ([\d,]+) MiB more than before", said.stdout, re.MULTILINE)
    assert told, said
    done = mmft("train", *overrides, "modality_report=false", cwd=folder)
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
    few = ["model.image_encoder.image_size=112", "data.limit=100", "trainer.max_epochs=1", "cache=never"]
    predicted, measured = predicted_and_measured(mmft, tmp_path, *names, *few, *options.split())
    # On an AMD EPYC `check` predicts 30 to 50 MiB too much with frozen encoders; why has not been found.
    assert predicted == pytest.approx(measured, rel=0.25, abs=64 if options == "tune=head_only" else 0)


def test_weights_stay_and_the_parts_are_counted(shapes_overrides: list[str]) -> None:
    config = compose("train", [*shapes_overrides, "tune=lora", "data.micro_batch_size=4"]).config
    config.trainer.devices = 1
    splits = load_splits(config.data, config.seed)
    task = build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build_model(config.model, task.width, config.seed)
    plan = build_plan(config, model)
    data = build_data(config, splits, model, task)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    module = build_module(config, model, task, plan)
    module.micro_batch_size = 4
    trial = try_steps(module, longest_rows(data, 8), longest_rows(data, 8), torch.device("cpu"), "32-true")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    trained = plan.counts()["trainable"] * 4
    assert trial.gradients == trained
    assert trained * 2 <= trial.optimizer <= trained * 2 + 4 * len(plan.names)  # two moments, and a step count each
    assert trial.weights >= plan.counts()["total"] * 4
