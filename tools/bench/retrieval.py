"""Title <-> picture retrieval on the real clip-art rows: both losses, what is trained, and a hand-written CLIP loop.

    python tools/bench/retrieval.py --shared ../shared --out FOLDER [--only info_nce loop] [--seeds 3] [overrides]

Rows whose title is another row's too are left out. DINOv2-small and MiniLM at 112 pixels, 3 epochs. Each run is
`mmft train` (or `clip_loop.py`) of its own, by name, so that the command goes on where it was stopped; `--table`
trains nothing.
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

VARIANTS = {
    "info_nce": [],
    "sigmoid": ["task.loss=sigmoid"],
    "info_nce, picture frozen": ["tune/image_encoder=freeze"],
    "sigmoid, picture frozen": ["task.loss=sigmoid", "tune/image_encoder=freeze"],
    "info_nce, both frozen": ["tune=head_only"],
    "sigmoid, both frozen": ["task.loss=sigmoid", "tune=head_only"],
}
LOOP = "hand-written loop"
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


def of_loop(out: Path, seed: int) -> Path:
    """Where the hand-written loop's figures are kept."""
    return out / f"loop_{seed}.json"


def run_loop(shared: Path, out: Path, rows: Path, seed: int) -> None:
    """Runs it, unless it has been run."""
    if not of_loop(out, seed).exists():
        script = str(Path(__file__).with_name("clip_loop.py"))
        command = [sys.executable, script, "--shared", str(shared), "--table", str(rows), "--seed", str(seed)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        of_loop(out, seed).write_text(done.stdout.splitlines()[-1])


def run_name(variant: str, seed: int) -> str:
    """Of the run of a variant."""
    return f"{variant.replace(', ', '_').replace(' ', '_')}_{seed}"


def print_table(out: Path, seeds: int) -> None:
    """Mean test figures of each variant that has runs, and the mean recall of each seed."""
    print(f"| what | {' | '.join(SHOWN)} | mean_recall of each seed |\n|---|{'---|' * (len(SHOWN) + 1)}")
    for variant in [*VARIANTS, LOOP]:
        found: list[dict[str, Any]] = []
        for seed in range(seeds):
            if variant == LOOP and of_loop(out, seed).exists():
                found.append(json.loads(of_loop(out, seed).read_text()))
            elif variant != LOOP and (summary := table.found(out, run_name(variant, seed))):
                found.append(summary)
        if found:
            means = [f"{statistics.mean(one['test'][name] for one in found):.3f}" for name in SHOWN]
            each = " ".join(f"{one['test']['mean_recall']:.3f}" for one in found)
            print(f"| {variant} | {' | '.join(means)} | {each} |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=[*VARIANTS, LOOP], default=[*VARIANTS, LOOP])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("overrides", nargs="*", help="for all runs of mmft, as after `mmft train`")
    args = parser.parse_args()
    shared, out = args.shared.resolve(), args.out.resolve()
    kept = distinct(shared, out)
    rows = [f"data.path={kept}", f"data.root={shared / 'data/clipart'}", "task=contrastive"]
    for seed in range(0 if args.table else args.seeds):
        for variant in args.only:
            if variant == LOOP:
                run_loop(shared, out, kept, seed)
            else:
                options = [*table.overrides(shared)[1:], *rows, *VARIANTS[variant], f"seed={seed}", *args.overrides]
                table.run(out, run_name(variant, seed), options)
    print_table(out, args.seeds)


if __name__ == "__main__":
    main()
