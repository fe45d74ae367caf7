"""Communication between ranks; with one rank nothing is communicated and torch.distributed is not used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm

from mmft.ranks import beat

T = TypeVar("T")
BUCKET_BYTES = 32 * 2**20


def is_distributed() -> bool:
    """Whether there are other ranks."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def end_collectives(*, together: bool) -> None:
    """Leaves the process group, after which other ranks may exit; a process with another job joins again.

    Args:
        together: wait for the other ranks first; False after an error, when they may be gone.
    """
    if distributed.is_available() and distributed.is_initialized():
        if together:
            distributed.barrier()
        distributed.destroy_process_group()
    beat("idle")


def summed(values: Tensor) -> Tensor:
    """Element-wise sum of `values` over ranks, the same on every rank."""
    if is_distributed():
        values = values.clone()
        beat("wait")
        distributed.all_reduce(values)
        beat("run")
    return values


def largest(values: Tensor) -> Tensor:
    """Element-wise maximum of `values` over ranks, the same on every rank."""
    if is_distributed():
        values = values.clone()
        beat("wait")
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
        beat("run")
    return values


def gathered(value: T) -> list[T]:
    """Every rank's plain value, in rank order, on every rank."""
    if not is_distributed():
        return [value]
    everyone: list[T] = [value] * distributed.get_world_size()
    beat("wait")
    distributed.all_gather_object(everyone, value)
    beat("run")
    return everyone


def gathered_rows(*columns: Tensor) -> tuple[list[Tensor], slice]:
    """All ranks' rows, in rank order, and the slice that is this rank's.

    Args:
        columns: (B, ...) each, of the same rows; B may differ between ranks.

    Returns:
        (R, ...) per column, without a graph, the same on every rank; and the slice of the B rows of this rank.
    """
    size = len(columns[0])
    if not is_distributed():
        return [column.detach().clone() for column in columns], slice(0, size)
    counts = [int(count) for count in _from_ranks(torch.tensor([size], device=columns[0].device))]
    found = []
    for column in columns:
        padded = column.new_zeros(max(counts), *column.shape[1:])
        padded[:size] = column.detach()
        parts = zip(_from_ranks(padded), counts, strict=True)
        found.append(torch.cat([part[:count] for part, count in parts]))
    first = sum(counts[: distributed.get_rank()])
    return found, slice(first, first + size)


def _from_ranks(values: Tensor) -> list[Tensor]:
    """Every rank's `values`, of the same shape on all."""
    everyone = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    beat("wait")
    distributed.all_gather(everyone, values)
    beat("run")
    return everyone


def sum_gradients(parameters: Sequence[Parameter]) -> None:
    """Replaces each parameter's gradient by its sum over ranks.

    DistributedDataParallel does not fit: it divides by the number of ranks whatever their shares weigh, needs every
    parameter in every backward pass or searches the graph for unused ones, and fails if a parameter is unfrozen after
    wrapping. A parameter without a gradient on any rank keeps none, as with one process, so the optimizer skips it
    there too.

    Args:
        parameters: the same ones in the same order on every rank.
    """
    if not is_distributed() or not parameters:
        return
    device = parameters[0].device
    used = summed(torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=device))
    gradients: list[Tensor] = []
    for parameter, count in zip(parameters, used.tolist(), strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if count and parameter.grad is not None:
            gradients.append(parameter.grad)
    beat("wait")
    buckets = [(bucket, _flatten_dense_tensors(bucket)) for bucket in _buckets(gradients)]
    for work in [distributed.all_reduce(flat, async_op=True) for _, flat in buckets]:
        work.wait()
    for bucket, flat in buckets:
        torch._foreach_copy_(bucket, list(_unflatten_dense_tensors(flat, bucket)))
    beat("run")


def average_statistics(model: nn.Module) -> None:
    """Averages trained running statistics over ranks, so that ranks stay equal.

    Each rank's come from its own rows; like those of micro-batches, they approximate those of the whole batch.
    """
    if not is_distributed():
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None:
            for running in (module.running_mean, module.running_var):
                assert running is not None
                running.copy_(summed(running) / distributed.get_world_size())


def _buckets(gradients: list[Tensor]) -> list[list[Tensor]]:
    """Groups neighbours of one dtype up to `BUCKET_BYTES`: messages are large, and the first is sent early."""
    buckets: list[list[Tensor]] = []
    room = 0
    for gradient in gradients:
        size = gradient.numel() * gradient.element_size()
        if not buckets or size > room or buckets[-1][0].dtype != gradient.dtype:
            buckets.append([])
            room = BUCKET_BYTES
        buckets[-1].append(gradient)
        room -= size
    return buckets
