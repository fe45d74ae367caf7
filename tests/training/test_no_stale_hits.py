"""Hundreds of random changes of all that frozen work depends on: the store never gives what was computed before one."""

from __future__ import annotations

import csv
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawings import drawing
from torch import Tensor

from mmft import build
from mmft.batch import padded_length
from mmft.cache import identity as identity_module
from mmft.cache.store import Store
from mmft.config.compose import compose
from mmft.config.schema.root import TrainConfig
from mmft.data.collate import side_by_side
from mmft.data.dataset import RowDataset
from mmft.data.loading import make_dataset
from mmft.data.splitting.splits import load_rows
from mmft.models.encoder import Encoder
from mmft.models.frozen_part import FrozenPart
from mmft.models.layers import evaluated
from mmft.models.precision import autocast
from mmft.training.frozen_cache import FrozenCache

ROWS = 4


class _World:
    """Rows and encoders that change at random; `kept` reads from the store what `computed` computes."""

    def __init__(self, shapes: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.draw, self.folder, self.patch = random.Random(0), folder, monkeypatch
        self.config: TrainConfig = compose("train", shapes.overrides).config
        self.model = build.build_model(self.config.model, 2, 0)
        with shapes.rows.open() as stream:
            self.rows = [dict(row) for row in list(csv.DictReader(stream))[:ROWS]]
        for row in self.rows:
            shutil.copy(shapes.rows.parent / row["image"], folder / Path(row["image"]).name)
            row["image"] = Path(row["image"]).name
        self.sizes = {"image": 32, "text": 12}
        self.layer: int | None = None
        self.reads: Any = "pooled"
        self.form, self.precision = "computed", "32-true"

    def change(self) -> str:
        """Changes one thing, and says which."""
        kinds = [name for name in dir(self) if name.startswith("_change_")]
        kind = self.draw.choice(kinds)
        getattr(self, kind)()
        return kind

    @property
    def encoder(self) -> Encoder:
        encoder: Encoder = self.draw.choice([self.model.image_encoder, self.model.text_encoder])
        return encoder

    def _change_weight(self) -> None:
        _, parameter = self.draw.choice(list(self.encoder.named_parameters()))
        parameter.data.view(-1)[self.draw.randrange(parameter.numel())] += 0.5

    def _change_buffer(self) -> None:
        buffers = [b for b in [*self.model.image_encoder.buffers()] if b.is_floating_point() and b.numel()]
        self.draw.choice(buffers).view(-1)[0] += 0.25

    def _change_layer(self) -> None:
        self.layer = self.draw.choice([None, 2])

    def _change_transform(self) -> None:
        key, values = self.draw.choice(
            [("resize", ["squash", "crop", "pad"]), ("background", ["white", "black", "#808080"])]
        )
        setattr(self.config.data, key, self.draw.choice(values))

    def _change_size(self) -> None:
        self.sizes["text"] = self.draw.choice([4, 6, 12])

    def _change_text(self) -> None:
        self.draw.choice(self.rows)["text"] = " ".join(
            self.draw.choices(["red", "blue", "small", "large", "circle", "star"], k=4)
        )

    def _change_image(self) -> None:
        row = self.draw.choice(self.rows)
        drawing(self.draw.randrange(10**6), 40).save(self.folder / row["image"])

    def _change_pixel(self) -> None:
        from PIL import Image

        path = self.folder / self.draw.choice(self.rows)["image"]
        pixels = np.array(Image.open(path).convert("RGB"))
        pixels[self.draw.randrange(len(pixels)), 3] ^= 0x80
        Image.fromarray(pixels).save(path)

    def _change_order(self) -> None:
        self.draw.shuffle(self.rows)

    def _change_pool(self) -> None:
        self.encoder.pool = self.draw.choice(["cls", "mean"])

    def _change_reads(self) -> None:
        self.reads = self.draw.choice(["pooled", "tokens"])

    def _change_form(self) -> None:
        self.form = self.draw.choice(["computed", "float16", "int8"])

    def _change_precision(self) -> None:
        self.precision = self.draw.choice(["32-true", "64-true"])
        self.model.to(torch.float64 if self.precision == "64-true" else torch.float32)

    def _change_version(self) -> None:
        number = self.draw.randrange(3)
        self.patch.setattr(identity_module, "_version", lambda name: f"{name} {number}")

    def _change_kernel(self) -> None:
        for module in self.model.image_encoder.modules():
            if hasattr(module, "eps"):
                module.eps = self.draw.choice([1e-6, 1e-3, 1e-1])

    def check(self, store: Store) -> int:
        """Compares what the store gives with what is computed now; returns how many tensors were compared."""
        table = self.folder / "rows.csv"
        with table.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        self.config.data.path = str(table)
        tokenizer = self.model.text_encoder.tokenizer
        tokenizer.model_max_length = self.sizes["text"]
        split = load_rows(self.config.data, None, id_is_typed=False)
        rows = make_dataset(
            split, self.config.data, tokenizer=tokenizer, max_length=self.sizes["text"], image_size=32, encode=None
        )
        compared = 0
        for encoder in (self.model.image_encoder, self.model.text_encoder):
            part = FrozenPart(encoder, self.layer, self.reads, exact=True, form=self.form)
            context = lambda: autocast(torch.device("cpu"), self.precision)  # noqa: E731
            cache = FrozenCache(store, "always", self.precision, context, self.config.data)
            stored = cache.filled(part, {"train": (rows, 1)})["train"]
            read = stored.read(range(len(rows)), 0)
            assert read is not None
            with evaluated(encoder):
                now = part.compute(_inputs(part, rows))
            for one, other in zip(read.values, now, strict=True):
                length = min(one.shape[1], other.shape[1])
                assert torch.equal(one[:, :length], other[:, :length])
                compared += 1
        return compared


def _inputs(part: FrozenPart, rows: RowDataset) -> tuple[Tensor, ...]:
    if part.modality == "image":
        return (torch.stack([rows[at].pixel_values for at in range(len(rows))]),)  # type: ignore[misc]
    texts = [rows.text(at) for at in range(len(rows))]
    return side_by_side(texts, padded_length(max(map(len, texts)), part.encoder.tokenizer.model_max_length), 0)


@pytest.mark.slow
def test_no_random_change_gives_a_stale_hit(shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, store = _World(shapes, tmp_path, monkeypatch), Store(tmp_path / "store", 10**9)
    kinds = {world.change() for _ in range(500) if world.check(store) >= 2}
    assert len(kinds) == 15
    assert len(list((tmp_path / "store").glob("*/about.json"))) > 100
