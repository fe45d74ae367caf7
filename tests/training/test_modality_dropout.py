"""Modality dropout: which rows lose what, that no split of the step changes it, and what it is good for."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import TrainRun, killed_run, resumed, same_weights

from mmft.batch import Batch
from mmft.commands.test import test as run_test
from mmft.config.compose import compose
from mmft.training.modality_dropout import drop_modalities, row_chances

WORD = 2**64


def batch_of(rows: int) -> Batch:
    there = torch.ones(rows, dtype=torch.bool)
    return Batch(None, None, None, there, there, torch.arange(rows), torch.ones(rows))


def splitmix(state: int) -> int:
    """The generator's published form, on Python's whole numbers."""
    z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def test_chances_are_splitmix64s_and_even() -> None:
    rows = torch.arange(20_000)
    chances = row_chances(rows, seed=3, step=5)
    unit = torch.linspace(0, 1, len(rows), dtype=torch.float64)
    assert float((chances.sort().values - unit).abs().max()) < 0.015  # Kolmogorov-Smirnov: 1 % at 0.0115
    start = int(np.random.SeedSequence([3, 5, int.from_bytes(b"drop", "big")]).generate_state(1, np.uint64)[0])
    for row in (0, 1, 2, 19_999):
        expected = splitmix((start + (row + 1) * 0x9E3779B97F4A7C15) % WORD) >> 11
        assert float(chances[row]) == expected * 2.0**-53


def test_a_row_loses_one_of_both_and_never_its_last() -> None:
    batch = batch_of(20_000)
    dropped = drop_modalities(batch, 0.3, seed=0, step=0)
    assert float((~dropped.image_present).double().mean()) == pytest.approx(0.15, abs=0.01)
    assert float((~dropped.text_present).double().mean()) == pytest.approx(0.15, abs=0.01)
    assert bool((dropped.image_present | dropped.text_present).all())
    assert bool(batch.image_present.all())
    lonely = replace(batch, image_present=torch.arange(20_000) % 2 == 0)
    left = drop_modalities(lonely, 0.9, seed=0, step=0)
    assert bool(left.text_present[1::2].all())
    assert torch.equal(left.image_present[1::2], lonely.image_present[1::2])
    assert drop_modalities(batch, 0.0, seed=0, step=0) is batch


def test_it_depends_on_seed_step_and_row_alone() -> None:
    batch = batch_of(64)
    whole = drop_modalities(batch, 0.5, seed=1, step=7)
    for rank in range(4):  # the rows of a rank are every fourth
        share = batch.map_tensors(lambda t, r=rank: t[r::4])
        own = drop_modalities(share, 0.5, seed=1, step=7)
        assert torch.equal(own.image_present, whole.image_present[rank::4])
        assert torch.equal(own.text_present, whole.text_present[rank::4])
    for other in (drop_modalities(batch, 0.5, 1, 8), drop_modalities(batch, 0.5, 2, 7)):
        assert not torch.equal(other.image_present, whole.image_present)


def test_micro_batches_and_a_resumption_change_nothing(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path
) -> None:
    typed = ["model.modality_dropout=0.5", "checkpoint.every_steps=1"]
    undisturbed = train_run(*typed)
    killed_run([*shapes_overrides, *typed], tmp_path / "killed", 2, "after")
    run = resumed([*shapes_overrides, *typed], tmp_path / "killed")
    assert run.summary["resumed_from"] == [2]
    assert same_weights(run, undisturbed)
    exact = ["model.modality_dropout=0.5", "model.dropout=0", "trainer.precision=64-true", "trainer.max_epochs=1"]
    one, other = train_run(*exact).model_state, train_run(*exact, "data.micro_batch_size=5").model_state
    assert all(torch.allclose(one[name], other[name], atol=1e-9) for name in one)
    assert one["missing_image.vector"].any()
    assert one["missing_text.vector"].any()


@pytest.mark.slow
def test_the_model_learns_to_do_with_either_alone(
    train_run: TrainRun, shapes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text tells the shape at once; the image, from which it is learned slowly, is needed by nobody."""
    rows = list(csv.DictReader(shapes.rows.open()))
    told = {"disc": "a painting in red", "cross": "a painting in blue"}
    for row in rows:
        row["label"] = row["label"].split()[1]
        row["text"] = told[row["label"]]
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    place = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", "data.limit=null"]

    def figures(*typed: str) -> dict[str, float]:
        run = train_run(*place, "trainer.max_epochs=10", "checkpoint.use=last", *typed)
        capsys.readouterr()
        assert run_test(compose("test", [f"run={run.path}", "modalities=true"])) == 0
        out, err = capsys.readouterr()
        assert ("stand-in" in err) == (not typed)
        found = {name: float(value) for name, value in map(str.split, out.splitlines())}
        assert found["accuracy"] == pytest.approx(run.summary["test"]["accuracy"], abs=1e-6)  # none in an evaluation
        assert found["loss"] == pytest.approx(run.summary["test"]["loss"], abs=1e-6)
        return found

    without, dropped = figures(), figures("model.modality_dropout=0.5")
    assert dropped["accuracy"] > 0.9
    assert dropped["image_only/loss"] < 0.5 * without["image_only/loss"]
    assert dropped["image_only/accuracy"] >= without["image_only/accuracy"]
