"""A loss over all pairs, computed in micro-batches, has the gradient of one graph over the whole batch."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from make_shapes import Shapes
from pairwise_gradients import LOSSES, PairCase, cached, largest_error, written_out
from torch import nn


@pytest.fixture(scope="module", params=LOSSES)
def case(request: pytest.FixtureRequest, shapes: Shapes) -> PairCase:
    return PairCase(shapes.overrides, request.param)


@pytest.mark.parametrize("micro", [None, 7, 1])
def test_every_gradient_is_that_of_one_graph(case: PairCase, micro: int | None) -> None:
    """Temperature and bias included; dropout is on, and replayed."""
    exact = written_out(case, micro, world=1)
    found = cached(case, micro)
    assert {name for name in found if name.startswith("head.")} == {
        f"head.{n}" for n, _ in case.model.head.named_parameters()
    }
    assert len(found) > 60
    assert all(bool(found[name].any()) for name in found if name.startswith("head."))
    assert largest_error(found, exact) <= 1e-10


@pytest.mark.parametrize("encoder", ["image_encoder", "text_encoder"])
def test_a_frozen_encoder_runs_once(shapes: Shapes, encoder: str) -> None:
    case = PairCase(shapes.overrides, "info_nce", f"tune/{encoder}=freeze")
    exact, runs = written_out(case, 7, world=1), []
    case.model.get_submodule(encoder).register_forward_hook(lambda *_: runs.append(1))
    found = cached(case, 7)
    assert len(runs) == 5  # 29 rows
    assert found.keys() == exact.keys()
    assert not any(name.startswith(encoder) for name in found)
    assert largest_error(found, exact) <= 1e-10


def test_dropout_is_really_on(case: PairCase) -> None:
    """Or the test above would say nothing of its being replayed."""
    once = written_out(case, 7, world=1)
    other = written_out(case, 5, world=1)
    assert largest_error(once, other) > 1e-4


def test_a_batch_without_rows_gives_gradients_of_nothing(case: PairCase) -> None:
    empty = copy.copy(case)
    empty.batch = case.batch.map_tensors(lambda t: t[:0])
    found = cached(empty, 4)
    assert not any(bool(gradient.any()) for gradient in found.values())


def test_bf16_gradients_are_not_lost_by_autocasts_cache(case: PairCase) -> None:
    """A weight that was cast in the pass without a graph must not serve in the one with a graph."""
    model = copy.deepcopy(case.model).float()
    in_bf16 = copy.copy(case)
    in_bf16.model = model
    plain = cached(in_bf16, 7)
    with torch.autocast("cpu", torch.bfloat16):
        found = cached(in_bf16, 7)
    assert found.keys() == plain.keys()
    lost = [name for name, gradient in plain.items() if gradient.any() and not found[name].any()]
    assert not lost
    norms = [float(torch.stack([g.norm() for g in grads.values()]).norm()) for grads in (found, plain)]
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


def test_running_statistics_see_each_row_once(shapes_overrides: list[str], image_encoder_folder: Any) -> None:
    folder = image_encoder_folder("timm_resnet")
    case = PairCase(shapes_overrides, "info_nce", f"model.image_encoder.name={folder}")
    norms = [m for m in case.model.modules() if isinstance(m, nn.BatchNorm2d)]
    cached(case, 10)
    assert {int(norm.num_batches_tracked) for norm in norms if norm.num_batches_tracked is not None} == {3}


@pytest.mark.slow
def test_a_batch_of_4096_takes_little_more_memory_than_one_of_64(shapes: Shapes) -> None:
    """And an eighth more computation than without caching, for which the whole batch's graph must fit."""

    def step(rows: int, micro: int) -> tuple[int, int]:
        helpers = Path(__file__).parents[1] / "helpers"
        script = str(helpers / "large_batch.py")
        command = [sys.executable, script, str(rows), str(micro), *shapes.overrides]
        where = os.environ | {"PYTHONPATH": str(helpers)}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=where)
        operations, peak = map(int, done.stdout.split())
        return operations, peak

    (_, small), (cached_operations, large), (plain_operations, plain) = step(64, 0), step(4096, 64), step(4096, 0)
    assert large <= 1.3 * small  # measured: 1.14
    assert plain > 1.5 * large  # or the measure would show nothing
    assert cached_operations < 1.2 * plain_operations  # 1.11: encoders once more forward; twice more would be 1.23
