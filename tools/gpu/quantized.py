"""LoRA over frozen weights in 8 and 4 bit: it trains, and the memory of weights against float32."""

from __future__ import annotations

import csv
from pathlib import Path

from gpu.memory import tried
from gpu.setting import MIB, Setting
from mmft.commands.train import train
from mmft.config.compose import compose

MOST = {"lora": 1.1, "lora_8bit": 0.6, "lora_4bit": 0.5}
"""Of float32's weights; embeddings, norms, fusion and head stay in float32."""


def measure(setting: Setting) -> None:
    """Rows for LoRA over float32, 8 and 4 bit."""
    batch = 16 if setting.smallest else 64
    whole = tried(setting, setting.overrides("trainer.precision=32-true", batch=batch)).weights
    for tune, most in MOST.items():
        with setting.guarded(f"tune={tune}: memory"):
            trial = tried(setting, setting.overrides(f"tune={tune}", "trainer.precision=32-true", batch=batch))
            ratio = trial.weights / whole
            good = setting.smallest or ratio < most
            setting.note(
                f"tune={tune}: weights, MiB; reference: float32", trial.weights / MIB, whole / MIB, ratio, good
            )
            setting.note(f"tune={tune}: peak memory of {batch} rows, MiB", trial.grown // MIB)
        for precision in ("auto", "16-mixed"):
            with setting.guarded(f"tune={tune}: training in {precision}"):
                _trained(setting, tune, precision, batch)


def _trained(setting: Setting, tune: str, precision: str, batch: int) -> None:
    """The loss of the last steps against that of the first."""
    length = ["data.limit=48", "trainer.max_epochs=8"] if setting.smallest else ["trainer.max_epochs=5"]
    rates = ["optim.lr=2e-3", "optim.head_lr=1e-3", "trainer.log_every_steps=1"]
    folder = Path(setting.scratch) / "quantized" / f"{tune}_{precision}"
    typed = [f"tune={tune}", f"trainer.precision={precision}", *length, *rates]
    train(compose("train", setting.overrides(*typed, batch=batch)), folder)
    with (folder / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    name = f"tune={tune}, {precision}: loss of the last 3 of {len(losses)} steps; reference: of the first 3"
    setting.note(name, last, first, last / first, good=last < first)
