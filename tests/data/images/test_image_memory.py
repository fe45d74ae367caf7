"""Images are decoded once for all epochs, workers and jobs, and never taken for others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from make_shapes import Shapes
from PIL import Image
from runs import TrainRun, same_weights

from mmft.config.schema.data import ColumnsConfig
from mmft.data import loading, table
from mmft.data.images.image import BadImage, ImageReader
from mmft.data.images.memory import ImageMemory, _shared
from mmft.data.job_cache import JOB_CACHE
from mmft.data.splitting.splits import Split, whole
from mmft.data.table import Table

COLUMNS = ColumnsConfig(image="image", text="text")


@pytest.fixture
def rows(shapes: Shapes, tmp_path: Path) -> Split:
    """The sample's rows, in a folder that may be written to."""
    shutil.copytree(shapes.rows.parent, tmp_path / "rows")
    return whole(Table.open(tmp_path / "rows" / shapes.rows.name, COLUMNS))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many images were decoded since the last call, in workers too; what other tests have kept is forgotten."""
    for _ in range(2):
        JOB_CACHE.next_job()
    count = _shared(8).view(torch.int64)
    read = ImageReader.__call__

    def counted(self: ImageReader, source: str | bytes) -> torch.Tensor:
        count.add_(1)
        return read(self, source)

    monkeypatch.setattr(ImageReader, "__call__", counted)

    def since() -> int:
        seen = int(count)
        count.zero_()
        return seen

    return since


def reader() -> ImageReader:
    return ImageReader(32, "squash", "white", 10**8)


def test_a_image_is_decoded_once_and_is_the_readers(rows: Split, decoded: Callable[[], int]) -> None:
    memory = ImageMemory(rows, reader(), 2**20)
    for _ in range(3):
        for position in range(5):
            assert torch.equal(memory(position), reader()(rows.table.image(position) or b""))
    assert decoded() == 5 + 15  # the comparison's own
    assert memory.filled == 5


def test_what_does_not_fit_is_decoded_each_time(rows: Split, decoded: Callable[[], int]) -> None:
    memory = ImageMemory(rows, reader(), 3 * 32 * 32 * 2 + 100)
    assert memory.rows == 2
    for _ in range(2):
        [memory(position) for position in range(4)]
    assert decoded() == 2 + 2 * 2
    assert ImageMemory(rows, reader(), 0).rows == 0


def test_a_file_that_has_changed_is_read_again(rows: Split) -> None:
    memory = ImageMemory(rows, reader(), 2**20)
    before = [memory(position).clone() for position in range(3)]
    file = Path(str(rows.table.image(1)))
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(file)
    os.utime(file, ns=(1, 1))
    memory.check_files()
    assert torch.equal(memory(0), before[0])
    assert not memory(1).any()
    assert torch.equal(memory(2), before[2])


def test_a_bad_image_is_bad_every_time(rows: Split) -> None:
    Path(str(rows.table.image(0))).write_bytes(b"no image")
    memory = ImageMemory(rows, reader(), 2**20)
    for _ in range(2):
        with pytest.raises(BadImage):
            memory(0)
    assert memory.filled == 0


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_decodes_each_row_once(train_run: TrainRun, decoded: Callable[[], int], workers: int) -> None:
    kept = train_run(f"data.num_workers={workers}", "modality_report=true")
    count = sum(count for name, count in kept.summary["rows"].items() if name != "bad")
    assert decoded() == count
    again = train_run("optim.lr=1e-4")
    assert decoded() == 0  # the next job of the process has the same rows
    assert not same_weights(kept, again)


def test_the_result_is_the_same_without_the_memory(train_run: TrainRun, decoded: Callable[[], int]) -> None:
    without = train_run("data.picture_memory=0")
    each_time = decoded()
    kept = train_run()
    assert each_time > 1.5 * decoded() > 0
    assert same_weights(without, kept)
    assert without.metrics == kept.metrics
    assert without.summary["test"] == kept.summary["test"]


def test_the_next_job_reads_and_tokenises_nothing(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def watched(module: object, name: str) -> None:
        function = getattr(module, name)

        def call(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    train_run("trainer.max_epochs=1")
    watched(table, "read_table_file")
    watched(loading, "tokenize")
    train_run("seed=1", "trainer.max_epochs=1")  # `data.limit` takes other rows to train on
    assert calls == ["tokenize"]
    train_run("seed=1", "trainer.max_epochs=1", "optim.lr=1e-4", "data.batch_size=8")
    assert calls == ["tokenize"]


def test_a_table_that_has_changed_is_read_again(shapes: Shapes, train_run: TrainRun, tmp_path: Path) -> None:
    copy = tmp_path / "rows.csv"
    text = shapes.rows.read_text()
    copy.write_text(text)
    more = [f"data.path={copy}", f"data.root={shapes.rows.parent}", "data.limit=null", "trainer.max_epochs=1"]
    first = train_run(*more)
    copy.write_text("\n".join(text.splitlines()[:-20]) + "\n")
    second = train_run(*more)
    assert sum(first.summary["rows"].values()) - sum(second.summary["rows"].values()) == 20
