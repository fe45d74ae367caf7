"""An optimizer step over pairs in a process of its own: prints its CPU seconds and the bytes of memory at its peak.

python large_batch.py ROWS MICRO OVERRIDES...        MICRO 0: the whole batch at once
"""

from __future__ import annotations

import sys
import time

import torch
from pairwise_gradients import PairCase
from torch import Tensor

from mmft.batch import Batch
from mmft.training.accumulation import seed_dropout
from mmft.training.gradient_cache import accumulate_pairs
from mmft.training.memory import forget_peak, held_bytes, peak_bytes


def repeated(batch: Batch, rows: int) -> Batch:
    """So many rows, each a pair of its own."""
    numbers = torch.arange(rows)
    made = batch._map(lambda t: t[numbers % len(batch)].clone())
    made.target = torch.stack([numbers, numbers, -torch.ones(rows).long(), -torch.ones(rows).long()], dim=1)
    made.weight = torch.ones(rows)
    return made


def main() -> None:
    """Two steps, of which the second counts."""
    rows, micro, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    case = PairCase(overrides, "info_nce")
    model, batch, cpu = case.model.float(), repeated(case.batch, int(rows)), torch.device("cpu")
    before = held_bytes(cpu)
    for _ in range(2):
        forget_peak(cpu)
        started = time.process_time()
        model.zero_grad()
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
        seconds = time.process_time() - started
    print(seconds, peak_bytes(cpu), peak_bytes(cpu) - before)


if __name__ == "__main__":
    main()
