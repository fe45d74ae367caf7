r"""A training step with the output of frozen layers read from the store, against the same step without the store.

    PYTHONPATH=tools/bench python tools/bench/frozen_layers.py --layers 6 9 11 -- data.path=ROWS ... tune.layers ...

Everything after `--` is typed to `mmft train` (rows, encoders, image size). For each number of frozen layers of both
encoders, steps with and without stored values alternate in one process on the same rows, each after the forward pass of
the frozen layers alone. The ideal gain is that pass; reading the values is counted as part of the step. Medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any

import alternating
import torch

if TYPE_CHECKING:
    from mmft.batch import Batch

WARM_UP = 4


def measured(layers: int, typed: list[str], batch_size: int, steps: int) -> tuple[float, float, float, float]:
    """Seconds of a step without the store, of one with it, of reading, and of the frozen layers alone."""
    from mmft.data.datamodule import VisionLanguageData
    from mmft.training.module import FineTuning

    found: dict[str, Any] = {}
    fit = FineTuning.on_fit_start

    def noted(self: FineTuning) -> None:
        found["module"] = self
        fit(self)

    def made(batches: list[Batch]) -> alternating.Alternating:
        module = found["module"]
        data: VisionLanguageData = module.trainer.datamodule
        rows, collate = data.datasets["train"], data._collates["train"]
        where = {row: at for at, row in enumerate(rows.split.rows.tolist())}
        positions = [[where[row] for row in batch.row.tolist()] for batch in batches[:4]]
        began = time.perf_counter()
        for some in positions:
            for one in rows.stored.values():
                one.read(some, 0)
        found["reading"] = (time.perf_counter() - began) / len(positions)
        stored = dict(rows.stored)
        rows.stored = {}
        collate.stored = {}
        plain = [collate([rows[at] for at in some]) for some in positions]
        rows.stored = collate.stored = stored
        turns = [one for pair in zip(plain, batches[:4], strict=True) for one in pair]

        def frozen(batch: Batch) -> None:
            if batch.pixel_values is None:
                return
            parts = module.model.frozen_parts
            parts["image_encoder"].compute((batch.pixel_values,))
            parts["text_encoder"].compute((batch.input_ids, batch.attention_mask))

        return alternating.Alternating(turns, frozen, 2 * steps)

    FineTuning.on_fit_start = noted  # type: ignore[method-assign]
    try:
        image, text = (f"tune.{name}.layers" for name in ("image_encoder", "text_encoder"))
        tuned = ["tune=first_frozen", f"{image}={layers}", f"{text}={layers // 2}", "cache=always"]
        timed = alternating.train([*typed, *tuned, f"data.limit={5 * batch_size}"], batch_size, made)
    finally:
        FineTuning.on_fit_start = fit  # type: ignore[method-assign]
    without, with_store = timed.ours[WARM_UP::2], timed.ours[WARM_UP + 1 :: 2]
    alone = timed.theirs[WARM_UP::2]
    return (*(statistics.median(one) for one in (without, with_store)), found["reading"], statistics.median(alone))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 9, 11], help="frozen of the image encoder")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("typed", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| frozen layers | step | with the store | reading | frozen layers alone | share of the ideal gain |")
    print("|---|---|---|---|---|---|")
    for layers in args.layers:
        step, stored, reading, ideal = measured(layers, args.typed, args.batch, args.steps)
        share = (step - stored - reading) / ideal
        cells = [f"{1e3 * one:.0f} ms" for one in (step, stored, reading, ideal)]
        print("|", " | ".join([str(layers), *cells, f"{share:.2f}"]), "|", flush=True)


if __name__ == "__main__":
    main()
