"""Our optimizer step against the hand-written loop's, alternating in one process on the same batches.

    PYTHONPATH=tools:tools/bench python tools/bench/step.py --shared ../shared [--steps 40]

Ours is everything between two batches in `mmft train`: Lightning's loop, all callbacks, the step, the logging
of every tenth step. The loop's is `tools/bench/loop.py`'s `step`. The time in which batches are read is in
neither. Prints the medians and their ratio for real encoders (DINOv2-small, MiniLM; 112 px) and for encoders
of width 64 and two layers (32 px), where what surrounds the arithmetic weighs most.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import loop
from alternating import Alternating, train
from make_shapes import make_shapes
from tiny_encoders import make_image_encoder, make_text_encoder

from mmft.batch import Batch

WARM_UP = 5  # steps of each that do not count


def compare(
    overrides: list[str], image_encoder: Path, text_encoder: Path, size: int, steps: int
) -> tuple[float, float]:
    """Median seconds of our step and of the loop's."""
    loop.IMAGE_SIZE = size
    names = [f"model.image_encoder.name={image_encoder}", f"model.text_encoder.name={text_encoder}"]
    fixed = [f"model.image_encoder.image_size={size}", "model.text_encoder.max_length=32"]

    def made(batches: list[Batch]) -> Alternating:
        classes = 1 + max(int(batch.target.max()) for batch in batches if batch.target is not None)
        theirs = loop.build(image_encoder, text_encoder, classes, steps)
        theirs.model.train()  # transformers hands models out in eval mode, without dropout

        def step(batch: Batch) -> None:
            inputs: Any = batch.pixel_values, batch.input_ids, batch.attention_mask, batch.target
            loop.step(theirs, loop.Examples(*inputs))

        return Alternating(batches, step, steps)

    done = train([*overrides, *names, *fixed], 32, made)
    return statistics.median(done.ours[WARM_UP:]), statistics.median(done.theirs[WARM_UP:])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="the folder of rows and encoders; without it the small ones alone")
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        shapes = make_shapes(Path(scratch) / "shapes")
        captions = [line.split(",")[2] for line in shapes.rows.read_text().splitlines()[1:]]
        small = (
            make_image_encoder(Path(scratch) / "image", width=64),
            make_text_encoder(Path(scratch) / "text", captions, width=64),
        )
        cases = {"width 64, 2 layers": (shapes.of_rows, *small, 32, 10 * args.steps)}
        if args.shared is not None:
            columns = {"image": "image", "text": "title", "label": "label", "split": "split"}
            rows = [f"data.path={args.shared / 'data/clipart/manifest.csv'}"]
            rows += [f"data.columns.{role}={name}" for role, name in columns.items()]
            real = args.shared / "encoders/dinov2-small-timm", args.shared / "encoders/minilm-l6"
            cases["DINOv2-small, MiniLM"] = (rows, *real, 112, args.steps)
        for name, case in cases.items():
            ours, theirs = compare(*case)
            print(
                f"{name}: ours {ours * 1e3:.2f} ms, loop {theirs * 1e3:.2f} ms, ratio {ours / theirs:.3f}", flush=True
            )


if __name__ == "__main__":
    main()
