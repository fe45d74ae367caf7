"""What the sections share: device, sizes, encoders, rows of the sample, and how a measurement is noted."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from make_shapes import Shapes, captions, make_rows, make_shapes

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.config.schema.root import TrainConfig
from mmft.data.splitting.splits import load_splits
from mmft.training.module import FineTuning

MIB = 2**20


@dataclass
class Setting:
    """Where and how large everything is measured.

    Attributes:
        device: `cuda` or `cpu`.
        smallest: encoders of width 32 and a few steps.
        scratch: folder of all sections.
        out: folder of what is kept.
        encoders: folder in which `dinov2-small-timm` and `minilm-l6` may be.
        rows: file of this section's rows.
    """

    device: str
    smallest: bool
    scratch: str
    out: str
    encoders: str
    rows: str

    @property
    def place(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    @property
    def accelerator(self) -> str:
        """The device, as `trainer.accelerator` has it."""
        return "gpu" if self.device == "cuda" else "cpu"

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return 32 if self.smallest else 224

    @cached_property
    def shapes(self) -> Shapes:
        """The generated rows, and the encoders that stand for real ones; made by the first section that asks."""
        folder = Path(self.scratch) / "shapes"
        if (folder / "made").exists():
            return Shapes(folder, folder / "rows.csv", *self._encoders(folder))
        if self.smallest:
            made = make_shapes(folder)
        else:
            make_rows(folder, 480)
            made = Shapes(folder, folder / "rows.csv", *self._encoders(folder))
        (folder / "made").touch()
        return made

    def _encoders(self, folder: Path) -> tuple[Path, Path]:
        if self.smallest:
            return folder / "image_encoder", folder / "text_encoder"
        from gpu.encoders import bert_of_minilms_size, vit_small

        image, text = Path(self.encoders) / "dinov2-small-timm", Path(self.encoders) / "minilm-l6"
        return (
            image if image.is_dir() else vit_small(folder / "image_encoder", self.image_size),
            text if text.is_dir() else bert_of_minilms_size(folder / "text_encoder", captions()),
        )

    def overrides(self, *more: str, batch: int = 16, size: int | None = None) -> list[str]:
        """What to type after `mmft train`: on the generated rows, on this device, quietly."""
        return [
            "name=gpu",
            *self.shapes.of_rows,
            f"model.image_encoder.name={self.shapes.image_encoder}",
            f"model.text_encoder.name={self.shapes.text_encoder}",
            f"model.image_encoder.image_size={size or self.image_size}",
            "model.text_encoder.max_length=16",
            f"data.batch_size={batch}",
            f"trainer.accelerator={self.accelerator}",
            "callbacks.progress=none",
            "modality_report=false",
            *more,
        ]

    def note(self, name: str, ours: Any, reference: Any = None, ratio: float | None = None, good: bool = True) -> None:
        """Writes a row; numbers as they should be read."""
        self._write({"name": name, "ours": _shown(ours), "reference": _shown(reference), "ratio": _shown(ratio)}, good)

    def write_about(self, about: dict[str, Any]) -> None:
        """What stands above the table."""
        self._write({"name": "the machine", "ours": about["card"], "about": about}, good=True)

    @contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """What fails in it is a row of the table, and the section goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the next measurement may succeed
            traceback.print_exc()
            self._write({"name": name, "ours": f"{type(error).__name__}: {str(error)[:300]}"}, good=False)
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def _write(self, row: dict[str, Any], good: bool) -> None:
        file = Path(self.rows)
        row = {"section": file.stem, **row, "verdict": "ok" if good else "FAILED"}
        with file.open("a", encoding="utf-8") as rows:
            rows.write(json.dumps(row) + "\n")


def _shown(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass
class Made:
    """What training is made of, before a Trainer has it.

    Attributes:
        module: on the CPU; everything that is ever trained is trainable.
        batch: a logical batch, on the CPU.
    """

    config: TrainConfig
    module: FineTuning
    batch: Batch


def made(overrides: list[str]) -> Made:
    """A module and a logical batch by the same functions as `mmft train`."""
    config: TrainConfig = compose("train", overrides).config
    splits = load_splits(config.data, config.seed)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, task.make_head, config.seed)
    build.add_auxiliary(config, model, task)
    plan = build.build_plan(config, model)
    data = build.build_data(config, splits, model, task)
    module = build.build_module(config, model, task, plan)
    module.micro_batch_size = config.data.micro_batch_size
    plan.activate(model, plan.names)
    return Made(config, module, next(iter(data.train_dataloader())))
