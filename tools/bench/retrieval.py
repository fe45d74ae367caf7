"""Title <-> image retrieval on the real clip-art rows: both losses, what is trained, and a hand-written CLIP loop.

    python tools/bench/retrieval.py --shared ../shared --out FOLDER [--only info_nce sigmoid] [--seeds 3] [overrides]

Rows whose title is another row's too are left out. DINOv2-small and MiniLM at 112 pixels, 3 epochs. Each run is
`mmft train` (or `clip_loop.py`) of its own, by name, so that the command goes on where it was stopped; `--table`
trains nothing.

`RECIPE` was chosen by the validation rows, with seed 0 of info_nce: mean recall 0.295; at the default rate and no decay
0.253, at twice its rate 0.274. The loop is run at its own rate and at the recipe's, which is too high without decay.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import table

RECIPE = ["optim.lr=1e-4", "optim.layer_decay=0.8"]
VARIANTS = {
    "info_nce": RECIPE,
    "sigmoid": ["task.loss=sigmoid", *RECIPE],
    "info_nce, image frozen": ["tune/image_encoder=freeze", *RECIPE],
    "sigmoid, image frozen": ["task.loss=sigmoid", "tune/image_encoder=freeze", *RECIPE],
    "info_nce, both frozen": ["tune=head_only"],
    "sigmoid, both frozen": ["task.loss=sigmoid", "tune=head_only"],
}
LOOPS = {"hand-written loop": [], "hand-written loop, lr 1e-4": ["--lr", "1e-4"]}
SHOWN = ("mean_recall", "image_to_text/recall@1", "text_to_image/recall@1", "text_to_image/recall@10")


def distinct(shared: Path, out: Path) -> Path:
    """The table of rows with a title of their own."""
    with (shared / "data/clipart/manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    titles = Counter(row["title"] for row in rows)
    kept = out / "distinct.csv"
    out.mkdir(parents=True, exist_ok=True)
    with kept.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row for row in rows if titles[row["title"]] == 1)
    return kept


def of_loop(out: Path, name: str, seed: int) -> Path:
    """Where a hand-written loop's figures are kept."""
    return out / f"{run_name(name, seed)}.json"


def run_loop(shared: Path, out: Path, rows: Path, name: str, seed: int) -> None:
    """Runs it, unless it has been run."""
    if not of_loop(out, name, seed).exists():
        script = str(Path(__file__).with_name("clip_loop.py"))
        command = [sys.executable, script, "--shared", str(shared), "--table", str(rows), "--seed", str(seed)]
        done = subprocess.run([*command, *LOOPS[name]], check=True, capture_output=True, text=True)
        of_loop(out, name, seed).write_text(done.stdout.splitlines()[-1])


def run_name(variant: str, seed: int) -> str:
    """Of the run of a variant."""
    return f"{variant.replace(', ', '_').replace(' ', '_')}_{seed}"


def print_table(out: Path, seeds: int) -> None:
    """Mean test figures of each variant that has runs, and the mean recall of each seed."""
    print(f"| what | {' | '.join(SHOWN)} | mean_recall of each seed | on val |\n|---|{'---|' * (len(SHOWN) + 2)}")
    for variant in [*VARIANTS, *LOOPS]:
        found: list[dict[str, Any]] = []
        for seed in range(seeds):
            if variant in LOOPS and of_loop(out, variant, seed).exists():
                found.append(json.loads(of_loop(out, variant, seed).read_text()))
            elif variant in VARIANTS and (summary := table.found(out, run_name(variant, seed))):
                found.append(summary)
        if found:
            means = [f"{statistics.mean(one['test'][name] for one in found):.3f}" for name in SHOWN]
            each, val = (" ".join(f"{one[split]['mean_recall']:.3f}" for one in found) for split in ("test", "val"))
            print(f"| {variant} | {' | '.join(means)} | {each} | {val} |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=[*VARIANTS, *LOOPS], default=[*VARIANTS, *LOOPS])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("overrides", nargs="*", help="for all runs of mmft, as after `mmft train`")
    args = parser.parse_args()
    shared, out = args.shared.resolve(), args.out.resolve()
    kept = distinct(shared, out)
    rows = [f"data.path={kept}", f"data.root={shared / 'data/clipart'}", "task=contrastive"]
    for seed in range(0 if args.table else args.seeds):
        for variant in args.only:
            if variant in LOOPS:
                run_loop(shared, out, kept, variant, seed)
            else:
                options = [*table.overrides(shared)[1:], *rows, *VARIANTS[variant], f"seed={seed}"]
                table.run(out, run_name(variant, seed), [*options, *args.overrides])
    print_table(out, args.seeds)


if __name__ == "__main__":
    main()
