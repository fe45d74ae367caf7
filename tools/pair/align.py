r"""Trains a start folder on the rows, with the image encoder frozen and its features computed once.

    python tools/pair/align.py OUT/aligned --start OUT/start --rows OUT/apart.parquet --features OUT/apart.npy

First the two projections alone, on features of both encoders (seconds an epoch), then the last layers of the text
encoder as well. Every epoch takes each image once, with one of its titles. Titles that are equal are no negatives of
each other. Of all epochs the one with the best recall on the rows of split `val` is written.
"""

from __future__ import annotations

import argparse
import copy
import io
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import transformers as hf
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from pair.judge import recall_at
from pair.vision import half_precision

MAX_TOKENS = 16
INFERENCE_BATCH = 64
LARGEST_SCALE = 100.0
K = 10


@dataclass(frozen=True)
class Images:
    """The images of the table, each once, with all their titles."""

    jpegs: list[bytes]
    titles: list[list[str]]
    val: np.ndarray  # (N,) bool


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--features", type=Path, help="of the images, as apart.py writes them (default: computed)")
    parser.add_argument("--text-layers", type=int, default=2, help="last layers of the text encoder to train")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--projection-epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=2e-4, help="of the text encoder")
    parser.add_argument("--projection-lr", type=float, default=3e-3)
    parser.add_argument("--half", action="store_true", help="write float16, half as large")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    images = read(given.rows)
    pair = hf.VisionTextDualEncoderModel.from_pretrained(given.start, dtype=torch.float32)
    learner = Learner(pair, hf.AutoTokenizer.from_pretrained(given.start), images, given.batch)
    path = given.features or given.start.with_suffix(".images.npy")
    features = cached(path, lambda: learner.image_features(given.start))
    texts = cached(given.start.with_suffix(".texts.npy"), learner.text_features)
    learner.fit(features, given.projection_epochs, given.projection_lr, texts=texts)
    if given.epochs:
        learner.fit(features, given.epochs, given.projection_lr / 5, lr=given.lr, text_layers=given.text_layers)
    (pair.half() if given.half else pair).save_pretrained(given.out)
    (given.out / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner can read
    for file in given.start.iterdir():
        if not (given.out / file.name).exists():
            shutil.copy(file, given.out)


def read(rows: Path) -> Images:
    """The table that rows.py wrote, by image."""
    table = pq.read_table(rows, columns=["title", "split", "group"]).to_pydict()
    jpegs = pq.read_table(rows, columns=["image"])["image"]
    first: dict[str, int] = {}
    titles: dict[str, list[str]] = {}
    for n, (title, group) in enumerate(zip(table["title"], table["group"], strict=True)):
        first.setdefault(group, n)
        titles.setdefault(group, []).append(title)
    val = np.array([table["split"][n] == "val" for n in first.values()])
    return Images(jpegs.take(list(first.values())).to_pylist(), list(titles.values()), val)


def cached(path: Path, made: Callable[[], Tensor]) -> Tensor:
    """The array of `path`; made and written where it is not there."""
    if not path.is_file():
        np.save(path, made().numpy())
    return torch.from_numpy(np.load(path))


class Learner:
    """A pair and what it is trained on.

    Args:
        pair: trained in place.
        tokenizer: of its text encoder.
        images: the rows.
        batch: images in a step.
    """

    def __init__(
        self, pair: hf.VisionTextDualEncoderModel, tokenizer: hf.PreTrainedTokenizerBase, images: Images, batch: int
    ) -> None:
        self._pair, self._tokenizer, self._images, self._batch = pair, tokenizer, images, batch
        self.all = list(dict.fromkeys(title for titles in images.titles for title in titles))
        self._number = {title: n for n, title in enumerate(self.all)}

    @torch.inference_mode()
    def image_features(self, start: Path) -> Tensor:
        """(N, D): the image encoder's pooler output, before its projection."""
        processor = hf.AutoImageProcessor.from_pretrained(start)
        out = []
        for begin in range(0, len(self._images.jpegs), INFERENCE_BATCH):
            batch = self._images.jpegs[begin : begin + INFERENCE_BATCH]
            opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in batch]
            pixels = processor(opened, return_tensors="pt")["pixel_values"]
            with half_precision():
                out.append(self._pair.vision_model(pixel_values=pixels).pooler_output.float())
        return torch.cat(out)

    @torch.inference_mode()
    def text_features(self) -> Tensor:
        """(T, D): the text encoder's pooler output of every title, before its projection."""
        by_length = sorted(range(len(self.all)), key=lambda n: len(self.all[n]))
        out = torch.empty(len(self.all), self._pair.text_model.config.hidden_size)
        for begin in range(0, len(by_length), INFERENCE_BATCH):
            numbers = by_length[begin : begin + INFERENCE_BATCH]
            out[numbers] = self.encoded([self.all[n] for n in numbers])
        return out

    def encoded(self, titles: list[str]) -> Tensor:
        """(N, D): the text encoder's pooler output of these titles, in float32."""
        tokens = self._tokenizer(titles, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with half_precision():
            encoded: Tensor = self._pair.text_model(**tokens).pooler_output.float()
        return encoded

    def fit(
        self,
        features: Tensor,
        epochs: int,
        projection_lr: float,
        texts: Tensor | None = None,
        lr: float = 0.0,
        text_layers: int = 0,
    ) -> None:
        """Trains, with a warm-up of 5 % and a cosine to zero, and keeps the best epoch.

        Args:
            features: of the images, (N, D).
            epochs: over all training images.
            projection_lr: highest rate of the projections and the temperature.
            texts: features of the titles, (T, D), if the text encoder is not trained.
            lr: highest rate of the text encoder.
            text_layers: how many of its last layers are trained.
        """
        trained = self._thaw(0 if texts is not None else text_layers)
        groups = [
            {"params": parameters, "peak": peak} for parameters, peak in zip(trained, (projection_lr, lr), strict=True)
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.98), weight_decay=0.05)
        train = np.flatnonzero(~self._images.val)
        size = min(self._batch, len(train))
        steps, step = epochs * (len(train) // size), 0
        best, kept, began = -1.0, copy.deepcopy(self._pair.state_dict()), time.monotonic()
        chance = np.random.default_rng(0)
        for epoch in range(epochs):
            for rows in np.split(chance.permutation(train)[: len(train) // size * size], len(train) // size):
                for group in optimizer.param_groups:
                    rise, fall = (step + 1) / (0.05 * steps + 1), 0.5 + 0.5 * math.cos(math.pi * step / steps)
                    group["lr"] = group["peak"] * min(rise, fall)
                loss = self._loss(rows, features, texts, chance)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_([p for group in trained for p in group], 1.0)
                optimizer.step()
                step += 1
            recall = self.recall(features, texts)
            print(
                f"epoch {epoch + 1}/{epochs}: loss {loss.item():.3f}, scale {self._pair.logit_scale.exp().item():.1f}, "
                f"recall at {K} of val {recall:.4f}, {time.monotonic() - began:.0f} s",
                flush=True,
            )
            if recall > best:
                best, kept = recall, copy.deepcopy(self._pair.state_dict())
        self._pair.load_state_dict(kept)

    def _thaw(self, text_layers: int) -> tuple[list[Tensor], list[Tensor]]:
        """Freezes all but the projections and so many last layers of the text encoder; returns the two groups."""
        pair = self._pair
        pair.requires_grad_(False).eval()  # no dropout: the text encoder's layers are few and the titles short
        projections = [pair.visual_projection.weight, pair.text_projection.weight, pair.logit_scale]
        text: Any = pair.text_model
        layers = text.encoder.layer
        encoder = [*layers[len(layers) - text_layers :].parameters(), *text.pooler.parameters()]
        encoder = encoder if text_layers else []
        for parameter in projections + encoder:
            parameter.requires_grad_(True)
        return projections, encoder

    def _loss(self, rows: np.ndarray, features: Tensor, texts: Tensor | None, chance: np.random.Generator) -> Tensor:
        """Cross-entropy in both directions over a batch; rows with one title share the probability."""
        titles = [self._images.titles[n][chance.integers(len(self._images.titles[n]))] for n in rows]
        numbers = torch.tensor([self._number[title] for title in titles])
        encoded = self.encoded(titles) if texts is None else texts[numbers]
        pair = self._pair
        images = F.normalize(pair.visual_projection(features[rows]), dim=-1)
        logits = images @ F.normalize(pair.text_projection(encoded), dim=-1).T
        logits = logits * pair.logit_scale.exp().clamp(max=LARGEST_SCALE)
        same = (numbers[:, None] == numbers).float()
        target = same / same.sum(-1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    @torch.inference_mode()
    def recall(self, features: Tensor, texts: Tensor | None) -> float:
        """Recall at 10 over the validation images with distinct first titles."""
        first = {self._images.titles[n][0]: int(n) for n in np.flatnonzero(self._images.val)}
        titles, rows = list(first), list(first.values())
        encoded = self.encoded(titles) if texts is None else texts[[self._number[title] for title in titles]]
        projected = F.normalize(self._pair.visual_projection(features[rows]), dim=-1)
        return recall_at(K, projected, F.normalize(self._pair.text_projection(encoded), dim=-1))


if __name__ == "__main__":
    main()
