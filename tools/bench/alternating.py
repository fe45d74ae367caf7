"""`mmft train` on batches that are handed to it, with a step of another loop on the same before each of them.

mmft is imported late, so that a process that runs the other loop alone does not hold it in memory.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmft.batch import Batch

Step = Callable[["Batch"], object]
"""A step of the other loop."""


class Alternating:
    """Our batches, a step of the other loop before each of them.

    Args:
        batches: handed out in turns.
        theirs: None for our steps alone.
        steps: how many batches are handed out.
        clock: seconds; `time.process_time` where other programs run, too.

    Attributes:
        ours: seconds between handing out a batch and being asked for the next one.
        theirs: seconds of the other loop's step on the same batch.
    """

    def __init__(
        self,
        batches: list[Batch],
        theirs: Step | None,
        steps: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.batches, self.steps, self.clock = batches, steps, clock
        self._step = theirs
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.steps):
            batch = self.batches[number % len(self.batches)]
            if self._step is not None:
                began = self.clock()
                self._step(batch)
                self.theirs.append(self.clock() - began)
            began = self.clock()
            yield batch
            self.ours.append(self.clock() - began)


def train(overrides: list[str], batch_size: int, make: Callable[[list[Batch]], Alternating]) -> Alternating:
    """Runs `mmft train` for one epoch of what `make` makes of its whole training batches.

    Args:
        overrides: of the rows, the model and the task.
        batch_size: rows of a batch.
        make: called once, when training starts.
    """
    from mmft.commands import train as program
    from mmft.config.compose import compose
    from mmft.data.datamodule import VisionLanguageData

    # One epoch of as many steps as are handed out; the rate is constant because the plan knows fewer.
    length = ["trainer.max_epochs=1", "schedule=constant", "schedule.warmup=0", f"data.batch_size={batch_size}"]
    quiet = ["callbacks.progress=none", "modality_report=false", "trainer.precision=32-true"]
    composed = compose("train", [*overrides, *length, *quiet])
    made: list[Alternating] = []
    plain = VisionLanguageData.train_dataloader

    def handed_out(self: VisionLanguageData) -> Any:
        made.append(make([batch for batch in plain(self) if len(batch) == batch_size]))
        return made[0]

    VisionLanguageData.train_dataloader = handed_out  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            program.train(composed, Path(folder) / "run")
    finally:
        VisionLanguageData.train_dataloader = plain  # type: ignore[method-assign]
    return made[0]
