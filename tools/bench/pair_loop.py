r"""The plain loop of transformers that `model.pair` is measured against: its own loss, judged by mmft's own metric.

    PYTHONPATH=tools:tools/bench python tools/bench/pair_loop.py FOLDER --table distinct.csv --images FOLDER --seed 0

Fine-tunes a folder of VisionTextDualEncoderModel on titles and images as most people would: `return_loss=True`, one
AdamW, clipping, a warm-up and a cosine. `build` and `step` can be imported. Prints one line of JSON.

Legend: B batch, L text tokens.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import loop
import torch
from loop import Examples
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoTokenizer, VisionTextDualEncoderModel

from mmft.tasks.metrics.retrieval import RetrievalMetric


class Loop(NamedTuple):
    """What a training step needs."""

    model: VisionTextDualEncoderModel
    optimizer: AdamW
    scheduler: LambdaLR
    mean: Tensor  # of pixels from 0 to 255, (3, 1, 1)
    std: Tensor


def build(folder: Path, steps: int, lr: float, image_layers: int | None = None, warmup: float = loop.WARMUP) -> Loop:
    """Model, optimizer and schedule for `steps` optimizer steps.

    Args:
        folder: of the pair.
        steps: in all.
        lr: the highest, of all weights.
        image_layers: last layers of the image encoder that are trained, with its last norm; None for all of it.
        warmup: share of the steps.
    """
    model = VisionTextDualEncoderModel.from_pretrained(folder, dtype=torch.float32).train()
    if image_layers is not None:
        vision: Any = model.vision_model
        vision.requires_grad_(False)
        for part in (*vision.encoder.layer[-image_layers:], vision.layernorm):
            part.requires_grad_(True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": loop.WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = AdamW(groups, lr=lr, fused=True)
    rising = round(warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    config = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) * 255 for name in ("image_mean", "image_std"))
    return Loop(model, optimizer, LambdaLR(optimizer, factor), mean, std)


def step(loop_: Loop, pixels: Tensor, ids: Tensor, mask: Tensor, bf16: bool = False) -> float:
    """One optimizer step on uint8 images (B, 3, H, W) and texts (B, L); gives the loss."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        normalised = (pixels - loop_.mean) / loop_.std
        loss = loop_.model(input_ids=ids, pixel_values=normalised, attention_mask=mask, return_loss=True).loss
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in loop_.optimizer.param_groups for p in group["params"]], loop.CLIP_NORM)
    loop_.optimizer.step()
    loop_.optimizer.zero_grad()
    loop_.scheduler.step()
    return float(loss.detach())


@torch.inference_mode()
def measured(loop_: Loop, examples: Examples, size: int) -> dict[str, float]:
    """Retrieval over the split, in float32; every row is a group of its own."""
    loop_.model.eval()
    metric: Any = RetrievalMetric()
    for rows in torch.arange(len(examples.target)).split(size):
        (batch,) = loop.batches(Examples(*(t[rows] for t in examples)), torch.arange(len(rows)))
        normalised = (batch.pixels - loop_.mean) / loop_.std
        image = loop_.model.get_image_features(pixel_values=normalised).pooler_output
        text = loop_.model.get_text_features(input_ids=batch.ids, attention_mask=batch.mask).pooler_output
        metric.update(normalize(image, dim=-1), normalize(text, dim=-1), torch.stack([rows, rows, rows], dim=1))
    loop_.model.train()
    return {name: float(value) for name, value in metric.compute().items()}


def train(splits: dict[str, Examples], args: argparse.Namespace) -> dict[str, Any]:
    """Trains, and gives the test figures of the epoch that is best on the validation rows."""
    rows = len(splits["train"].target)
    loop_ = build(args.pair, args.epochs * math.ceil(rows / args.batch), args.lr, args.image_layers)
    order = torch.Generator().manual_seed(args.seed)
    best: dict[str, float] = {"mean_recall": -1.0}
    for _ in range(args.epochs):
        for batch in loop.batches(splits["train"], torch.randperm(rows, generator=order)):
            step(loop_, batch.pixels, batch.ids, batch.mask, args.bf16)
        val = measured(loop_, splits["val"], args.batch)
        if val["mean_recall"] > best["mean_recall"]:
            best, weights = val, {name: tensor.clone() for name, tensor in loop_.model.state_dict().items()}
    loop_.model.load_state_dict(weights)
    return {"val": best, "test": measured(loop_, splits["test"], args.batch)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", type=Path)
    parser.add_argument("--table", type=Path, required=True, help="rows with distinct titles, from retrieval.py")
    parser.add_argument("--images", type=Path, required=True, help="folder of the table's images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--image-layers", type=int)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    loop.BATCH_SIZE = args.batch
    tokenizer = AutoTokenizer.from_pretrained(args.pair)
    with args.table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = {row["id"]: number for number, row in enumerate(rows)}
    splits = {
        name: loop.examples([row for row in rows if row["split"] == name], args.images, tokenizer, "id", numbers)
        for name in ("train", "val", "test")
    }
    print(json.dumps({"seed": args.seed, **train(splits, args)}))


if __name__ == "__main__":
    main()
