"""Optimizer steps of `mmft train` against a hand-written loop of the same precision, weights and batches.

The loop's model is `tools/bench/loop.py`'s; its step is the usual one, with autocast and, in float16, a `GradScaler`.
Ours is everything between two batches: Lightning's loop, all callbacks, the step, the logging of every tenth step.
Both run freely: the device is waited for before and after a block of steps, not between them.
"""

from __future__ import annotations

import csv
import gc
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import loop
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gpu.setting import MIB, Made, Setting, made
from mmft.batch import Batch
from mmft.commands import train as program
from mmft.config.compose import compose
from mmft.data.datamodule import VisionLanguageData
from mmft.models.precision import autocast
from mmft.training.memory import forget_peak, held_bytes, peak_bytes

TOLERANCE = {"32-true": 1e-5, "bf16-mixed": 2e-2, "16-mixed": 4e-3}
"""How far the loss of the first step may be off, relative: a rounding of each precision, through a few layers."""
BLOCKS = 3


class Cost(NamedTuple):
    """What a loop's steps cost."""

    seconds: float
    peak: int
    losses: dict[int, float]


def measure(setting: Setting) -> None:
    """Rows for each precision."""
    steps = 2 if setting.smallest else 20
    for precision in TOLERANCE:
        with setting.guarded(f"{precision}: steps"):
            _compare(setting, precision, steps)


def _compare(setting: Setting, precision: str, steps: int) -> None:
    size = 16 if setting.smallest else 64
    typed = [f"trainer.precision={precision}", "model.dropout=0", "model.fusion.dropout=0", "trainer.max_epochs=1"]
    typed += ["schedule=constant", "schedule.warmup=0", "optim.lr=5e-5", f"trainer.log_every_steps={min(10, steps)}"]
    overrides = setting.overrides(*typed, batch=size)
    mine = made(overrides)
    theirs = _loops(setting, mine, precision, steps)
    gc.collect()
    ours = _ours(setting, overrides, mine.batch, steps)
    setting.note(
        f"{precision}: steps per second, {size} rows",
        1 / ours.seconds,
        1 / theirs.seconds,
        theirs.seconds / ours.seconds,
        good=setting.smallest or theirs.seconds / ours.seconds > 0.8,
    )
    if setting.device == "cuda":  # on a CPU both are in one process's memory
        ratio = ours.peak / theirs.peak
        setting.note(f"{precision}: peak memory, MiB", ours.peak // MIB, theirs.peak // MIB, ratio, good=ratio < 1.15)
    off = abs(ours.losses[1] - theirs.losses[1]) / abs(theirs.losses[1])
    good = off <= TOLERANCE[precision]
    setting.note(f"{precision}: loss of the first step", ours.losses[1], theirs.losses[1], off, good)
    last = max(ours.losses.keys() & theirs.losses.keys())
    off = abs(ours.losses[last] - theirs.losses[last]) / abs(theirs.losses[1])
    setting.note(f"{precision}: loss of step {last}", ours.losses[last], theirs.losses[last], off, good=off < 0.1)


def _wait(setting: Setting) -> float:
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _loops(setting: Setting, mine: Made, precision: str, steps: int) -> Cost:
    """The hand-written loop; from mmft it has the first weights and the batch."""
    before = held_bytes(setting.place)
    loop.IMAGE_SIZE, loop.DROPOUT = setting.image_size, 0.0
    built = loop.build(setting.shapes.image_encoder, setting.shapes.text_encoder, mine.module.task.width, steps=1)
    own = [*mine.module.model.fusion.parameters(), *mine.module.model.head.parameters()]
    with torch.no_grad():
        for parameter, value in zip(built.model.head.parameters(), own, strict=True):
            parameter.copy_(value)
    for module in built.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    built.model.to(setting.place).train()
    inputs: Any = mine.batch.pixel_values, mine.batch.input_ids, mine.batch.attention_mask, mine.batch.target
    scaler = torch.amp.GradScaler(setting.device, enabled=precision == "16-mixed")
    losses, seconds = list[Tensor](), list[float]()
    for block in range(BLOCKS + 1):
        if block == 1:
            forget_peak(setting.place)
        began = _wait(setting)
        for _ in range(steps):
            examples = loop.Examples(*(part.to(setting.place) for part in inputs))
            losses.append(_step(setting, built, examples, precision, scaler))
        seconds.append((_wait(setting) - began) / steps)
    numbered = {number: float(loss) for number, loss in enumerate(losses, start=1)}
    return Cost(statistics.median(seconds[1:]), peak_bytes(setting.place) - before, numbered)


def _step(
    setting: Setting, built: loop.Loop, batch: loop.Examples, precision: str, scaler: torch.amp.GradScaler
) -> Tensor:
    with autocast(setting.place, precision):
        loss = cross_entropy(built.model(batch).float(), batch.target)
    scaler.scale(loss).backward()
    scaler.unscale_(built.optimizer)
    nn.utils.clip_grad_norm_(built.model.parameters(), loop.CLIP_NORM)
    scaler.step(built.optimizer)
    scaler.update()
    built.optimizer.zero_grad()
    return loss.detach()


class Blocks:
    """The same batch in blocks of steps; the first block does not count, and one more step ends the last one's time."""

    def __init__(self, setting: Setting, batch: Batch, steps: int) -> None:
        self.setting, self.batch, self.steps = setting, batch, steps
        self.seconds: list[float] = []

    def __len__(self) -> int:
        return (BLOCKS + 1) * self.steps + 1

    def __iter__(self) -> Iterator[Batch]:
        for block in range(BLOCKS + 1):
            if block == 1:
                forget_peak(self.setting.place)
            began = _wait(self.setting)
            for _ in range(self.steps):
                yield self.batch
            self.seconds.append((_wait(self.setting) - began) / self.steps)
        yield self.batch


def _ours(setting: Setting, overrides: list[str], batch: Batch, steps: int) -> Cost:
    """`mmft train` on that batch alone."""
    before = held_bytes(setting.place)
    blocks, peak = Blocks(setting, batch, steps), list[int]()
    plain, finished = VisionLanguageData.train_dataloader, vars(program)["finish"]

    def finish(*given: Any) -> Any:
        peak.append(peak_bytes(setting.place) - before)
        return finished(*given)

    run = Path(setting.scratch) / f"steps_{time.monotonic_ns()}"
    VisionLanguageData.train_dataloader = lambda _: blocks  # type: ignore[method-assign, assignment, return-value]
    vars(program)["finish"] = finish
    try:
        program.train(compose("train", [*overrides, "data.limit=64"]), run)
    finally:
        VisionLanguageData.train_dataloader = plain  # type: ignore[method-assign]
        vars(program)["finish"] = finished
    with (run / "metrics.csv").open(newline="") as file:
        losses = {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}
    return Cost(statistics.median(blocks.seconds[1:]), peak[0], losses)
