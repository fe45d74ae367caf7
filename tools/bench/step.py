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
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loop
from make_shapes import make_shapes
from tiny_encoders import make_image_encoder, make_text_encoder

from mmft.batch import Batch
from mmft.commands import train as program
from mmft.config.compose import compose
from mmft.data.datamodule import VisionLanguageData

WARM_UP = 5  # steps of each that do not count


class Alternating:
    """Our batches, a step of the loop before each of them.

    Attributes:
        ours: seconds between handing out a batch and being asked for the next one.
        theirs: seconds of the loop's step on the same batch.
    """

    def __init__(self, batches: list[Batch], theirs: loop.Loop, steps: int) -> None:
        self.batches, self.loop, self.steps = batches, theirs, steps
        theirs.model.train()  # transformers hands models out in eval mode, without dropout
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.steps):
            batch = self.batches[number % len(self.batches)]
            inputs: Any = batch.pixel_values, batch.input_ids, batch.attention_mask, batch.target
            examples = loop.Examples(*inputs)
            began = time.perf_counter()
            loop.step(self.loop, examples)
            self.theirs.append(time.perf_counter() - began)
            began = time.perf_counter()
            yield batch
            self.ours.append(time.perf_counter() - began)


def compare(
    overrides: list[str], image_encoder: Path, text_encoder: Path, size: int, steps: int
) -> tuple[float, float]:
    """Median seconds of our step and of the loop's."""
    loop.IMAGE_SIZE = size
    names = [f"model.image_encoder.name={image_encoder}", f"model.text_encoder.name={text_encoder}"]
    fixed = [f"model.image_encoder.image_size={size}", "model.text_encoder.max_length=32", "trainer.precision=32-true"]
    # One epoch of as many steps as we hand out; the rate is constant because the plan knows fewer.
    length = ["trainer.max_epochs=1", "schedule=constant", "schedule.warmup=0", "data.batch_size=32"]
    quiet = ["callbacks.progress=none", "modality_report=false"]
    composed = compose("train", [*overrides, *names, *fixed, *length, *quiet])
    made: list[Alternating] = []
    plain = VisionLanguageData.train_dataloader

    def alternating(self: VisionLanguageData) -> Any:
        batches = [batch for batch in plain(self) if len(batch) == 32]
        classes = 1 + max(int(batch.target.max()) for batch in batches if batch.target is not None)
        made.append(Alternating(batches, loop.build(image_encoder, text_encoder, classes, steps), steps))
        return made[0]

    VisionLanguageData.train_dataloader = alternating  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            program.train(composed, Path(folder) / "run")
    finally:
        VisionLanguageData.train_dataloader = plain  # type: ignore[method-assign]
    return statistics.median(made[0].ours[WARM_UP:]), statistics.median(made[0].theirs[WARM_UP:])


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
