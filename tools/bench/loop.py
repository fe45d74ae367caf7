"""The hand-written loop that mmft is measured against: plain PyTorch, no mmft.

    python tools/bench/loop.py --shared ../shared --seed 0 [--epochs 3] [--limit N]

Fine-tunes DINOv2-small (timm) and MiniLM (transformers) on the clip-art rows, title and image, in float32:
class token and masked mean side by side, LayerNorm, linear 512, GELU, dropout, linear. Keeps the epoch that is
best on the validation rows and prints its test accuracy and the seconds as one line of JSON. `build`, `batches`
and `step` can be imported, to alternate its steps with mmft's own in one process.

Legend: B batch, L text tokens, N image tokens, D width, C classes.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModel, AutoTokenizer

IMAGE_SIZE, MAX_LENGTH, HIDDEN, DROPOUT = 112, 32, 512, 0.1
LR, HEAD_LR, WEIGHT_DECAY, CLIP_NORM, WARMUP, BATCH_SIZE = 5e-5, 1e-3, 0.01, 1.0, 0.1, 32


class Examples(NamedTuple):
    """Rows as tensors: a whole split or one batch of it."""

    pixels: Tensor  # (B, 3, H, W) uint8
    ids: Tensor  # (B, L) int64
    mask: Tensor  # (B, L) bool, True = real token
    target: Tensor  # (B,) int64


class TwoEncoders(nn.Module):
    """Image encoder and text encoder, joined at their pooled features."""

    def __init__(self, image: nn.Module, text: nn.Module, classes: int) -> None:
        super().__init__()
        self.image, self.text = image, text
        width = int(image.num_features) + int(text.config.hidden_size)  # type: ignore[arg-type, union-attr]
        layers = [nn.LayerNorm(width), nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT)]
        self.head = nn.Sequential(*layers, nn.Linear(HIDDEN, classes))
        config = image.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1) * 255)  # type: ignore[index]
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1) * 255)  # type: ignore[index]

    def forward(self, batch: Examples) -> Tensor:
        """Images and texts -> logits (B, C)."""
        image = self.image.forward_features((batch.pixels - self.mean) / self.std)[:, 0]  # type: ignore[operator]
        tokens = self.text(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state  # (B, L, D)
        real = batch.mask.unsqueeze(-1)
        text = (tokens * real).sum(1) / real.sum(1)
        return self.head(torch.cat([image, text], dim=-1))  # type: ignore[no-any-return]


class Loop(NamedTuple):
    """What a training step needs."""

    model: TwoEncoders
    optimizer: AdamW
    scheduler: LambdaLR


def build(image_encoder: Path, text_encoder: Path, classes: int, steps: int) -> Loop:
    """Model, optimizer and schedule for `steps` optimizer steps."""
    image = timm.create_model(f"local-dir:{image_encoder}", pretrained=True, num_classes=0, img_size=IMAGE_SIZE)
    text = AutoModel.from_pretrained(text_encoder, dtype=torch.float32, add_pooling_layer=False)
    model = TwoEncoders(image, text, classes)
    groups = []
    for part, rate in ((model.image, LR), (model.text, LR), (model.head, HEAD_LR)):
        parameters = list(part.parameters())
        groups.append({"params": [p for p in parameters if p.ndim > 1], "lr": rate, "weight_decay": WEIGHT_DECAY})
        groups.append({"params": [p for p in parameters if p.ndim <= 1], "lr": rate, "weight_decay": 0.0})
    optimizer = AdamW(groups, fused=True)
    warmup = round(WARMUP * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return Loop(model, optimizer, LambdaLR(optimizer, factor))


def step(loop: Loop, batch: Examples) -> float:
    """One optimizer step; gives the loss."""
    loss = cross_entropy(loop.model(batch), batch.target)
    loss.backward()
    nn.utils.clip_grad_norm_(loop.model.parameters(), CLIP_NORM)
    loop.optimizer.step()
    loop.optimizer.zero_grad()
    loop.scheduler.step()
    return loss.item()


def batches(examples: Examples, order: Tensor) -> Iterator[Examples]:
    """The rows in this order, their texts as long as the longest of the batch (a multiple of 8)."""
    for rows in order.split(BATCH_SIZE):
        batch = Examples(*(tensor[rows] for tensor in examples))
        length = -(-int(batch.mask.sum(1).max()) // 8) * 8
        yield batch._replace(ids=batch.ids[:, :length], mask=batch.mask[:, :length])


def load(shared: Path, tokenizer: Any, limit: int | None = None) -> tuple[dict[str, Examples], int]:
    """The clip-art rows by split, every image decoded once, and the number of classes."""
    table = shared / "data" / "clipart" / "manifest.csv"
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = sorted({row["label"] for row in rows})
    splits = {}
    for name in ("train", "val", "test"):
        chosen = [row for row in rows if row["split"] == name]
        chosen = chosen[:: max(1, len(chosen) // (limit or len(chosen)))][:limit]  # spread over the sorted table
        numbers = {label: number for number, label in enumerate(labels)}
        splits[name] = examples(chosen, table.parent, tokenizer, "label", numbers)
    return splits, len(labels)


def examples(
    rows: Sequence[Mapping[str, str]], images: Path, tokenizer: Any, column: str, numbers: Mapping[str, int]
) -> Examples:
    """Rows as tensors, every image decoded once; the target is the number of what `column` has."""
    texts = tokenizer(
        [row["title"] for row in rows],
        padding="max_length",
        truncation=True,
        max_length=MAX_LENGTH,
        return_tensors="pt",
    )
    return Examples(
        pixels=torch.stack([image(images / row["image"], IMAGE_SIZE) for row in rows]),
        ids=texts["input_ids"],
        mask=texts["attention_mask"].bool(),
        target=torch.tensor([numbers[row[column]] for row in rows]),
    )


def image(file: Path | io.BytesIO, side: int) -> Tensor:
    """(3, S, S) uint8, squashed to a square."""
    squashed = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(squashed)).permute(2, 0, 1)


@torch.inference_mode()
def accuracy(model: TwoEncoders, examples: Examples) -> float:
    """Share of rows whose largest logit is the label's."""
    model.eval()
    everything = batches(examples, torch.arange(len(examples.target)))
    right = sum(int((model(batch).argmax(-1) == batch.target).sum()) for batch in everything)
    model.train()
    return right / len(examples.target)


def train(loop: Loop, splits: dict[str, Examples], epochs: int, seed: int) -> dict[str, float]:
    """Trains, goes back to the best epoch (the earlier of equals), and gives the figures."""
    order = torch.Generator().manual_seed(seed)
    best, weights, seconds = -1.0, {}, []
    loop.model.train()
    for _ in range(epochs):
        for batch in batches(splits["train"], torch.randperm(len(splits["train"].target), generator=order)):
            began = time.perf_counter()
            step(loop, batch)
            seconds.append(time.perf_counter() - began)
        val = accuracy(loop.model, splits["val"])
        if val > best:
            best = val
            weights = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
    loop.model.load_state_dict(weights)
    test = accuracy(loop.model, splits["test"])
    return {"val": best, "test": test, "fit_seconds": sum(seconds), "median_step_seconds": statistics.median(seconds)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="the folder of rows and encoders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, help="at most so many rows of each split")
    args = parser.parse_args()
    began = time.perf_counter()
    torch.manual_seed(args.seed)
    encoders = args.shared / "encoders"
    splits, classes = load(args.shared, AutoTokenizer.from_pretrained(encoders / "minilm-l6"), args.limit)
    steps = args.epochs * math.ceil(len(splits["train"].target) / BATCH_SIZE)
    loop = build(encoders / "dinov2-small-timm", encoders / "minilm-l6", classes, steps)
    figures = train(loop, splits, args.epochs, args.seed)
    print(json.dumps({"seed": args.seed, **figures, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
