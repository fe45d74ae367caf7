"""Finished models read from the store what their encoders compute: the same predictions, without computing again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from built import built
from runs import Run, TrainRun
from torch import Tensor

import mmft
from mmft import build
from mmft.commands.embed import embed
from mmft.commands.predict import predict
from mmft.commands.test import test as run_test
from mmft.config.compose import compose
from mmft.models.frozen_part import FrozenPart


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many rows encoders have computed since the last call."""
    counted = [0]
    compute = FrozenPart.compute

    def counting(self: FrozenPart, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        counted[0] += len(inputs[0])
        return compute(self, inputs)

    def since() -> int:
        found, counted[0] = counted[0], 0
        return found

    monkeypatch.setattr(FrozenPart, "compute", counting)
    return since


@pytest.fixture
def use(tmp_path: Path) -> Callable[..., bytes]:
    """Applies a command to all rows of the run's table, and returns what it writes."""

    def made(command: str, run: Run, *typed: str, rows: Path) -> bytes:
        out = tmp_path / ("out.npz" if command == "embed" else "out.csv")
        given = [f"run={run.path}", f"data.path={rows}", f"out={out}", f"paths.cache={tmp_path / 'store'}", *typed]
        assert {"predict": predict, "embed": embed}[command](compose(command, given)) == 0
        return b"".join(value.tobytes() for value in np.load(out).values()) if command == "embed" else out.read_bytes()

    return made


def test_predictions_are_the_same_from_the_store(
    finished_run: Run, shapes: Path, use: Callable[..., bytes], computed: Callable[[], int], tmp_path: Path
) -> None:
    rows = shapes.rows  # type: ignore[attr-defined]
    plain = use("predict", finished_run, "cache=never", rows=rows)
    assert not (tmp_path / "store").exists()
    assert computed() > 0
    assert use("predict", finished_run, "cache=always", rows=rows) == plain
    computed()
    assert use("predict", finished_run, "cache=always", rows=rows) == plain
    embedded = use("embed", finished_run, "cache=always", rows=rows)
    assert computed() == 0
    assert use("embed", finished_run, "cache=never", rows=rows) == embedded


def test_frozen_encoders_share_what_training_computed(
    train_run: TrainRun, capsys: pytest.CaptureFixture[str], computed: Callable[[], int], tmp_path: Path
) -> None:
    store = f"paths.cache={tmp_path / 'store'}"
    run = train_run("tune=head_only", "optim.lr=null", "trainer.precision=32-true", "cache=always", store)
    capsys.readouterr()
    assert computed() > 0
    found = []
    for cache in ("auto", "never"):
        assert run_test(compose("test", [f"run={run.path}", f"cache={cache}", store])) == 0
        found.append(capsys.readouterr().out)
        assert (computed() == 0) == (cache == "auto")
    assert found[0] == found[1]


def test_what_trained_encoders_compute_is_kept_only_when_asked(
    finished_run: Run, shapes: Path, use: Callable[..., bytes], tmp_path: Path
) -> None:
    use("predict", finished_run, "cache=auto", rows=shapes.rows)  # type: ignore[attr-defined]
    assert not list((tmp_path / "store").glob("*"))
    use("predict", finished_run, "cache=always", rows=shapes.rows)  # type: ignore[attr-defined]
    assert len(list((tmp_path / "store").glob("*/*.shard"))) == 2


def test_a_run_that_rounded_in_training_rounds_in_use(train_run: TrainRun, shapes: Path, tmp_path: Path) -> None:
    """Whatever command applies it, also in Python."""
    typed = ["tune=head_only", "optim.lr=null", "trainer.precision=32-true", f"paths.cache={tmp_path / 'store'}"]
    run = train_run(*typed, "cache.dtype=int8", "cache=always")
    rows = [{"image": str(path), "text": "a red circle"} for path in sorted(shapes.folder.rglob("*.png"))[:5]]  # type: ignore[attr-defined]
    model = mmft.load(run.path)
    rounded = [row["score"] for row in model.predict(rows)]
    model.saved.config.cache.dtype = "computed"
    exact = [row["score"] for row in model.predict(rows)]
    assert rounded != exact
    assert np.allclose(rounded, exact, atol=0.02)


def test_pooled_features_are_of_images_without_augmentation(shapes_overrides: list[str], tmp_path: Path) -> None:
    """Also where training reads views."""
    found = []
    for typed in ([], ["data.augment.flip=0.5", "cache.views=2"]):
        config, model, data = built([*shapes_overrides, f"paths.cache={tmp_path}", "cache=always", *typed])
        found.append(build.EncoderFeatures(config, model).of(data.datasets["train"])["image"])
    assert np.array_equal(found[0].values, found[1].values)
    assert found[0].there.all()
