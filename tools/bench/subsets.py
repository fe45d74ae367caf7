"""What each method of `data.subset` is worth on the real clip-art rows: a linear probe on the rows that it chooses.

    python tools/bench/subsets.py --shared ../shared --store FOLDER [--fractions 0.05 0.1 0.2] [--seeds 5] [--pool 0.9]

Pooled features of DINOv2-small and MiniLM at 112 pixels are computed once, kept in --store, and joined as `data.subset`
joins them. As some methods draw nothing, each seed also draws the nine tenths of the training rows to choose from
(--pool 1: all of them). The probe is a linear head on the standardised features of the chosen rows, at its optimum; its
test accuracy is told as mean and standard deviation over the seeds, and as the difference from random rows of the same
pool.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import table

from mmft import build
from mmft.config.compose import compose
from mmft.config.schema.root import TrainConfig
from mmft.data.hashing import unit_hashes
from mmft.data.splitting.splits import load_splits
from mmft.data.subsets import METHODS, choose, covering_radius, joined
from mmft.reports.linear_heads import Features, linear_head
from mmft.tasks.base import Task
from mmft.training.hardware import choose_hardware


def features_of(shared: Path, store: Path) -> tuple[Task, dict[str, Features], list[str]]:
    """The task; the features of both splits, joined, as `image`; and the ids of the training rows."""
    typed = [*table.overrides(shared), f"paths.cache={store}", "cache=always", "trainer.precision=32-true"]
    config: TrainConfig = compose("train", typed).config
    choose_hardware(config.trainer, 1)
    splits = load_splits(config.data, config.seed)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, task.make_head, config.seed)
    data = build.build_data(config, splits, model, task)
    found = {}
    for name in ("train", "test"):
        rows = data.datasets[name]
        assert rows.targets is not None
        x = joined(build.EncoderFeatures(config, model).of(rows).values())
        found[name] = Features(x, x[:, :0], rows.targets, x.new_ones(len(x)))
    train = splits["train"]
    return task, found, [train.table.id(row) for row in train.rows.tolist()]


def main() -> None:
    """Prints one line for each fraction and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.5])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pool", type=float, default=0.9)
    asked = parser.parse_args()
    task, found, ids = features_of(asked.shared, asked.store)
    known, tested = found["train"], found["test"]

    def accuracy(rows: np.ndarray) -> float:
        own = Features(*(one[rows] for one in known))
        return linear_head(task, own.of("image"), tested.of("image"))

    print(f"all {len(ids)} rows: {accuracy(np.arange(len(ids))):.3f}\n")
    print("| rows | method | by label | test accuracy | against random | farthest row |\n|---|---|---|---|---|---|")
    for fraction in asked.fractions:
        reference: list[float] = []
        for by_label in (True, False):
            for method in METHODS:
                scores, radii = [], []
                for seed in range(asked.seeds):
                    pool = np.flatnonzero(unit_hashes(ids, seed, "pool") < asked.pool)
                    classes = known.target[pool].numpy() if by_label else np.zeros(len(pool), dtype=np.int64)
                    draws = unit_hashes([ids[at] for at in pool], seed, "subset")
                    count = round(fraction * len(pool))
                    chosen = choose(method, known.image[pool], classes, count, draws)
                    scores.append(accuracy(pool[chosen]))
                    radii.append(covering_radius(known.image[pool], classes, chosen))
                reference = reference or scores
                gains = [100 * (score - other) for score, other in zip(scores, reference, strict=True)]
                print(
                    f"| {count} | {method} | {'yes' if by_label else 'no'} "
                    f"| {statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f} "
                    f"| {statistics.mean(gains):+.1f} ± {statistics.stdev(gains):.1f} | {statistics.mean(radii):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
