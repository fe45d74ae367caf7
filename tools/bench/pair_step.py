r"""A step of `mmft train model.pair=FOLDER` against one of the plain loop of transformers: time and peak memory.

    PYTHONPATH=tools:tools/bench python tools/bench/pair_step.py FOLDER --table rows.parquet [--batch 256] [--steps 12]

The steps of both alternate in one process on the same decoded batches, see `tools/bench/step.py`; medians are compared.
Memory is the largest resident size of a process that makes three steps of one alone, its imports included (so mmft is
imported late), measured twice in turns.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import alternating
import loop
import pair_loop
import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer

if TYPE_CHECKING:
    from mmft.batch import Batch

WARM_UP, MEMORY_STEPS = 2, 3


def theirs_alone(args: argparse.Namespace) -> None:
    """Steps of the loop on the first rows of the table."""
    rows = pq.read_table(args.table, columns=["image", "title"]).slice(0, args.batch).to_pydict()
    side = json.loads((args.pair / "preprocessor_config.json").read_text(encoding="utf-8"))["size"]["height"]
    pixels = torch.stack([loop.image(io.BytesIO(data), side) for data in rows["image"]])
    tokens = AutoTokenizer.from_pretrained(args.pair)(rows["title"], padding=True, return_tensors="pt")
    theirs = pair_loop.build(args.pair, args.steps, lr=1e-5)
    for _ in range(args.steps):
        pair_loop.step(theirs, pixels, tokens["input_ids"], tokens["attention_mask"])


def run(args: argparse.Namespace, both: bool) -> alternating.Alternating:
    """So many steps of `mmft train`, those of the loop between them if `both`."""

    def made(batches: list[Batch]) -> alternating.Alternating:
        theirs = pair_loop.build(args.pair, args.steps, lr=1e-5) if both else None

        def step(batch: Batch) -> None:
            inputs: Any = batch.pixel_values, batch.input_ids, batch.attention_mask
            pair_loop.step(theirs, *inputs)  # type: ignore[arg-type]

        return alternating.Alternating(batches[:2], step if both else None, args.steps)

    rows = [f"data.path={args.table}", "data.columns.image=image", "data.columns.text=title", "task=contrastive"]
    typed = [f"model.pair={args.pair}", *rows, f"data.limit={3 * args.batch}", "optim.lr=1e-5"]
    return alternating.train(typed, args.batch, made)


def peak(args: argparse.Namespace, what: str) -> int:
    """Bytes: the largest resident size of a process of its own."""
    given = [str(args.pair), "--table", str(args.table), "--batch", str(args.batch), "--steps", str(MEMORY_STEPS)]
    command = [sys.executable, __file__, *given, "--only", what]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", type=Path)
    parser.add_argument("--table", type=Path, required=True, help="rows with the columns image and title")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", choices=["ours", "theirs"], help="run this alone and print its peak memory")
    args = parser.parse_args()
    if args.only:
        theirs_alone(args) if args.only == "theirs" else run(args, both=False)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    made = run(args, both=True)
    ours, theirs = (statistics.median(seconds[WARM_UP:]) for seconds in (made.ours, made.theirs))
    print(f"step: ours {ours:.3f} s, loop {theirs:.3f} s, ratio {ours / theirs:.3f}", flush=True)
    peaks = [(peak(args, "ours"), peak(args, "theirs")) for _ in range(2)]
    ours, theirs = (statistics.median(each) for each in zip(*peaks, strict=True))
    print(f"peak memory: ours {ours / 2**30:.2f} GiB, loop {theirs / 2**30:.2f} GiB, ratio {ours / theirs:.3f}")


if __name__ == "__main__":
    main()
