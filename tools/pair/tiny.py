r"""The pair that mmft ships, `mmft:pair-tiny`: its two shipped encoders, trained on the rows of the larger pair.

    python tools/pair/start.py OUT/tiny_start --side 96 --rows OUT/rows.parquet \
        --wordnet OUT/src/deb/wordnet-base/usr/share/wordnet \
        --image-encoder mmft/samples/dinov2-tiny --text-encoder mmft/samples/minilm-tiny
    python tools/pair/align.py OUT/tiny_aligned --start OUT/tiny_start --rows OUT/apart.parquet --epochs 0
    mmft train name=tiny paths.runs=OUT/runs task=contrastive data.path=OUT/apart.parquet data.batch_size=256 \
        data.columns.image=image data.columns.text=title data.columns.split=split data.columns.group=group \
        model.pair=OUT/tiny_aligned tune=full trainer.max_steps=500 optim.lr=3e-4 tune.fusion_lr=1e-3 \
        schedule.warmup=0.05 data.augment.crop=0.6 trainer.precision=32-true modality_report=false
    mmft export run=OUT/runs/tiny/... format=transformers out=OUT/tiny
    python tools/pair/tiny.py OUT/tiny OUT/pair-tiny

The last line writes it in half precision. mmft/samples/NOTICE says what it was shown.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers as hf

KEPT = ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pair", type=Path, help="folder of a pair of transformers")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    pair = hf.VisionTextDualEncoderModel.from_pretrained(given.pair, dtype=torch.float16)
    config: Any = pair.config
    config.text_config._name_or_path = config.vision_config._name_or_path = ""  # where it was made
    pair.save_pretrained(given.out)
    (given.out / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner can read
    for name in KEPT:
        shutil.copy(given.pair / name, given.out)
    print(f"{sum(file.stat().st_size for file in given.out.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
