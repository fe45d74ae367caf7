"""Damaged files of a finished run: what loads is what was saved, or it is refused with a sentence."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from make_shapes import make_shapes

import mmft
from fuzz.damage import changed, cut, emptied, flipped, other, random_bytes, zeroed
from fuzz.outcome import Case, Wrong, generator
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.config.validate import to_dict
from mmft.training import checkpoint

SECONDS = 60.0
_ROWS = [{"image": None, "text": "a painting in red"}, {"image": None, "text": "something blue here"}]


def cases(count: int, first: int, seed: int, folder: Path) -> Iterator[Case]:
    """`count` runs with one damaged file, from number `first` on."""
    run = _run(folder)
    model, last = _model(run), _checkpoint(run)
    files = [path for path in sorted(run.joinpath("model").rglob("*")) if path.is_file()]
    states = [path for path in sorted(run.joinpath("checkpoints", "last").rglob("*")) if path.is_file()]
    for number in range(first, first + count):
        random = generator(seed, "checkpoints", number)
        # Weights and what is read with them count as much as all small files together.
        path = random.choice((random.choice(files), random.choice(states), run / "model" / "model.safetensors"))
        data, how = other(
            path.read_bytes(), random, (changed, flipped, flipped, flipped, cut, zeroed, emptied, random_bytes)
        )
        whole: tuple[Callable[[Path], Any], Any] = (_checkpoint, last) if path in states else (_model, model)
        copy = folder / f"run{number}"
        what = f"{path.relative_to(run)}, {how}"
        yield Case(number, what, partial(_load, run, copy, path.relative_to(run), data, *whole))


def _run(folder: Path) -> Path:
    """A finished run of two optimizer steps on generated rows, whose model has all its weights in the folder."""
    shapes = make_shapes(folder / "shapes", rows=48)
    more = ["trainer.max_steps=2", "callbacks.progress=none", "modality_report=false", "trainer.accelerator=cpu"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = train(compose("train", [*shapes.overrides, *more]), folder / "run")
    if code:
        raise RuntimeError(f"the undamaged run ended with {code}")
    return folder / "run"


def _load(run: Path, copy: Path, file: Path, data: bytes, load: Callable[[Path], Any], whole: Any) -> str:
    shutil.copytree(run, copy, copy_function=os.link)
    try:
        (copy / file).unlink()
        (copy / file).write_bytes(data)
        found = load(copy)
    finally:
        shutil.rmtree(copy)
    if not _same(found, whole):
        raise Wrong("an altered file was loaded")
    return "loaded as it was"


def _model(run: Path) -> dict[str, Any]:
    """All that a finished model is: its weights, labels, config, and what it says about two texts."""
    loaded = mmft.load(run, accelerator="cpu")
    config = to_dict(loaded.saved.config)
    state, task = dict(loaded.model.state_dict()), dict(loaded.saved.task.state())
    return {"state": state, "task": task, "config": config, "answers": loaded.predict(_ROWS)}


def _checkpoint(run: Path) -> dict[str, Any]:
    return checkpoint.read(run / "checkpoints" / "last")


def _same(one: Any, other_one: Any) -> bool:
    """Equality of trees of plain values and tensors; NaN equals NaN."""
    if isinstance(one, torch.Tensor):
        same_kind = (
            isinstance(other_one, torch.Tensor) and one.dtype == other_one.dtype and one.shape == other_one.shape
        )
        return same_kind and torch.equal(torch.nan_to_num(one.double()), torch.nan_to_num(other_one.double()))
    if isinstance(one, dict):
        return (
            isinstance(other_one, dict)
            and one.keys() == other_one.keys()
            and all(_same(value, other_one[key]) for key, value in one.items())
        )
    if isinstance(one, list | tuple):
        return isinstance(other_one, list | tuple) and len(one) == len(other_one) and all(map(_same, one, other_one))
    return type(one) is type(other_one) and (one == other_one or one != one)
