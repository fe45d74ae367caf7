"""Runs of `mmft train` inside the test's process, on the shapes sample."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import fork_mmft
from forked import Forked
from safetensors.torch import load_file
from torch import Tensor

from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.run.resume import resolve
from mmft.training.callbacks.checkpointing import Checkpointing


class Run:
    """A finished run: its folder and what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "summary.json").read_text()))

    @property
    def weights(self) -> dict[str, Tensor]:
        """The last checkpoint's weights, which are training's own whatever the best was."""
        return load_file(self.path / "checkpoints" / "last" / "tensors.safetensors")

    @property
    def model_state(self) -> dict[str, Tensor]:
        """The finished model's tensors."""
        return load_file(self.path / "model" / "model.safetensors")

    @property
    def metrics(self) -> str:
        return (self.path / "metrics.csv").read_text()


def same_weights(a: Run, b: Run) -> bool:
    """Bit for bit, optimizer state included."""
    one, other = a.weights, b.weights
    return one.keys() == other.keys() and all(bool((one[k] == other[k]).all()) for k in one)


TrainRun = Callable[..., Run]


QUICK = ["data.limit=48", "trainer.max_epochs=2", "callbacks.progress=none", "modality_report=false", "report=false"]


@pytest.fixture
def shapes_overrides(shapes: Any) -> list[str]:
    """The overrides that train on the session's sample, for a quick run."""
    return [*shapes.overrides, *QUICK]


@pytest.fixture(scope="session")
def finished_run(shapes: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on all rows of the sample, for tests that only use one. Not to be written to."""
    path = tmp_path_factory.mktemp("finished") / "run"
    assert train(compose("train", [*shapes.overrides, *QUICK, "data.limit=null", "trainer.max_epochs=3"]), path) == 0
    return Run(path)


@pytest.fixture
def train_run(tmp_path: Path, shapes_overrides: list[str]) -> TrainRun:
    """`train_run("seed=1", folder=None)`: trains and gives the run."""
    numbers = itertools.count()

    def run(*overrides: str, folder: Path | None = None) -> Run:
        path = folder or tmp_path / f"run{next(numbers)}"
        assert train(compose("train", [*shapes_overrides, *overrides]), path) == 0
        return Run(path)

    return run


def killed_run(overrides: list[str], folder: Path, step: int, moment: str) -> None:
    """Trains in a child that SIGKILLs itself at an optimizer step: before it saves, while, or after."""

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> int:
        save = Checkpointing.save_last

        def save_and_die(self: Checkpointing, trainer: Any) -> None:
            if trainer.global_step >= step and moment == "before":
                die()
            if trainer.global_step >= step and moment == "while":
                import mmft.training.checkpoint as module

                module.write = die
            save(self, trainer)
            if trainer.global_step >= step:
                die()

        Checkpointing.save_last = save_and_die
        return train(compose("train", overrides), folder)

    assert Forked(work).wait(800) == -signal.SIGKILL


def resumed(overrides: list[str], folder: Path) -> Run:
    """Goes on in this process, as `mmft train ... resume=FOLDER` does."""
    found = resolve(compose("train", [*overrides, f"resume={folder}"]))
    assert found is not None
    assert train(*found) == 0
    return Run(folder)


def of_one_and_two_ranks(typed: list[str], trainer: str, folder: Path) -> tuple[Run, Run]:
    """The same run in one process and on two ranks of `trainer=ddp` or `fsdp`, as the command starts them."""
    runs = []
    for name in ("cpu", trainer):
        devices = [] if name == "cpu" else ["trainer.accelerator=cpu", "trainer.devices=2"]
        (folder / name).mkdir()
        fork_mmft("train", *typed, f"trainer={name}", *devices, cwd=folder / name)
        (path,) = (folder / name / "runs" / "shapes").iterdir()
        runs.append(Run(path))
    one, two = runs
    return one, two
