r"""What a pretrained pair is worth on the real clip-art rows: retrieval, WiSE-FT, few labels.

    PYTHONPATH=tools:tools/bench python tools/bench/pairs.py retrieval|wise_ft|few_labels FOLDER --shared ../shared \
        --out RUNS [--seeds 3] [--rows rows.parquet] [--table] [overrides]

retrieval   3 epochs on titles and images from the pair, from its encoders with random projections, and from the pair in
            a plain loop of transformers; at equal batches, layers, rates and epochs, on rows with distinct titles
wise_ft     what `checkpoint.use=wise_ft` keeps on the validation rows of `--rows`
few_labels  a classifier of images on frozen encoders from 1 to 16 rows per class, its head from prompts or at random

Each run is `mmft train` of its own, by name, see `table.py`; `--table` trains nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import retrieval
import table
import torch

from mmft.training.hardware import has_bf16

IMAGE_LAYERS, BATCH, LR = 2, 64, "1e-4"
ROWS_PER_CLASS, HEADS = (1, 2, 4, 8, 16), ("random", "prompts")
FEW_STEPS, HEAD_LR = 30, 0.1  # a head on embeddings of length 1; the best of five rates for both heads
WISE = ["checkpoint.use=wise_ft", "checkpoint.alpha=[0.5,0.6,0.7,0.8,0.9]"]  # chosen by the validation rows
ENDS = {"pair": [], "wise": WISE, "tolerant": [*WISE, "checkpoint.alpha_tolerance=0.01"]}
"""How a fine-tuned pair ends: as it is, interpolated with the best alpha, or with the smallest within a point of it."""
STARTS = ("pair", "random", "loop")
TEMPLATES = "['{}','a drawing of {}','an icon of {}']"
QUIET = ["callbacks.progress=none", "modality_report=false", "trainer.max_epochs=3"]


class Bench:
    """The pair, the rows and where runs are kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        folders: list[Path] = [args.pair, args.out, args.shared]
        self.pair, self.out, self.shared = [folder.resolve() for folder in folders]
        self.seeds, self.extra, self.only = args.seeds, args.overrides, args.only
        self.rows_of_pair = args.rows
        self.distinct = retrieval.distinct(self.shared, self.out)
        self.images = self.shared / "data/clipart"

    def rows(self, path: Path) -> list[str]:
        """A table of clip art."""
        columns = {"image": "image", "split": "split", "id": "id"}
        return [f"data.path={path}", f"data.root={self.images}"] + [f"data.columns.{k}={v}" for k, v in columns.items()]

    def contrastive(self, seed: int) -> list[str]:
        """What all runs on titles share."""
        trained = ["tune/image_encoder=last_n", f"tune.image_encoder.layers={IMAGE_LAYERS}", "tune/text_encoder=full"]
        fixed = ["task=contrastive", "data.columns.text=title", f"data.batch_size={BATCH}", f"optim.lr={LR}"]
        return [*self.rows(self.distinct), *fixed, *trained, f"seed={seed}", *QUIET, *self.extra]

    def retrieval(self, seed: int) -> None:
        """The runs of a seed."""
        encoders = self.shared / "encoders"
        names = [f"model.image_encoder.name={encoders / 'dinov2-small'}", "model.image_encoder.image_size=112"]
        names += [f"model.text_encoder.name={encoders / 'minilm-l6'}", "model/fusion=dual", "model.fusion.width=384"]
        if "pair" in self.only:
            table.run(self.out, f"pair_{seed}", [f"model.pair={self.pair}", *self.contrastive(seed)])
        if "random" in self.only:
            table.run(self.out, f"random_{seed}", [*names, *self.contrastive(seed)])
        kept = self.out / f"loop_{seed}.json"
        if "loop" in self.only and not kept.exists():
            script = [sys.executable, str(Path(__file__).with_name("pair_loop.py")), str(self.pair)]
            rows = ["--table", str(self.distinct), "--images", str(self.images), "--seed", str(seed)]
            how = ["--batch", str(BATCH), "--lr", LR, "--image-layers", str(IMAGE_LAYERS)]
            how += ["--bf16"] if has_bf16(torch.device("cpu")) else []  # as trainer.precision=auto
            done = subprocess.run([*script, *rows, *how], check=True, stdout=subprocess.PIPE, text=True, env=_paths())
            kept.write_text(done.stdout.splitlines()[-1])

    def wise_ft(self, seed: int) -> None:
        """Fine-tuning that ends on the way, and both on the rows elsewhere."""
        self._elsewhere()
        for what, options in ENDS.items():
            name = f"{what}_{seed}"
            table.run(self.out, name, [f"model.pair={self.pair}", *self.contrastive(seed), *options])
            self._tested(name, f"run={table.finished(self.out, name)}")
        self._tested("start", f"model.pair={self.pair}")

    def _tested(self, name: str, *model: str) -> None:
        kept = self.out / f"elsewhere_{name}.txt"
        if not kept.exists():
            rows = [
                f"data.path={self.out / 'elsewhere.parquet'}",
                "data.columns.image=image",
                "data.columns.text=title",
            ]
            command = [sys.executable, "-m", "mmft", "test", *model, *rows]
            kept.write_text(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    def _elsewhere(self) -> None:
        """The validation images of the pair's own rows, each with its first title, which no other image has."""
        table_ = pq.read_table(self.rows_of_pair)
        columns = table_.select(["title", "split", "group"]).to_pydict()
        first: dict[str, int] = {}
        for number, group in enumerate(columns["group"]):
            if columns["split"][number] == "val":
                first.setdefault(group, number)
        by_title = {columns["title"][number]: number for number in reversed(first.values())}
        kept = table_.take(sorted(by_title.values())).select(["image", "title"])
        kept = kept.append_column("id", pa.array(range(len(kept)))).append_column(
            "split", pa.array(["test"] * len(kept))
        )
        pq.write_table(kept, self.out / "elsewhere.parquet")

    def few_labels(self, seed: int) -> None:
        """A run for each number of rows per class and each head."""
        for count in ROWS_PER_CLASS:
            path = self._few(count, seed)
            for head in HEADS:
                prompts = [f"task.templates={TEMPLATES}"] if head == "prompts" else []
                task = ["task=classification", "data.columns.label=label", f"task.head_init={head}", *prompts]
                frozen = [
                    "tune=freeze",
                    "tune.fusion=freeze",
                    f"optim.head_lr={HEAD_LR}",
                    "data.batch_size=32",
                    "checkpoint.use=last",
                ]
                options = [f"model.pair={self.pair}", *self.rows(path), *task, *frozen, *QUIET[:2]]
                length = [f"trainer.max_epochs={FEW_STEPS}", f"trainer.max_steps={FEW_STEPS}", f"seed={seed}"]
                table.run(self.out, f"few_{count}_{head}_{seed}", [*options, *length, *self.extra])

    def _few(self, count: int, seed: int) -> Path:
        """The table with so many training rows of each class and all test rows."""
        path = self.out / f"few_{count}_{seed}.csv"
        with (self.images / "manifest.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        random.Random(seed).shuffle(rows)
        taken: dict[str, int] = defaultdict(int)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                taken[row["label"]] += row["split"] == "train"
                if row["split"] == "test" or (row["split"] == "train" and taken[row["label"]] <= count):
                    writer.writerow(row)
        return path


def _paths() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


def print_retrieval(bench: Bench) -> None:
    """Mean of six recalls on the test rows."""
    for what in STARTS:
        runs: list[Any] = []
        for seed in range(bench.seeds):
            kept = bench.out / f"loop_{seed}.json"
            of_loop = json.loads(kept.read_text()) if what == "loop" and kept.exists() else None
            runs.append(of_loop if what == "loop" else table.found(bench.out, f"{what}_{seed}"))
        values = [run["test"]["mean_recall"] for run in runs if run]
        if values:
            print(f"| {what} | {spread(values)} | {' '.join(f'{value:.3f}' for value in values)} |")


def print_wise_ft(bench: Bench) -> None:
    """Mean of six recalls on clip art and elsewhere, and the alphas that were chosen."""
    for what in ("start", *ENDS):
        names = ["start"] if what == "start" else [f"{what}_{seed}" for seed in range(bench.seeds)]
        files = [bench.out / f"elsewhere_{name}.txt" for name in names]
        lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
        there = [float(line.split()[1]) for line in lines if line.startswith("mean_recall ")]
        runs = [run for name in names if (run := table.found(bench.out, name))]
        here = spread([run["test"]["mean_recall"] for run in runs]) if runs else ""
        alphas = " ".join(str(run["alpha"]) for run in runs if "alpha" in run)
        print(f"| {what} | {here} | {spread(there) if there else ''} | {alphas} |")


def print_few_labels(bench: Bench) -> None:
    """Test accuracy by rows per class and head."""
    for count in ROWS_PER_CLASS:
        cells = []
        for head in HEADS:
            runs = [table.found(bench.out, f"few_{count}_{head}_{seed}") for seed in range(bench.seeds)]
            values = [run["test"]["accuracy"] for run in runs if run]
            cells.append(spread(values) if values else "")
        print(f"| {count} | {' | '.join(cells)} |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["retrieval", "wise_ft", "few_labels"])
    parser.add_argument("pair", type=Path)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="what the pair was trained on, for wise_ft, which takes split `val`")
    parser.add_argument("--only", nargs="*", choices=STARTS, default=STARTS, help="for retrieval")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("overrides", nargs="*", help="for all runs of mmft, as after `mmft train`")
    bench = Bench(args := parser.parse_intermixed_args())
    for seed in range(0 if args.table else args.seeds):
        getattr(bench, args.what)(seed)
    {"retrieval": print_retrieval, "wise_ft": print_wise_ft, "few_labels": print_few_labels}[args.what](bench)


if __name__ == "__main__":
    main()
