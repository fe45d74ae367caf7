r"""Epochs of a head on stored features by `mmft train`, against a hand-written loop of the same work.

    PYTHONPATH=tools/bench python tools/bench/frozen_head.py -- data.path=ROWS ... trainer.max_epochs=30

Everything after `--` is typed to `mmft train`; `tune=head_only`, `cache=always` and `modality_report=false` are added.
The store is filled by the first of such runs, so type the command twice and read the second result.

Both train copies of one fusion and head in one process, an epoch of the loop before each epoch of ours, and do the same
work: the stored features of the same rows in the same order, the same loss and dropout, AdamW (fused), clipping, the
schedule, a line with the loss every ten steps, after each epoch a validation with the task's own metrics, a checkpoint
from which training can be resumed exactly (replaced as a whole, the best one kept), and a line of its metrics. The loop
reads the features once, into two tensors, and has no command, no config and no callbacks. Seconds are those of the
processor (`time.process_time`); ours are all between the beginning and the end of the fit, filling the store included.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from mmft.data.datamodule import VisionLanguageData
    from mmft.training.module import FineTuning

LOG_EVERY = 10


class HandLoop:
    """The loop.

    Args:
        module: ours, at its start; fusion, head, task, rates are copied from it.
        data: of the run; features are read from its store.
        schedule: step -> factor of the rates.
        folder: of its files.
    """

    def __init__(self, module: FineTuning, data: VisionLanguageData, schedule: Any, folder: Path) -> None:
        self.data, self.schedule, self.folder = data, schedule, folder
        self.task, self.clip_norm = module.task, module.clip_norm or math.inf
        self.metrics = module.task.metrics()
        self.fusion, self.head = copy.deepcopy(module.model.fusion), copy.deepcopy(module.model.head)
        of = {f"fusion.{name}": one for name, one in self.fusion.named_parameters()}
        of |= {f"head.{name}": one for name, one in self.head.named_parameters()}
        groups = [
            {"params": [of[name] for name in group.parameters if name in of], **_rates(group)}
            for group in module.plan.groups
        ]
        self.parameters = list(of.values())
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
        self.base = [group["lr"] for group in self.optimizer.param_groups]
        self.splits = {name: self._read(name) for name in ("train", "val")}
        self.log = (folder / "metrics.csv").open("w")
        self.step, self.best, self.accuracies = 0, -1.0, list[float]()
        torch.manual_seed(0)

    def _read(self, split: str) -> tuple[Tensor, Tensor, Tensor]:
        rows = self.data.datasets[split]
        every = range(len(rows))
        image, text = (rows.stored[name].read(list(every), 0) for name in ("image", "text"))
        assert image is not None and text is not None and rows.targets is not None  # noqa: PT018
        return image.values[0], text.values[0], rows.targets

    def _logits(self, image: Tensor, text: Tensor) -> Tensor:
        from mmft.batch import Encoded

        nothing: Any = None
        logits: Tensor = self.head(self.fusion(Encoded(nothing, nothing, image), Encoded(nothing, nothing, text)))
        return logits

    def epoch(self, number: int) -> None:
        """Trains one epoch, validates and saves."""
        from mmft.data.order import epoch_order

        images, texts, targets = self.splits["train"]
        order = torch.from_numpy(epoch_order(len(targets), self.data._seed, number))
        self.fusion.train(), self.head.train()
        for rows in order.split(self.data.config.batch_size):
            factor = self.schedule(self.step)
            for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
                group["lr"] = base * factor
            self.optimizer.zero_grad()
            loss = cross_entropy(self._logits(images[rows], texts[rows]), targets[rows])
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
            self.optimizer.step()
            self.step += 1
            if not math.isfinite(loss.item()):
                raise RuntimeError("the loss is not finite")
            if self.step == 1 or self.step % LOG_EVERY == 0:
                self.log.write(f"{self.step},{loss.item()},{float(norm)},{self.base[0] * factor}\n")
                self.log.flush()
        metrics = self._validated()
        self.log.write(f"{self.step},{json.dumps(metrics)}\n")
        self._save(metrics)

    @torch.inference_mode()
    def _validated(self) -> dict[str, float]:
        from mmft.batch import Batch, Outputs

        self.fusion.eval(), self.head.eval()
        self.metrics.reset()
        images, texts, targets = self.splits["val"]
        losses = []
        for rows in torch.arange(len(targets)).split(self.data.config.batch_size):
            logits, target = self._logits(images[rows], texts[rows]), targets[rows]
            there = torch.ones(len(rows), dtype=torch.bool)
            batch = Batch(None, None, None, there, there, rows, there.float(), target)
            self.task.update(self.metrics, Outputs(logits, images[rows], texts[rows]), batch)
            losses.append(float(cross_entropy(logits, target, reduction="sum")))
        self.accuracies.append(self.task.scalars(self.metrics)["accuracy"])
        return self.task.scalars(self.metrics) | {"loss": math.fsum(losses) / len(targets)}

    def _save(self, metrics: dict[str, float]) -> None:
        state = {
            "fusion": self.fusion.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "generator": torch.get_rng_state(),
            "metrics": metrics,
        }
        torch.save(state, self.folder / "new.pt")
        (self.folder / "new.pt").replace(self.folder / "last.pt")
        if metrics["accuracy"] > self.best:
            self.best = metrics["accuracy"]
            (self.folder / "best.pt").unlink(missing_ok=True)
            os.link(self.folder / "last.pt", self.folder / "best.pt")


def _rates(group: Any) -> dict[str, Any]:
    return {"lr": group.lr, "weight_decay": group.weight_decay}


class Interleaved(Callback):
    """Runs an epoch of the loop before each of ours.

    Attributes:
        theirs: processor seconds of each epoch of the loop; the first includes its building.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.theirs: list[float] = []
        self.loop: HandLoop | None = None
        self._state: Tensor = torch.get_rng_state()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """An epoch of the loop."""
        from mmft.training.callbacks.learning_rate_warmup import LearningRateWarmup

        began = time.process_time()
        with torch.random.fork_rng():
            if self.loop is None:
                warmup = next(one for one in trainer.callbacks if isinstance(one, LearningRateWarmup))
                schedule, total = warmup.schedule, warmup.total_steps
                self.loop = HandLoop(
                    pl_module, trainer.datamodule, lambda step: schedule.factor(step, total), self.folder
                )
            else:
                torch.set_rng_state(self._state)
            self.loop.epoch(trainer.current_epoch)
            self._state = torch.get_rng_state()
        self.theirs.append(time.process_time() - began)


@contextmanager
def added(callback: Callback) -> Iterator[None]:
    """Context in which `mmft train` has one more callback, the first."""
    from mmft import build

    plain = build.build_callbacks
    build.build_callbacks = lambda *given: [callback, *plain(*given)]
    try:
        yield
    finally:
        build.build_callbacks = plain


@contextmanager
def timed_fit(into: list[float]) -> Iterator[None]:
    """Context in which the processor seconds of each fit are noted."""
    from lightning.pytorch import Trainer

    plain = Trainer.fit

    def fit(self: Trainer, *given: Any, **named: Any) -> None:
        began = time.process_time()
        plain(self, *given, **named)
        into.append(time.process_time() - began)

    Trainer.fit = fit  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.fit = plain  # type: ignore[method-assign]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("typed", nargs="*")
    args = parser.parse_args()
    from mmft.commands import train as program
    from mmft.config.compose import compose

    torch.set_num_threads(1)
    fixed = ["tune=head_only", "cache=always", "modality_report=false", "report=false", "trainer.precision=32-true"]
    composed = compose("train", [*fixed, "callbacks.progress=none", *args.typed])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        interleaved, fits = Interleaved(folder), list[float]()
        with added(interleaved), timed_fit(fits):
            program.train(composed, folder / "run")
        summary = json.loads((folder / "run" / "summary.json").read_text())
        accuracies = interleaved.loop.accuracies if interleaved.loop else [0.0]
    theirs = sum(interleaved.theirs)
    ours = fits[0] - theirs
    print(f"ours {ours:.2f} s, the loop {theirs:.2f} s (median epoch {statistics.median(interleaved.theirs):.3f} s)")
    print(f"ratio {ours / theirs:.3f}; {summary['optimizer_steps']} steps")
    print(f"last validation accuracy {summary['val']['accuracy']:.4f}, of the loop {accuracies[-1]:.4f}")


if __name__ == "__main__":
    main()
