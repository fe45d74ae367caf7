"""`task=contrastive`: the memory of a large batch in micro-batches, and its gradient against one graph's."""

from __future__ import annotations

import torch
from torch import Tensor

from gpu.memory import tried
from gpu.setting import MIB, Setting, made
from mmft.batch import Batch
from mmft.training.accumulation import seed_dropout
from mmft.training.gradient_cache import accumulate_pairs
from mmft.training.module import FineTuning

TOLERANCE = 1e-4  # of the whole gradient, in float32; a convolution in TF32 is the largest part of it


def measure(setting: Setting) -> None:
    """Gradient first, then memory by batch and micro-batch."""
    size = 32 if setting.smallest else 112
    few = pairs(setting, "trainer.precision=32-true", batch=64, size=size)
    with setting.guarded("gradient caching: gradient"):
        _gradient(setting, few)
    large = 256 if setting.smallest else 4096
    precision = "32-true" if setting.smallest else "bf16-mixed"
    small = 0
    for rows, micro in ((64, None), (large, 64), (large, 256)):
        with setting.guarded(f"gradient caching: {rows} rows"):
            options = [f"trainer.precision={precision}", *([f"data.micro_batch_size={micro}"] if micro else [])]
            typed = pairs(setting, *options, batch=rows, size=size)
            trial = tried(setting, typed, repeated(made(few).batch, rows))
            small = small or trial.grown
            name = f"{rows} rows" + (f" in micro-batches of {micro}" if micro else "")
            fits = setting.smallest or micro != 64 or trial.grown < 1.5 * small
            setting.note(f"{name}: peak memory, MiB; reference: of 64", trial.grown // MIB, small // MIB, None, fits)
            setting.note(f"{name}: seconds of a step", trial.seconds)


def pairs(setting: Setting, *more: str, batch: int, size: int | None = None) -> list[str]:
    """`Setting.overrides` for `task=contrastive`, without dropout."""
    typed = setting.overrides("task=contrastive", "model.dropout=0", *more, batch=batch, size=size)
    return [one for one in typed if not one.startswith("data.columns.label=")]


def repeated(batch: Batch, rows: int) -> Batch:
    """So many rows, each a pair of its own, images with a noise of their own."""
    numbers = torch.arange(rows)
    found = batch.map_tensors(lambda t: t[numbers % len(batch)].clone())
    assert found.pixel_values is not None
    noise = torch.randint(
        0, 32, found.pixel_values.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    found.pixel_values = found.pixel_values // 2 + noise
    nothing = torch.full((rows,), -1)
    found.target = torch.stack([numbers, numbers, nothing, nothing], dim=1)
    found.weight = torch.ones(rows)
    return found


def _gradient(setting: Setting, typed: list[str]) -> None:
    """In micro-batches of 24 (the last one is smaller) against one graph over all rows."""
    module = made(typed).module
    rows = 64 if setting.smallest else 512
    batch = repeated(made(typed).batch, rows).to(setting.place)
    module.model.to(setting.place).train()
    exact = _of_one_graph(module, batch)
    found = _cached(module, batch, 24)
    assert found.keys() == exact.keys()
    norm = float(torch.stack([value.double().norm() for value in exact.values()]).norm())
    parts = [(found[name].double() - value.double()).norm() for name, value in exact.items()]
    off = float(torch.stack(parts).norm()) / norm
    setting.note(f"gradient of {rows} rows in micro-batches of 24, relative to one graph's", off, good=off < TOLERANCE)


def _of_one_graph(module: FineTuning, batch: Batch) -> dict[str, Tensor]:
    module.model.zero_grad()
    outputs = module.model(batch)
    sums = module.objective.pairwise_sums(outputs, batch, slice(None), batch)
    module.objective.weigh(sums / module.objective.normalisers(batch).to(sums)).backward()
    return _gradients(module)


def _cached(module: FineTuning, batch: Batch, micro: int) -> dict[str, Tensor]:
    module.model.zero_grad()
    objective, weights = module.objective, module.objective.normalisers(batch)

    def before(index: int) -> None:
        seed_dropout(0, 0, 0, index)

    accumulate_pairs(batch, micro, weights, module.model, objective, objective.weigh, Tensor.backward, before)
    return _gradients(module)


def _gradients(module: FineTuning) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None}
