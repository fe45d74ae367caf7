"""Merges the metrics of all ranks as if one process had seen every batch in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.data import dim_zero_max, dim_zero_min, dim_zero_sum

from mmft.tasks.metrics.parts import PartMetrics
from mmft.training.parallel.collectives import gathered, is_distributed

_TOGETHER: dict[Any, Any] = {
    dim_zero_sum: lambda states: torch.stack(states).sum(0),
    dim_zero_max: lambda states: torch.stack(states).amax(0),
    dim_zero_min: lambda states: torch.stack(states).amin(0),
}


def merge_metrics(metrics: MetricCollection, numbers: Sequence[int]) -> None:
    """Gives every rank's `metrics` the state that one process would have.

    torchmetrics' own synchronisation hangs if one rank had no batch. It also concatenates by rank, so row order, and
    with it rounding, would depend on the number of ranks.

    Args:
        metrics: changed in place; unchanged with one rank.
        numbers: of the batches that this rank added, among the batches of all ranks, in the order added.

    Raises:
        NotImplementedError: a metric has a state that is neither a sum, an extreme nor a list of batches.
    """
    if not is_distributed():
        return
    if isinstance(metrics, PartMetrics):
        for name in metrics.names:
            merge_metrics(metrics.of(name), [n for n, seen in zip(numbers, metrics.seen[name], strict=True) if seen])
        return
    single = [metric for _, metric in metrics.items(keep_base=True, copy_state=False)]
    own = [{name: _on_cpu(getattr(metric, name)) for name in metric._defaults} for metric in single]
    ranks = gathered((list(numbers), own))
    updates = sum(len(rank_numbers) for rank_numbers, _ in ranks)
    for index, metric in enumerate(single):
        for name in metric._defaults:
            states = [(rank_numbers, rank_states[index][name]) for rank_numbers, rank_states in ranks]
            setattr(metric, name, _merged(metric, name, states))
        metric._update_count, metric._computed = updates, None
        metric._to_sync = metric.sync_on_compute = False


def _merged(metric: Metric, name: str, states: list[tuple[list[int], Any]]) -> Any:
    if isinstance(metric._defaults[name], list):
        batches = [pair for numbers, parts in states for pair in zip(numbers, parts, strict=True)]
        return [part.to(metric.device) for _, part in sorted(batches, key=lambda pair: pair[0])]
    together = _TOGETHER.get(metric._reductions[name])
    if together is None:
        raise NotImplementedError(f"{type(metric).__name__}.{name}: a state of this kind cannot be merged over ranks.")
    return together([state for _, state in states]).to(metric.device)


def _on_cpu(state: Any) -> Any:
    return [part.cpu() for part in state] if isinstance(state, list) else _tensor(state).cpu()


def _tensor(state: Any) -> Tensor:
    return state if isinstance(state, Tensor) else torch.as_tensor(state)
