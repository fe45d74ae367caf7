"""LoRA on a language model in 32, 8 and 4 bits: bytes of its linear layers, and the loss after some steps, as a table.

    python tools/bench/quantized_language_model.py --model FOLDER --out FOLDER [--steps 100] [--seeds 0 1 2] [overrides]

The rows are the shipped clip art with the question what kind of drawing it is, and the shipped image encoder. The loss
is that of 5 % of the rows that are kept from training, the same ones for every method of a seed. Runs in the folder
`--out` that are finished are not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.run.saved_model import load_model
from mmft.tuning.quantize import is_quantized, weight_bytes

METHODS = ("lora", "lora_8bit", "lora_4bit")
ROWS = [
    "data=clipart",
    "data.columns.text=null",
    "data.columns.label=category",
    "data.columns.split=null",
    "data.fractions.train=0.95",
    "data.fractions.val=0.05",
    "data.fractions.test=0",
    "task=generation",
    "task.prompt='What kind of drawing is this?'",
    "task.chat_template=none",
    "task.max_new_tokens=6",
    "task.validation_rows=1",
    "data.batch_size=4",
    "data.limit=400",
    "model/fusion=projector",
    "model.fusion.tokens=pooled",
    "model.image_encoder.name=mmft:dinov2-tiny",
    "tune/image_encoder=freeze",
    "checkpoint.use=last",
    "callbacks.progress=none",
    "modality_report=false",
]


def measure(method: str, model: str, out: Path, more: list[str]) -> tuple[float, float]:
    """The last validation loss of a run in the folder `out`, and its linear layers' bytes over those in float32."""
    summary = out / "summary.json"
    if not summary.exists() or json.loads(summary.read_text())["status"] != "completed":
        typed = [*ROWS, f"model.text_encoder.name={model}", f"tune/text_encoder={method}", *more]
        assert train(compose("train", typed), out) == 0
    loss = json.loads(summary.read_text())["val"]["loss"]
    encoder = load_model(out / "model").model.text_encoder
    own, plain = weight_bytes(encoder) if is_quantized(encoder) else (1, 1)
    return float(loss), own / plain


def shown(name: str, losses: list[float], share: float, plain: list[float]) -> str:
    """A row of the table: mean and deviation over seeds, and the mean of the differences from LoRA, seed by seed."""
    ratios = [loss / other - 1 for loss, other in zip(losses, plain, strict=True)]
    deviations = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in (losses, ratios)]
    return (
        f"| {name} | {share:.3f} | {statistics.mean(losses):.4f} +- {deviations[0]:.4f} | "
        f"{statistics.mean(ratios):+.1%} +- {deviations[1]:.1%} |"
    )


def main() -> None:
    """Trains whichever runs are missing, and prints the table after each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or name of a causal language model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments, more = parser.parse_known_args()
    losses: dict[str, list[float]] = {method: [] for method in METHODS}
    shares: dict[str, float] = {}
    for seed in arguments.seeds:
        typed = [f"trainer.max_steps={arguments.steps}", f"seed={seed}", *more]
        for method in METHODS:
            out = arguments.out / f"{method}_{seed}"
            loss, shares[method] = measure(method, arguments.model, out, typed)
            losses[method].append(loss)
        print(
            f"\n| method | linear bytes of float32 | loss, {len(losses['lora'])} seeds | of LoRA's |\n|---|---|---|---|"
        )
        for method in METHODS:
            print(shown(method, losses[method], shares[method], losses["lora"]), flush=True)


if __name__ == "__main__":
    main()
