"""LoRA on a language model in 32, 8 and 4 bits: bytes of its linear layers, and the loss after some steps, as a table.

    python tools/bench/quantized_language_model.py --model FOLDER --out FOLDER [--steps 100] [overrides]

The rows are the shipped clip art with the question what kind of drawing it is, and the shipped image encoder.
"""

from __future__ import annotations

import argparse
import json
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
    "task=generation",
    "task.prompt='What kind of drawing is this?'",
    "task.chat_template=none",
    "task.max_new_tokens=6",
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
    """The test loss of a run in the folder `out`, and the bytes of the linear layers over those in float32."""
    if not (out / "summary.json").exists():
        typed = [*ROWS, f"model.text_encoder.name={model}", f"tune/text_encoder={method}", *more]
        assert train(compose("train", typed), out) == 0
    loss = json.loads((out / "summary.json").read_text())["test"]["loss"]
    encoder = load_model(out / "model").model.text_encoder
    own, plain = weight_bytes(encoder) if is_quantized(encoder) else (1, 1)
    return float(loss), own / plain


def main() -> None:
    """Trains whichever runs are missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or name of a causal language model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=100)
    arguments, more = parser.parse_known_args()
    found = {
        method: measure(
            method, arguments.model, arguments.out / method, [f"trainer.max_steps={arguments.steps}", *more]
        )
        for method in METHODS
    }
    print("| method | linear bytes of float32 | test loss | of LoRA's |\n|---|---|---|---|")
    for method, (loss, share) in found.items():
        print(f"| {method} | {share:.3f} | {loss:.4f} | {loss / found['lora'][0] - 1:+.1%} |")


if __name__ == "__main__":
    main()
