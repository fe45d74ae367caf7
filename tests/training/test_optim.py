"""The optimizers of bitsandbytes against torch's own, on the CPU; how they go on after a resume: test_resume.py."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from mmft.config.schema.optim import (
    AdamW8bitConfig,
    AdamWConfig,
    OptimConfig,
    PagedAdamW8bitConfig,
    PagedAdamWConfig,
    SGDConfig,
)
from mmft.training import optim

STEPS, RATE = 20, 1e-3


def trained(make: Any) -> tuple[list[Parameter], Any]:
    """A large and a small parameter after some steps on the same random gradients."""
    random = torch.Generator().manual_seed(0)
    shapes = [(64, 64), (4095,)]
    parameters = [Parameter(torch.randn(shape, generator=random)) for shape in shapes]
    groups = [
        {"name": f"group{i}", "params": [p], "lr": RATE, "weight_decay": 0.1 * i} for i, p in enumerate(parameters)
    ]
    optimizer = make(groups, 0.9, 0.99, 1e-8)
    for _ in range(STEPS):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=random)
        optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_it_is_adamw(name: str, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    """Those in 32 bit to rounding; those in 8 bit within a fraction of the way that was gone."""
    with caplog.at_level(logging.WARNING):
        found, optimizer = trained(getattr(optim, name))
    expected, _ = trained(optim.adamw)
    large, small = (float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    assert small <= 1e-6
    assert large <= (1e-6 if name == "paged_adamw" else 0.2 * STEPS * RATE)
    kinds = [optimizer.state[p]["state1"].dtype for p in found]
    assert kinds == [torch.uint8 if name.endswith("8bit") else torch.float32, torch.float32]
    assert ("paging needs a GPU" in caplog.text) == name.startswith("paged")
    assert not [w for w in recwarn.list if "aged optimizers" in str(w.message)]  # it is said once, by us


@pytest.mark.parametrize("config", [AdamWConfig(), AdamW8bitConfig(), PagedAdamWConfig(), PagedAdamW8bitConfig()])
def test_the_space_that_is_asked_for_is_what_a_state_takes(config: OptimConfig) -> None:
    (large, _), optimizer = trained(getattr(optim, config.type))
    assert optimizer_bytes(optimizer, large) == pytest.approx(config.state_bytes * large.nbytes, rel=0.05)


def test_the_space_of_sgd() -> None:
    weights = torch.nn.Parameter(torch.ones(9, 9))
    optimizer = optim.sgd([{"params": [weights], "lr": 1.0, "weight_decay": 0.0}], 0.9, False)
    weights.grad = torch.ones(9, 9)
    optimizer.step()
    assert optimizer_bytes(optimizer, weights) == SGDConfig.state_bytes * weights.nbytes


def optimizer_bytes(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> int:
    """What is kept for a parameter."""
    state = {name: value for name, value in optimizer.state[parameter].items() if not name.startswith("qmap")}
    return sum(value.nbytes for value in state.values() if isinstance(value, torch.Tensor))


def test_8_bit_takes_a_quarter() -> None:
    (large, _), optimizer = trained(optim.adamw_8bit)
    state = optimizer.state[large]
    held = sum(state[name].nbytes for name in ("state1", "state2", "absmax1", "absmax2"))
    assert held <= 0.26 * 2 * 4 * large.numel()


def test_moments_that_a_checkpoint_brings_go_to_pages_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU there are none; what can be seen here is that bitsandbytes is asked for them, and their values."""
    parameters, optimizer = trained(optim.paged_adamw_8bit)
    other = optim.paged_adamw_8bit([{"params": [p]} for p in parameters], 0.9, 0.99, 1e-8)
    other.load_state_dict(optimizer.state_dict())
    asked = []
    plain = other.get_state_buffer  # type: ignore[attr-defined]
    monkeypatch.setattr(other, "get_state_buffer", lambda p, dtype: (asked.append(dtype), plain(p, dtype))[1])
    for p in parameters:
        p.grad = None
    other.step()
    assert asked == [torch.uint8, torch.uint8, torch.float32, torch.float32]
    for p in parameters:
        for name in ("state1", "state2", "absmax1"):
            if name in optimizer.state[p]:
                assert torch.equal(other.state[p][name], optimizer.state[p][name])
