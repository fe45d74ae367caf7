"""What gradient checkpointing and the 8-bit optimizer save: memory and time of steps, as `mmft check` tries them."""

from __future__ import annotations

import gc
from typing import Any

import torch

from gpu.setting import MIB, Setting, made
from mmft.batch import Batch
from mmft.reports.audit.step_cost import StepCost, try_steps


def tried(setting: Setting, overrides: list[str], batch: Batch | None = None) -> StepCost:
    """Some optimizer steps on the device; on a GPU `grown` is their whole peak, weights included."""
    gc.collect()
    if setting.device == "cuda":
        torch.cuda.empty_cache()
    things = made(overrides)
    rows = things.batch if batch is None else batch
    evaluated = next(iter(rows.split(64)))
    return try_steps(things.module, rows, evaluated, setting.place, things.config.trainer.precision)


def measure(setting: Setting) -> None:
    """A row for each saving."""
    batch = 16 if setting.smallest else 128
    precision = "trainer.precision=32-true" if setting.smallest else "trainer.precision=bf16-mixed"
    plain: Any = None
    for name, typed in {
        "plain": [],
        "gradient checkpointing": ["trainer.gradient_checkpointing=true"],
        "micro-batches of 16": ["data.micro_batch_size=16"],
        "optim=adamw_8bit": ["optim=adamw_8bit"],
        "optim=paged_adamw_8bit": ["optim=paged_adamw_8bit"],
    }.items():
        with setting.guarded(name):
            cost = tried(setting, setting.overrides(precision, *typed, batch=batch))
            plain = plain or cost
            less = setting.smallest or name == "plain" or cost.grown < plain.grown
            ratio = cost.grown / plain.grown
            setting.note(
                f"{name}: peak memory of {batch} rows, MiB", cost.grown // MIB, plain.grown // MIB, ratio, less
            )
            setting.note(f"{name}: milliseconds of a step", cost.seconds * 1e3, plain.seconds * 1e3)
            if typed and typed[0].startswith("optim"):
                state = cost.optimizer / MIB, plain.optimizer / MIB
                setting.note(f"{name}: optimizer state, MiB", *state, state[0] / state[1], state[0] <= state[1])
