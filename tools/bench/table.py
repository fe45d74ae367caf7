"""What the tables of runs on the real clip-art rows share: one run for each choice and seed, and what they cost.

Each run is `mmft train` of its own, by name, so that a command goes on where it was stopped and a completed run is not
made again; `--table` prints what there is and trains nothing. DINOv2-small and MiniLM at 112 pixels, 3 epochs.

244 validation rows tell little: one standard error of an accuracy is 2.5 points. `--folds 5` makes one run for each
fold of the train and val rows instead of one for each seed; so every row is validated on once.

Times are comparable only between runs on a machine that does nothing else. `--cost` runs a few steps of each choice in
turns, several rounds, under names of their own, and prints medians against those of the first choice.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

COST = ["trainer.max_steps=6", "data.limit=300", "data.columns.split=null"]
Summary = dict[str, Any]
Choices = Mapping[str, list[str]]
Print = Callable[[Path, int], None]


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
    folder = finished(out, name)
    return None if folder is None else json.loads((folder / "summary.json").read_text())


def finished(out: Path, name: str) -> Path | None:
    """The folder of the completed run of this name."""
    for path in sorted((out / name).glob("*/summary.json"), reverse=True):
        if json.loads(path.read_text())["status"] == "completed":
            return path.parent
    return None


def completed(out: Path, name: str, count: int) -> list[Summary]:
    """The summaries of a choice's completed runs, of whatever they are numbered by."""
    return [one for number in range(count) if (one := found(out, f"{name}_{number}"))]


def print_folds(out: Path, choices: Choices, folds: int) -> None:
    """Accuracy of each choice on each fold, and by how much it is above the first's, with its standard error."""
    scores = {name: [one["val"]["accuracy"] for one in completed(out, f"{name}_fold", folds)] for name in choices}
    first = next(iter(choices))
    print(f"| what | mean accuracy of {folds} folds | each | above {first}'s | standard error |\n|---|---|---|---|---|")
    for name, mine in scores.items():
        if len(mine) == len(scores[first]) == folds:
            above = [one - its for one, its in zip(mine, scores[first], strict=True)]
            each = " ".join(f"{score:.3f}" for score in mine)
            told = f"{statistics.mean(above):+.3f} | {statistics.stdev(above) / folds**0.5:.3f}"
            print(f"| {name} | {statistics.mean(mine):.3f} | {each} | {told} |")


def print_cost(out: Path, names: Sequence[str], rounds: int) -> None:
    """Medians over the rounds against those of the first name."""
    first = names[0]
    print(f"| what | step, of {first}'s | memory above what is there before | of {first}'s |\n|---|---|---|---|")
    of_first: tuple[float, float] | None = None
    for name in names:
        runs = completed(out, f"cost_{name}", rounds)
        seconds = statistics.median(one["median_step_seconds"] for one in runs)
        grown = statistics.median(one["peak_memory_bytes"] - one["memory_before_fit_bytes"] for one in runs)
        of_first = of_first or (seconds, grown)
        told = f"{seconds / of_first[0]:.2f} | {grown / 2**20:,.0f} MiB | {grown / of_first[1]:.2f}"
        print(f"| {name} | {told} |", flush=True)


def command(doc: str | None, choices: Choices, print_accuracy: Print, no_cost: Sequence[str] = ()) -> None:
    """The command of a table.

    Args:
        doc: what `--help` says.
        choices: by name, what is typed for it. The first is what the costs of the others are compared with.
        print_accuracy: prints one line for each choice that has a completed run, by folder and number of seeds.
        no_cost: choices whose first steps tell nothing of what the others cost.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(choices), default=list(choices))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--cost", type=int, metavar="ROUNDS", default=0)
    parser.add_argument("overrides", nargs="*", help="for all runs, as after `mmft train`")
    args = parser.parse_args()
    options = [*overrides(args.shared.resolve()), *args.overrides]
    if args.cost:
        names = [name for name in dict.fromkeys([next(iter(choices)), *args.only]) if name not in no_cost]
        for number in range(args.cost):
            for name in names:
                run(args.out, f"cost_{name}_{number}", [*options, *choices[name], *COST])
        print_cost(args.out, names, args.cost)
        return
    for number in range(0 if args.table else args.folds or args.seeds):
        for name in args.only:
            if args.folds:
                held_out = [f"data.folds={args.folds}", f"data.fold={number}"]
                run(args.out, f"{name}_fold_{number}", [*options, *choices[name], *held_out])
            else:
                run(args.out, f"{name}_{number}", [*options, *choices[name], f"seed={number}"])
    if args.folds:
        print_folds(args.out, choices, args.folds)
    else:
        print_accuracy(args.out, args.seeds)
