"""Language models that read images: a run that is killed at any moment ends, once resumed, as the undisturbed run.

MMFT_KILLS=20 in front of pytest tries 20 moments of each kind of run.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from generative_rows import typed_for_generation
from language_models import in_16_bits
from make_shapes import Shapes
from runs import QUICK, Run, resumed, same_weights
from torch.nn.modules.module import register_module_forward_pre_hook

from mmft.commands.train import train
from mmft.config.compose import compose

Folder = Callable[..., Path]
KILLS = int(os.environ.get("MMFT_KILLS", "3"))


@pytest.fixture(params=["projected", "packed", "whole"])
def typed(
    request: pytest.FixtureRequest, shapes: Shapes, language_model_folder: Folder, whole_folder: Folder, tmp_path: Path
) -> list[str]:
    """A run with LoRA over a base in bfloat16, dropout on, and a checkpoint after every step."""
    every = ["tune/text_encoder=lora", "tune.text_encoder.dropout=0.1", "checkpoint.every_steps=1"]
    every.append("cache=never")  # the number of calls is the same in each process
    if request.param == "whole":
        own = [one for one in shapes.overrides if not one.startswith("model.")]
        model = [f"model.whole={whole_folder('idefics3')}", "task=generation", "task.max_answer_tokens=8"]
        return [*own, *QUICK, *model, "tune/image_encoder=freeze", "optim.lr=null", *every]
    folder = in_16_bits(language_model_folder("llama"), tmp_path / "model")
    packing = ["task.packing=true", "data.micro_batch_tokens=200"] if request.param == "packed" else []
    return [*typed_for_generation(shapes, folder), *every, *packing]


def counted(overrides: list[str], folder: Path, last: int | None) -> int:
    """Trains, and gives the number of calls of modules; kills the process before call number `last`, if any."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)

    handle = register_module_forward_pre_hook(count)
    try:
        assert train(compose("train", overrides), folder) == 0
    finally:
        handle.remove()
    return calls


@pytest.mark.slow
def test_kills_at_random_moments(typed: list[str], tmp_path: Path) -> None:
    calls = counted(typed, tmp_path / "run", None)
    undisturbed = Run(tmp_path / "run")
    moments = sorted(random.Random(0).sample(range(1, calls + 1), KILLS))
    steps = []
    for kill, moment in enumerate(moments):
        folder = tmp_path / f"killed{kill}"

        def work(folder: Path = folder, moment: int = moment) -> int:
            counted(typed, folder, moment)
            return 0

        assert Forked(work).wait(800) == -signal.SIGKILL
        run = resumed(typed, folder)
        steps += run.summary.get("resumed_from", [0])
        assert same_weights(run, undisturbed), moment
        assert run.metrics == undisturbed.metrics, moment
        assert run.summary["test"] == undisturbed.summary["test"], moment
    assert len(steps) == KILLS
    print(f"{KILLS} kills before calls {moments} of {calls}, resumed from optimizer steps {steps}")
