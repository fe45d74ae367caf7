"""Every tuning method on the real clip-art rows: accuracy, trained share, step time and memory, as a table.

    python tools/bench/methods.py --shared ../shared --out FOLDER [--only full lora] [--seeds 3] [--cost 3] [overrides]

See `table.py` for what the options do.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import table

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


def print_accuracy(out: Path, seeds: int) -> None:
    """One line for each method that has a completed run."""
    print("| method | test accuracy | each seed | trained of image encoder | of text encoder |\n|---|---|---|---|---|")
    for method in METHODS:
        if runs := table.completed(out, method, seeds):
            scores = [one["test"]["accuracy"] for one in runs]
            counts = runs[0]["parameters"]
            shares = [
                counts[encoder]["trainable"] / counts[encoder]["total"] for encoder in ("image_encoder", "text_encoder")
            ]
            each = " ".join(f"{score:.3f}" for score in scores)
            told = " | ".join(f"{share:.2%}" for share in shares)
            print(f"| {method} | {statistics.mean(scores):.3f} | {each} | {told} |")


if __name__ == "__main__":
    table.command(__doc__, METHODS, print_accuracy, no_cost=["gradual"])  # of `head_only`'s first, of `full`'s at last
