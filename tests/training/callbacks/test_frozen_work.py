"""The store of frozen work in training: the same weights as without it, faster, whatever happens to its files."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command import fork_mmft
from forked import Forked
from runs import Run, TrainRun, killed_run, of_one_and_two_ranks, resumed, same_weights
from torch import Tensor

import mmft.commands.train as commands
from mmft.cache.shard import Shard
from mmft.cache.store import entries
from mmft.cache.summary import summary_of
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.models.frozen_part import FrozenPart
from mmft.models.image_encoder import ImageEncoder

EXACT = "trainer.precision=32-true"
CELLS = {
    "heads": ["tune=head_only"],
    "tokens": ["tune=head_only", "model/fusion=cross", "data.micro_batch_size=5"],
    "last_layer": ["tune=last_n"],
    "final_norm": [
        "tune/image_encoder=pattern",
        "tune.image_encoder.pattern=norm.weight$",
        "tune/text_encoder=freeze",
    ],
    "one_of_both": ["tune/image_encoder=freeze", "tune/text_encoder=full"],
    "pairs": ["task=contrastive", "data.columns.label=null", "tune=head_only", "data.micro_batch_size=7"],
    "pairs_in_part": ["task=contrastive", "data.columns.label=null", "tune=last_n", "data.micro_batch_size=7"],
    "augmented": ["tune=head_only", "data.augment.flip=0.5", "data.augment.token_dropout=0.2"],
    "augmented_texts": ["tune=head_only", "data.augment.token_dropout=0.2"],
    "captions": [
        "task=contrastive",
        "task.texts=templates",
        "data.columns.text=null",
        "tune/image_encoder=freeze",
        "tune/text_encoder=full",
    ],
    "modality_dropout": ["tune=head_only", "model.modality_dropout=0.5"],
    "auxiliary": ["tune=last_n", "model.auxiliary.modality_weight=0.5", "model.auxiliary.alignment=kl"],
    "balanced": ["tune=head_only", "data.sampler=balanced"],
    "views": ["tune=head_only", "data/augment=light", "cache.views=2", "trainer.max_epochs=3"],
    "balanced_views": ["tune=last_n", "data.augment.flip=0.5", "cache.views=2", "data.sampler=balanced"],
    "float16": ["tune=last_n", "cache.dtype=float16"],
    "int8": ["tune=head_only", "model/fusion=cross", "cache.dtype=int8"],
    "double": ["tune=last_n", "trainer.precision=64-true"],
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def _without_rate(overrides: list[str]) -> list[str]:
    """Wholly frozen encoders have no use for `optim.lr`."""
    return [typed for typed in overrides if not typed.startswith("optim.lr")]


@pytest.fixture
def frozen_run(tmp_path: Path, shapes_overrides: list[str]) -> TrainRun:
    """As `train_run`, with the encoders' default rates."""
    numbers = itertools.count()

    def run(*overrides: str) -> Run:
        path = tmp_path / f"run{next(numbers)}"
        assert train(compose("train", [*_without_rate(shapes_overrides), *overrides]), path) == 0
        return Run(path)

    return run


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """How many rows each kind of encoder has computed."""
    counted = {"image": 0, "text": 0}
    compute = FrozenPart.compute

    def counting(self: FrozenPart, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        counted["image" if isinstance(self.encoder, ImageEncoder) else "text"] += len(inputs[0])
        return compute(self, inputs)

    monkeypatch.setattr(FrozenPart, "compute", counting)
    return counted


@pytest.mark.parametrize(
    "cell", [pytest.param(c, marks=[] if c in ("heads", "last_layer", "pairs") else pytest.mark.slow) for c in CELLS]
)
def test_weights_are_the_same_to_the_last_bit(cell: str, frozen_run: TrainRun, store: Path) -> None:
    typed = [EXACT, *CELLS[cell], f"paths.cache={store}"]
    without = frozen_run(*typed, "cache=never")
    assert not store.exists()
    for cache in ("always", "always", "auto"):
        stored = frozen_run(*typed, f"cache={cache}")
        assert same_weights(without, stored)
        assert without.summary["test"] == stored.summary["test"]
    assert list(store.glob("*/*.shard"))


def test_a_second_run_computes_nothing(frozen_run: TrainRun, store: Path, passes: dict[str, int]) -> None:
    typed = [EXACT, "tune=head_only", "data.limit=null", f"paths.cache={store}", "cache=always"]
    frozen_run(*typed)
    assert passes["image"] > 0
    assert passes["text"] > 0
    passes.update(image=0, text=0)
    frozen_run(*typed, "seed=1", "optim.head_lr=1e-2")
    assert passes == {"image": 0, "text": 0}


def test_what_was_saved_is_what_was_read(frozen_run: TrainRun, store: Path) -> None:
    """Not what a run planned that ended early."""

    def reads() -> int:
        lines = [json.loads(line) for path in store.glob("*/uses.jsonl") for line in path.read_text().splitlines()]
        return sum(line.get("read", 0) for line in lines)

    typed = [EXACT, "tune=head_only", f"paths.cache={store}", "cache=always", "trainer.max_epochs=50"]
    frozen_run(*typed, "trainer.max_steps=3")
    first = reads()
    assert 0 <= first <= 2 * (3 * 32 + 30)  # of which each row was computed once
    frozen_run(*typed, "trainer.max_steps=6")
    assert 0 < reads() - first <= 2 * (6 * 32 + 2 * 30)


def test_stored_images_are_not_decoded(frozen_run: TrainRun, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [EXACT, "tune=last_n", f"paths.cache={store}", "cache=always"]
    before = frozen_run(*typed)

    def refuse(*_: Any) -> None:
        raise AssertionError("an image is decoded")

    monkeypatch.setattr("mmft.data.images.image.ImageReader.__call__", refuse)
    assert same_weights(before, frozen_run(*typed))


def test_a_change_of_what_is_computed_is_a_miss(frozen_run: TrainRun, store: Path, passes: dict[str, int]) -> None:
    typed = [EXACT, "tune=head_only", f"paths.cache={store}", "cache=always"]
    frozen_run(*typed)
    for changed in (["data.resize=crop"], ["model.image_encoder.pool=mean"], ["model/fusion=cross"], ["tune=last_n"]):
        passes["image"] = 0
        frozen_run(*typed, *changed)
        assert passes["image"] > 0, changed


def test_views_are_read_in_turn(frozen_run: TrainRun, store: Path, passes: dict[str, int]) -> None:
    """Each row has so many augmented images, whatever the number of epochs; another seed has others."""
    typed = [EXACT, "tune=head_only", "data.augment.crop=0.4", f"paths.cache={store}", "cache=always"]
    frozen_run(*typed, "cache.views=3", "trainer.max_epochs=4")
    assert passes["image"] == 48 * 3 + 30 + 30
    first = frozen_run(*typed, "cache.views=1", "trainer.max_epochs=4")
    assert passes["image"] == 48 * 3 + 30 + 30  # the first of the three is the same
    assert not same_weights(first, frozen_run(*typed, "cache.views=2", "trainer.max_epochs=4"))
    assert passes["image"] == 48 * 3 + 30 + 30
    frozen_run(*typed, "cache.views=2", "seed=1")
    assert passes["image"] == 48 * 3 + 30 + 30 + 48 * 2


@pytest.mark.slow
def test_every_damage_is_noticed(frozen_run: TrainRun, store: Path) -> None:
    """A flipped byte, a cut file, a lost one: the run ends with the same weights."""
    typed = [EXACT, "tune=last_n", f"paths.cache={store}", "cache=always"]
    right = frozen_run(*typed)
    whole = store.with_name("whole")
    shutil.copytree(store, whole)
    random = torch.Generator().manual_seed(0)
    for case in range(12):
        shutil.rmtree(store)
        shutil.copytree(whole, store)
        for shard in store.glob("*/*.shard"):
            data = bytearray(shard.read_bytes())
            for at in torch.randint(len(data), (3,), generator=random).tolist():
                data[at] ^= 1 << case % 8
            shard.write_bytes(data[: len(data) // 2] if case % 4 == 3 else data)
        assert same_weights(right, frozen_run(*typed)), case


@pytest.mark.slow
def test_two_runs_at_once_compute_once(
    tmp_path: Path, shapes_overrides: list[str], frozen_run: TrainRun, store: Path
) -> None:
    """The second waits for the first; both end with the same weights, and no row is stored twice."""
    typed = [*_without_rate(shapes_overrides), EXACT, "tune=head_only", f"paths.cache={store}", "cache=always"]

    def work(name: str) -> int:
        return train(compose("train", typed), tmp_path / name)

    children = [Forked(lambda name=name: work(name)) for name in ("one", "two")]
    assert [child.wait(800) for child in children] == [0, 0]
    right = frozen_run(EXACT, "tune=head_only", "cache=never")
    assert all(same_weights(right, Run(tmp_path / name)) for name in ("one", "two"))
    for entry in store.iterdir():
        keys = [key for shard in entry.glob("*.shard") for key in Shard(shard).keys.tolist()]
        assert len(keys) == len(set(keys)) > 0


def test_a_full_disk_ends_nothing(
    frozen_run: TrainRun, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = frozen_run(EXACT, "tune=head_only", f"paths.cache={store}", "cache=never")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmft.cache.entry.write_shard", full)
    assert same_weights(right, frozen_run(EXACT, "tune=head_only", f"paths.cache={store}", "cache=always"))
    assert "No space left on device" in capsys.readouterr().err


def test_what_does_not_fit_is_computed(frozen_run: TrainRun, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = [EXACT, "tune=head_only", f"paths.cache={store}"]
    right = frozen_run(*typed, "cache=never")
    assert same_weights(right, frozen_run(*typed, "cache=always", "cache.limit=1e-6"))
    assert not list(store.glob("*/*.shard"))
    assert "cache.limit" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 3])
def test_killed_while_writing(shards: int, tmp_path: Path, shapes_overrides: list[str], frozen_run: TrainRun) -> None:
    """What was written before is read, what was being written is not."""
    store = tmp_path / "store"
    typed = [EXACT, "tune=last_n", f"paths.cache={store}", "cache=always"]

    def work() -> int:
        import os

        import mmft.cache.shard as module

        left = [shards]

        def flushed(_: int) -> None:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        module.os = type("os", (), {**vars(os), "fsync": staticmethod(flushed)})  # type: ignore[assignment]
        return train(compose("train", [*_without_rate(shapes_overrides), *typed]), tmp_path / "killed")

    assert Forked(work).wait(800) == -signal.SIGKILL
    assert same_weights(frozen_run(*typed), frozen_run(*typed[:-1], "cache=never"))


@pytest.mark.slow
def test_a_resumed_run(tmp_path: Path, shapes_overrides: list[str], frozen_run: TrainRun, store: Path) -> None:
    typed = [*_without_rate(shapes_overrides), EXACT, "tune=last_n", f"paths.cache={store}", "cache=always"]
    killed_run(typed, tmp_path / "killed", 2, "after")
    assert same_weights(resumed(typed, tmp_path / "killed"), frozen_run(*typed[:-1], "cache=never"))


@pytest.mark.slow
def test_gradual_unfreezing(frozen_run: TrainRun, store: Path) -> None:
    """Each number of frozen layers has entries of its own; layers that join in an epoch are trained from its start."""
    schedule = "tune.schedule={0:0,1:1,2:2}"
    typed = [EXACT, "tune=gradual", schedule, "trainer.max_epochs=4", f"paths.cache={store}"]
    without = frozen_run(*typed, "cache=never")
    assert same_weights(without, frozen_run(*typed, "cache=always"))
    layers = [json.loads(path.read_text())["layers"] for path in store.glob("*/about.json")]
    assert sorted(map(str, layers)) == [
        "1",
        "1",
        "2",
        "all",
    ]  # a final norm of the image encoder is trained from the start
    workers = frozen_run(*typed, "cache=always", "data.num_workers=2")
    assert same_weights(without, workers)
    assert without.summary["test"] == workers.summary["test"]
    at_step = [*typed[:2], "tune.schedule={0:0,5:1}", "tune.image_encoder.unit=step", "tune.text_encoder.unit=step"]
    at_step += ["trainer.max_epochs=3", f"paths.cache={store}"]
    assert same_weights(frozen_run(*at_step, "cache=never"), frozen_run(*at_step, "cache=always"))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [4, 6, 7])
def test_gradual_unfreezing_resumed(
    tmp_path: Path, shapes_overrides: list[str], frozen_run: TrainRun, store: Path, steps: int
) -> None:
    own = [EXACT, "tune=gradual", "tune.schedule={0:0,2:1}", "trainer.max_epochs=4", f"paths.cache={store}"]
    typed = [*_without_rate(shapes_overrides), *own, "cache=always", "checkpoint.every_steps=1", "data.num_workers=2"]
    killed_run(typed, tmp_path / "killed", steps, "after")
    assert same_weights(resumed(typed, tmp_path / "killed"), frozen_run(*own, "cache=never"))


@pytest.mark.slow
def test_two_ranks(tmp_path: Path, shapes_overrides: list[str], store: Path) -> None:
    """Each fills its share of the store."""
    sgd = ["optim=sgd", "optim.lr=0.05", "optim.head_lr=0.05", "model.dropout=0", "trainer.precision=64-true"]
    typed = [*shapes_overrides, *sgd, "checkpoint.use=last", "tune=last_n", f"paths.cache={store}", "cache=always"]
    one, two = of_one_and_two_ranks(typed, "ddp", tmp_path)
    assert max(float((one.model_state[n] - two.model_state[n]).abs().max()) for n in one.model_state) <= 1e-10
    filled = sorted(summary_of(entry).rows for entry in entries(store))  # by the one process
    shutil.rmtree(store)
    again = tmp_path / "again"
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    fork_mmft("train", *typed, *ranks, f"hydra.run.dir={again}", cwd=tmp_path)
    assert same_weights(two, Run(again))
    assert sorted(summary_of(entry).rows for entry in entries(store)) == filled


def test_bad_rows_stay_bad(frozen_run: TrainRun, tmp_path: Path, shapes: Any, store: Path) -> None:
    rows = (shapes.folder / "rows.csv").read_text().splitlines()
    folder = tmp_path / "rows"
    shutil.copytree(shapes.folder, folder, ignore=shutil.ignore_patterns("*encoder*"))
    broken = next(path for path in sorted(folder.rglob("*.png")))
    broken.write_bytes(b"no image")
    typed = [EXACT, "tune=head_only", f"data.path={folder / 'rows.csv'}", f"paths.cache={store}", "data.limit=null"]
    assert len(rows) > 1
    runs = [frozen_run(*typed, cache) for cache in ("cache=never", "cache=always", "cache=always")]
    assert len({(run.path / "bad_rows.csv").read_text() for run in runs}) == 1
    assert all(same_weights(runs[0], run) for run in runs)


def test_what_is_said(frozen_run: TrainRun, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = frozen_run(EXACT, "tune=last_n", f"paths.cache={store}", "cache=always")
    assert run.summary["frozen_work"]["rows"] == {"image": 108, "text": 108}
    assert (
        "model.image_encoder: the first layer is frozen; what that gives for 108 images is read from"
        in capsys.readouterr().err
    )
    about = [json.loads(path.read_text()) for path in store.glob("*/about.json")]
    assert {Path(one["encoder"]).name for one in about} == {"image_encoder", "text_encoder"}


@pytest.mark.parametrize(("precision", "computes"), [("32-true", False), ("bf16-mixed", True)])
def test_a_task_is_tuned_on_what_predict_computes(
    precision: str, computes: bool, frozen_run: TrainRun, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In full precision, and so not on what the store has of a run in another."""
    seen: list[bool] = []
    plain = commands.tune_on_validation

    def tuned(model: Any, task: Any, batches: Any, *rest: Any) -> Any:
        seen.append(not model.frozen_parts and not batches.dataset.stored)
        return plain(model, task, batches, *rest)

    monkeypatch.setattr(commands, "tune_on_validation", tuned)
    kept = ["cache=always", f"paths.cache={store}", f"trainer.precision={precision}"]
    run = frozen_run("tune=head_only", "task.calibration=temperature", *kept)
    assert seen == [computes]
    assert run.summary["tuned"]


@pytest.mark.parametrize("typed", [["cache=always"], ["cache.dtype=int8"], []])
def test_what_keeps_nothing_is_told(typed: list[str], shapes_overrides: list[str], tmp_path: Path) -> None:
    given = [*shapes_overrides, "tune=full", "trainer.max_steps=1", f"paths.cache={tmp_path / 'store'}", *typed]
    assert train(compose("train", given), tmp_path / "run") == 0
    said = f"{''.join(typed)}: no layers are frozen that could be computed once, so nothing is kept"
    assert (said in (tmp_path / "run" / "train.log").read_text()) == bool(typed)
