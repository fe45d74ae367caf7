"""Every tuning method on the real clip-art rows: accuracy, trained share, step time and memory, as a table.

    python tools/bench/methods.py --shared ../shared --out FOLDER [--only full lora] [--seeds 3] [overrides]

Each run is `mmft train` of its own, by name, so that the command goes on where it was stopped and a completed run is
not made again; `--table` prints what there is and trains nothing. DINOv2-small and MiniLM at 112 pixels, 3 epochs.

Times are comparable only between runs on a machine that does nothing else. `--cost` runs a few steps of each method
in turns, several rounds, under names of their own, and prints medians against those of `full`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

METHODS = {
    "full": ["tune=full"],
    "lora": ["tune=lora", "tune.rank=8"],
    "lora_8bit": ["tune=lora_8bit", "tune.rank=8"],
    "lora_4bit": ["tune=lora_4bit", "tune.rank=8"],
    "loha": ["tune=loha"],
    "ia3": ["tune=ia3"],
    "adapters": ["tune=adapters"],
    "prompt": ["tune=prompt"],
    "prefix": ["tune=prefix"],
    "bitfit": ["tune=bitfit"],
    "norms": ["tune=norms"],
    "last_n": ["tune=last_n"],
    "first_frozen": ["tune=first_frozen"],
    "gradual": ["tune=gradual"],
    "head_only": ["tune=head_only"],
}
COST = ["trainer.max_steps=6", "data.limit=300", "data.columns.split=null"]
Summary = dict[str, Any]


def overrides(shared: Path) -> list[str]:
    """The rows and the encoders."""
    columns = {"image": "image", "text": "title", "label": "label", "split": "split", "id": "id", "group": "group"}
    return [
        f"data.path={shared / 'data/clipart/manifest.csv'}",
        *(f"data.columns.{role}={name}" for role, name in columns.items()),
        f"model.image_encoder.name={shared / 'encoders/dinov2-small-timm'}",
        "model.image_encoder.image_size=112",
        f"model.text_encoder.name={shared / 'encoders/minilm-l6'}",
        "model.text_encoder.max_length=32",
        "trainer.max_epochs=3",
        "callbacks.progress=none",
        "modality_report=false",
    ]


def run(out: Path, name: str, options: list[str]) -> None:
    """Makes a run, or goes on with it; a completed one is left as it is."""
    if found(out, name) is None:
        command = [sys.executable, "-m", "mmft", "train", f"paths.runs={out}", f"name={name}", "resume=last", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def found(out: Path, name: str) -> Summary | None:
    """The summary of the completed run of this name."""
    for path in sorted((out / name).glob("*/summary.json"), reverse=True):
        summary: Summary = json.loads(path.read_text())
        if summary["status"] == "completed":
            return summary
    return None


def print_accuracy(out: Path, seeds: int) -> None:
    """One line for each method that has a completed run."""
    print("| method | test accuracy | each seed | trained of image encoder | of text encoder |\n|---|---|---|---|---|")
    for method in METHODS:
        runs = [one for seed in range(seeds) if (one := found(out, f"{method}_{seed}"))]
        if runs:
            scores = [one["test"]["accuracy"] for one in runs]
            counts = runs[0]["parameters"]
            shares = [
                counts[tower]["trainable"] / counts[tower]["total"] for tower in ("image_encoder", "text_encoder")
            ]
            each = " ".join(f"{score:.3f}" for score in scores)
            told = " | ".join(f"{share:.2%}" for share in shares)
            print(f"| {method} | {statistics.mean(scores):.3f} | {each} | {told} |")


def print_cost(out: Path, methods: list[str], rounds: int) -> None:
    """Medians over the rounds against those of `full`."""
    print("| method | step, of full's | memory above what is there before | of full's |\n|---|---|---|---|")
    full: tuple[float, float] | None = None
    for method in ["full", *(name for name in methods if name != "full")]:
        runs = [one for number in range(rounds) if (one := found(out, f"cost_{method}_{number}"))]
        seconds = statistics.median(one["median_step_seconds"] for one in runs)
        grown = statistics.median(one["peak_memory_bytes"] - one["memory_before_fit_bytes"] for one in runs)
        full = full or (seconds, grown)
        print(f"| {method} | {seconds / full[0]:.2f} | {grown / 2**20:,.0f} MiB | {grown / full[1]:.2f} |", flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--cost", type=int, metavar="ROUNDS", default=0)
    parser.add_argument("overrides", nargs="*", help="for all runs, as after `mmft train`")
    args = parser.parse_args()
    options = [*overrides(args.shared.resolve()), *args.overrides]
    if args.cost:
        for number in range(args.cost):
            for method in dict.fromkeys(["full", *args.only]):
                run(args.out, f"cost_{method}_{number}", [*options, *METHODS[method], *COST])
        print_cost(args.out, args.only, args.cost)
        return
    for seed in range(0 if args.table else args.seeds):
        for method in args.only:
            run(args.out, f"{method}_{seed}", [*options, *METHODS[method], f"seed={seed}"])
    print_accuracy(args.out, args.seeds)


if __name__ == "__main__":
    main()
