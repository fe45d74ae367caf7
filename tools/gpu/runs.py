"""Whole runs: the shipped sample, a run that is stopped and resumed, and its predictions on the GPU and on the CPU."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gpu.setting import Setting
from mmft.commands.predict import predict
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.reports.numbers import number_in
from mmft.run.resume import resolve
from mmft.signals import Stopped
from mmft.training.callbacks.stopping import StopOnSignal

STOP = 4  # of six steps or more


def measure(setting: Setting) -> None:
    """Rows for each kind of run."""
    with setting.guarded("mmft train on the shipped sample"):
        _shipped(setting)
    for precision in ("auto", "16-mixed"):
        with setting.guarded(f"resume, {precision}"):
            _resumed(setting, precision)
    with setting.guarded("predict"):
        _predicted(setting)


def _run(setting: Setting, name: str, typed: list[str]) -> Path:
    folder = Path(setting.scratch) / "runs" / name
    train(compose("train", typed), folder)
    return folder


def _summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


def _shipped(setting: Setting) -> None:
    """What `make train` does, in two epochs."""
    few = ["data.limit=96", "trainer.max_epochs=1"] if setting.smallest else ["trainer.max_epochs=2"]
    accelerator, began = f"trainer.accelerator={setting.accelerator}", time.perf_counter()
    run = _run(setting, "shipped", ["experiment=clipart", "modality_report=false", accelerator, *few])
    accuracy, seconds = _summary(run)["test"]["accuracy"], time.perf_counter() - began
    good = setting.smallest or accuracy > 0.4
    setting.note("shipped sample, 2 epochs: test accuracy; reference: majority", accuracy, 0.288, good=good)
    setting.note("shipped sample, 2 epochs: seconds, all told", seconds)


def _typed(setting: Setting, precision: str) -> list[str]:
    batch = 16 if setting.smallest else 64
    length = ["data.limit=48", "trainer.max_epochs=2"] if setting.smallest else ["trainer.max_epochs=1"]
    return setting.overrides(*length, "trainer.log_every_steps=1", f"trainer.precision={precision}", batch=batch)


def _resumed(setting: Setting, precision: str) -> None:
    """A run that SIGTERM stops half-way and that goes on, beside two that nothing stops."""
    typed = _typed(setting, precision)
    one, other = (_run(setting, f"{precision}_{name}", typed) for name in ("one", "other"))
    stopped = Path(setting.scratch) / "runs" / f"{precision}_stopped"
    _stopped(typed, stopped)
    found = resolve(compose("train", [*typed, f"resume={stopped}"]))
    assert found is not None
    train(*found)
    assert _summary(stopped)["resumed_from"] == [STOP]
    repeated, resumed = _difference(one, other), _difference(one, stopped)
    name = f"{precision}: largest difference of the state after a stop at step {STOP} and a resume, to none"
    setting.note(name, resumed, repeated, good=resumed <= 10 * repeated)
    same = (one / "metrics.csv").read_text() == (stopped / "metrics.csv").read_text()
    setting.note(
        f"{precision}: metrics.csv is the same to the last digit", "yes" if same else "no", good=same or repeated > 0
    )


def _stopped(typed: list[str], folder: Path) -> None:
    plain = StopOnSignal.on_train_batch_end

    def send(self: StopOnSignal, trainer: Any, *given: Any) -> None:
        if trainer.global_step == STOP:
            os.kill(os.getpid(), signal.SIGTERM)
        plain(self, trainer, *given)

    StopOnSignal.on_train_batch_end = send  # type: ignore[method-assign, assignment]
    try:
        train(compose("train", typed), folder)
    except Stopped:
        return
    finally:
        StopOnSignal.on_train_batch_end = plain  # type: ignore[method-assign]
    raise AssertionError("the run did not stop")


def _difference(one: Path, other: Path) -> float:
    """The largest difference of an element of the last checkpoints, weights and optimizer; 0.0: bit for bit."""
    first, second = (load_file(run / "checkpoints" / "last" / "tensors.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    pairs = ((first[name], second[name]) for name in first)
    return max(0.0 if torch.equal(a, b) else float((a.double() - b.double()).abs().max()) for a, b in pairs)


def _predicted(setting: Setting) -> None:
    """Probabilities of every row, from the same run."""
    run, answers = Path(setting.scratch) / "runs" / "auto_one", []
    table = setting.shapes.rows.with_name("few.csv")
    table.write_text("".join(setting.shapes.rows.read_text().splitlines(keepends=True)[:65]))
    for accelerator in ("cpu", setting.accelerator):
        out = Path(setting.scratch) / f"{accelerator}.csv"
        rows = [f"run={run}", f"data.path={table}", f"out={out}"]
        predict(compose("predict", [*rows, f"trainer.accelerator={accelerator}"]))
        with out.open(newline="") as file:
            answers.append(list(csv.DictReader(file)))
    on_cpu, on_gpu = answers
    assert len(on_cpu) == len(on_gpu) > 0
    numeric = [name for name in on_cpu[0] if name not in ("row", "id") and number_in(on_cpu[0][name]) is not None]
    assert numeric
    off = max(abs(float(a[name]) - float(b[name])) for a, b in zip(on_cpu, on_gpu, strict=True) for name in numeric)
    setting.note("predict: largest difference of a probability on the GPU, to the CPU", off, good=off < 2e-3)
    label = next(name for name in on_cpu[0] if name not in ("row", "id", "error", *numeric))
    turned = sum(a[label] != b[label] for a, b in zip(on_cpu, on_gpu, strict=True))
    setting.note(f"predict: rows of {len(on_cpu)} whose {label} differs", turned, good=turned == 0)
