"""Every fusion on the real clip-art rows, classified: accuracy on val, which chooses the default, and on test; cost.

    python tools/bench/fusions.py --shared ../shared --out FOLDER [--only concat merged] [--seeds 3|--folds 5|--cost 3]

See `table.py` for what the options do. All other settings are the defaults, the same for each.

On the 244 validation rows, over three seeds: low_rank 0.820, concat 0.818, gated 0.816, cross 0.786, merged 0.777,
film 0.772, resampler 0.766. The first three again over five folds of the train and val rows, so on 1,934 rows: gated
0.756, concat and low_rank 0.754; one standard error of gated's lead over concat is 0.006. Three that cannot be told
apart: the default is the one of them with the fewest parameters, concat.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import table

import mmft.config.schema  # noqa: F401 - the options register
from mmft.config.registry import options

FUSIONS = {
    name: [f"model/fusion={name}"]
    for name, found in options("model/fusion").items()
    if not found.schema.embeds_apart  # type: ignore[attr-defined]
}


def print_accuracy(out: Path, seeds: int) -> None:
    """One line for each fusion that has a completed run, the best on val first."""
    print("| fusion | val accuracy | each seed | test accuracy | each seed | parameters |\n|---|---|---|---|---|---|")
    lines = []
    for fusion in FUSIONS:
        if runs := table.completed(out, fusion, seeds):
            told, means = [], []
            for split in ("val", "test"):
                scores = [one[split]["accuracy"] for one in runs]
                means.append(statistics.mean(scores))
                told += [f"{means[-1]:.3f}", " ".join(f"{score:.3f}" for score in scores)]
            lines.append(
                (means[0], f"| {fusion} | {' | '.join(told)} | {runs[0]['parameters']['fusion']['total']:,} |")
            )
    for _, line in sorted(lines, reverse=True):
        print(line)


if __name__ == "__main__":
    table.command(__doc__, FUSIONS, print_accuracy)
