"""The hand-written CLIP loop that `task=contrastive` is measured against: plain PyTorch, judged by mmft's own metric.

    python tools/bench/clip_loop.py --shared ../shared --table distinct.csv --seed 0 [--epochs 3] [--lr 1e-4] [--bf16]

Fine-tunes DINOv2-small (timm) and MiniLM (transformers) on titles and images, in float32 (with `--bf16` under
autocast), as open_clip does: class token and masked mean, a linear projection of each to 256 numbers, InfoNCE over the
batch with a learned temperature, each row's own pair the only positive one. Rows, image size, batches, schedule,
epochs, and unless `--lr` says otherwise the encoders' rate are those of `tools/bench/loop.py`. Keeps the epoch of the
best mean recall on the validation rows; prints one line of JSON.

Legend: B batch, P width of the shared space.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any

import loop
import torch
from loop import Examples
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoTokenizer

from mmft.tasks.metrics.retrieval import RetrievalMetric

WIDTH = 256


class Clip(loop.TwoEncoders):
    """The two encoders of `loop.py` with a projection each instead of a head."""

    def __init__(self, image: nn.Module, text: nn.Module, classes: int) -> None:
        super().__init__(image, text, classes)
        widths: Any = image.num_features, text.config.hidden_size  # type: ignore[union-attr]
        self.head = nn.ModuleList([nn.Linear(width, WIDTH, bias=False) for width in widths])  # type: ignore[assignment]
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, batch: Examples) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Images and texts -> their embeddings (B, P), of length 1."""
        image = self.image.forward_features((batch.pixels - self.mean) / self.std)[:, 0]  # type: ignore[operator]
        tokens = self.text(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        real = batch.mask.unsqueeze(-1)
        text = (tokens * real).sum(1) / real.sum(1)
        projections: Any = self.head
        return normalize(projections[0](image), dim=-1), normalize(projections[1](text), dim=-1)


def step(model: Clip, optimizer: AdamW, scheduler: LambdaLR, batch: Examples, bf16: bool) -> None:
    """One optimizer step."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        image, text = model(batch)
    image, text = image.float(), text.float()
    logits = model.log_scale.exp().clamp(max=100) * image @ text.T
    own = torch.arange(len(logits))
    ((cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2).backward()
    nn.utils.clip_grad_norm_(model.parameters(), loop.CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad()
    scheduler.step()


@torch.inference_mode()
def measured(model: Clip, examples: Examples) -> dict[str, float]:
    """Retrieval over the split; `target` has the group of each row."""
    model.eval()
    metric: Any = RetrievalMetric()
    rows = torch.arange(len(examples.target))
    for numbers, batch in zip(rows.split(loop.BATCH_SIZE), loop.batches(examples, rows), strict=True):
        metric.update(*model(batch), torch.stack([numbers, numbers, batch.target], dim=1))
    model.train()
    return {name: float(value) for name, value in metric.compute().items()}


def train(splits: dict[str, Examples], encoders: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Trains, and gives the test figures of the best epoch."""
    steps = args.epochs * math.ceil(len(splits["train"].target) / loop.BATCH_SIZE)
    made = loop.build(encoders / "dinov2-small-timm", encoders / "minilm-l6", 1, steps)
    model = Clip(made.model.image, made.model.text, 1)
    groups = [g for g in made.optimizer.param_groups if g["lr"] and g["initial_lr"] == loop.LR]
    groups = [{key: g[key] for key in ("params", "weight_decay")} | {"lr": args.lr} for g in groups]
    groups.append({"params": list(model.head.parameters()), "lr": loop.HEAD_LR, "weight_decay": loop.WEIGHT_DECAY})
    groups.append({"params": [model.log_scale], "lr": loop.HEAD_LR, "weight_decay": 0.0})
    optimizer = AdamW(groups, fused=True)
    scheduler = LambdaLR(optimizer, made.scheduler.lr_lambdas[0])
    order = torch.Generator().manual_seed(args.seed)
    best: dict[str, float] = {"mean_recall": -1.0}
    model.train()
    for _ in range(args.epochs):
        for batch in loop.batches(splits["train"], torch.randperm(len(splits["train"].target), generator=order)):
            step(model, optimizer, scheduler, batch, args.bf16)
        val = measured(model, splits["val"])
        if val["mean_recall"] > best["mean_recall"]:
            best, weights = val, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    return {"val": best, "test": measured(model, splits["test"])}


def load(table: Path, images: Path, tokenizer: Any) -> dict[str, Examples]:
    """The table's rows by split; `target` is a number for each group."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = {group: number for number, group in enumerate(sorted({row["group"] for row in rows}))}
    return {
        name: loop.examples([row for row in rows if row["split"] == name], images, tokenizer, "group", numbers)
        for name in ("train", "val", "test")
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="the folder of rows and encoders")
    parser.add_argument("--table", type=Path, required=True, help="rows with distinct titles, from retrieval.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=loop.LR, help="of the encoders")
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    encoders = args.shared / "encoders"
    tokenizer = AutoTokenizer.from_pretrained(encoders / "minilm-l6")
    splits = load(args.table, args.shared / "data" / "clipart", tokenizer)
    print(json.dumps({"seed": args.seed, **train(splits, encoders, args)}))


if __name__ == "__main__":
    main()
