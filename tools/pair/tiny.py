r"""Makes a tiny pair: the tiny encoders of a start folder learn what the encoders of a trained pair answer.

    python tools/pair/start.py OUT/tiny_start --side 96 --rows OUT/rows.parquet --wordnet OUT/src/... \
        --image-encoder mmft/samples/dinov2-tiny --text-encoder mmft/samples/minilm-tiny
    python tools/pair/tiny.py images OUT/tiny_images --start OUT/tiny_start --rows OUT/rows.parquet \
        --features OUT/start.images.npy
    python tools/pair/tiny.py texts OUT/tiny --start OUT/tiny_images --rows OUT/rows.parquet --teacher OUT/aligned

First the image encoder learns the features of the teacher's image encoder, which align.py computed, and so need not
wait for the teacher. Then the text encoder learns the teacher's embeddings of the titles, and the teacher's projection
is put behind the image encoder's. The second folder is in half precision.
"""

from __future__ import annotations

import argparse
import io
import math
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from pair.align import Learner, read
from pair.vision import half_precision

IMAGE_BATCH, TEXT_BATCH = 64, 256


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["images", "texts"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--features", type=Path, help="of the teacher's image encoder, for `images`")
    parser.add_argument("--teacher", type=Path, help="folder of the teacher, for `texts`")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    pair = hf.VisionTextDualEncoderModel.from_pretrained(given.start, dtype=torch.float32)
    if given.what == "images":
        learn_images(pair, given, torch.from_numpy(np.load(given.features)))
    else:
        teacher = hf.VisionTextDualEncoderModel.from_pretrained(given.teacher, dtype=torch.float32)
        learn_texts(pair, given, teacher)
        with torch.no_grad():
            pair.visual_projection = _linear(teacher.visual_projection.weight @ pair.visual_projection.weight)
            pair.logit_scale.copy_(teacher.logit_scale)
        pair.half()
    pair.save_pretrained(given.out)
    (given.out / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner can read
    for file in given.start.iterdir():
        if not (given.out / file.name).exists():
            shutil.copy(file, given.out)


def learn_images(pair: Any, given: argparse.Namespace, features: Tensor) -> None:
    """Trains the image encoder and its projection, in place, to give the features (N, D) of the images."""
    jpegs = read(given.rows).jpegs
    processor = hf.AutoImageProcessor.from_pretrained(given.start)
    _project(pair, features.shape[1])
    chance = np.random.default_rng(0)

    def loss() -> Tensor:
        rows = chance.choice(len(jpegs), min(IMAGE_BATCH, len(jpegs)), replace=False)
        opened = [Image.open(io.BytesIO(jpegs[n])).convert("RGB") for n in rows]
        pixels = processor(opened, return_tensors="pt")["pixel_values"]
        with half_precision():
            pooled = pair.vision_model(pixel_values=pixels).pooler_output.float()
        return _distance(pair.visual_projection(pooled), features[rows])

    fit([*pair.vision_model.parameters(), pair.visual_projection.weight], loss, given.steps, given.lr)


def learn_texts(pair: Any, given: argparse.Namespace, teacher: Any) -> None:
    """Trains the text encoder and its projection, in place, to give the teacher's embeddings of the titles."""
    images = read(given.rows)
    learner = Learner(teacher, hf.AutoTokenizer.from_pretrained(given.teacher), images, TEXT_BATCH)
    with torch.inference_mode():
        targets = F.normalize(teacher.text_projection(learner.text_features()), dim=-1)
    targets = targets.clone()  # out of inference mode, since a loss is made with them
    student = Learner(pair, hf.AutoTokenizer.from_pretrained(given.start), images, TEXT_BATCH)
    projection = pair.visual_projection
    _project(pair, targets.shape[1])
    pair.visual_projection = projection  # main puts the teacher's behind it
    chance = np.random.default_rng(0)

    def loss() -> Tensor:
        rows = chance.choice(len(targets), min(TEXT_BATCH, len(targets)), replace=False)
        return _distance(pair.text_projection(student.encoded([student.all[n] for n in rows])), targets[rows])

    fit([*pair.text_model.parameters(), pair.text_projection.weight], loss, given.steps, given.lr)


def _project(pair: Any, width: int) -> None:
    """Gives the pair new projections of another width."""
    pair.visual_projection = nn.Linear(pair.config.vision_config.hidden_size, width, bias=False)
    pair.text_projection = nn.Linear(pair.config.text_config.hidden_size, width, bias=False)
    pair.config.projection_dim = width


def _distance(answers: Tensor, targets: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(answers, targets, dim=-1).mean()


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.copy_(weight)
    return layer


def fit(parameters: list[Tensor], loss_of: Callable[[], Tensor], steps: int, lr: float) -> None:
    """AdamW with a warm-up of 5 % and a cosine to zero."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    began, mean = time.monotonic(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min((step + 1) / (0.05 * steps + 1), 0.5 + 0.5 * math.cos(math.pi * step / steps))
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        mean = loss.item() if step == 0 else 0.95 * mean + 0.05 * loss.item()
        if step % 50 == 49:
            print(f"step {step + 1}/{steps}: 1 - cosine {mean:.4f}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
