"""A step over pairs in a process of its own: prints its floating-point operations and the bytes of memory at its peak.

python large_batch.py ROWS MICRO OVERRIDES...        MICRO 0: the whole batch at once
"""

from __future__ import annotations

import sys

import torch
from pairwise_gradients import PairCase
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmft.batch import Batch
from mmft.training.accumulation import seed_dropout
from mmft.training.gradient_cache import accumulate_pairs
from mmft.training.memory import forget_peak, peak_bytes


def repeated(batch: Batch, rows: int) -> Batch:
    """So many rows, each a pair of its own."""
    numbers = torch.arange(rows)
    made = batch.map_tensors(lambda t: t[numbers % len(batch)].clone())
    made.target = torch.stack([numbers, numbers, -torch.ones(rows).long(), -torch.ones(rows).long()], dim=1)
    made.weight = torch.ones(rows)
    return made


def main() -> None:
    """Forward and backward, without an optimizer."""
    rows, micro, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    case = PairCase(overrides, "info_nce")
    model, batch, cpu = case.model.float(), repeated(case.batch, int(rows)), torch.device("cpu")
    forget_peak(cpu)
    with FlopCounterMode(display=False) as counted:
        accumulate_pairs(
            batch,
            int(micro) or None,
            case.task.normalisers(batch),
            model,
            case.objective,
            case.objective.weigh,
            Tensor.backward,
            lambda index: seed_dropout(0, 0, 0, index),
        )
    print(counted.get_total_flops(), peak_bytes(cpu))


if __name__ == "__main__":
    main()
