"""A cut or altered checkpoint is never loaded without a word, and the newest whole one is found."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from runs import Run, TrainRun, killed_run, resumed, same_weights

import mmft
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import ExitCode, TrainingError, UserError
from mmft.files import CHECKSUMS, damage, seal
from mmft.run.resume import resolve
from mmft.run_folder import RunFolder
from mmft.training.checkpoint import FolderCheckpointIO, read

TREE = {"global_step": 3, "weights": [torch.arange(300.0), torch.ones(7)], "callbacks": {"A": {"kept": [1, 2]}}}


def flip(file: Path, at: int, bit: int = 0) -> None:
    """Flips one bit of a file, whose links keep the old bytes."""
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.unlink()
    file.write_bytes(data)


def cut(file: Path, size: int) -> None:
    """Cuts a file, whose links keep all bytes."""
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:size])


def test_of_200_cut_or_flipped_checkpoints_none_is_loaded(tmp_path: Path) -> None:
    rng, last = random.Random(0), tmp_path / "last"
    for number in range(200):
        FolderCheckpointIO().save_checkpoint(TREE, last)
        file = sorted(last.iterdir())[number % 3]
        size = file.stat().st_size
        if number % 2:
            cut(file, rng.randrange(size))
        else:
            flip(file, rng.randrange(size), rng.randrange(8))
        with pytest.raises(
            UserError, match=r"bytes\) is not as it was written|bytes but was written|was altered|is missing"
        ) as told:
            read(last)
        assert str(last) in str(told.value)
        assert "\n" not in str(told.value)


def test_an_intact_checkpoint_is_whole_and_a_missing_file_is_seen(tmp_path: Path) -> None:
    FolderCheckpointIO().save_checkpoint(TREE, tmp_path / "last")
    assert damage(tmp_path / "last") is None
    (tmp_path / "last" / "state.json").unlink()
    assert "state.json (" in str(damage(tmp_path / "last"))
    assert "is missing" in str(damage(tmp_path / "last", thorough=False))


def test_a_checkpoint_of_before_is_loaded_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FolderCheckpointIO().save_checkpoint(TREE, tmp_path / "last")
    (tmp_path / "last" / CHECKSUMS).unlink()
    with caplog.at_level("WARNING", "mmft"):
        assert read(tmp_path / "last")["global_step"] == 3
    assert "checksums" in caplog.text
    cut(tmp_path / "last" / "tensors.safetensors", 100)
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read(tmp_path / "last")


def test_seal_covers_subfolders(tmp_path: Path) -> None:
    (tmp_path / "model" / "text_encoder").mkdir(parents=True)
    (tmp_path / "model" / "text_encoder" / "vocab.txt").write_text("a\nb\n")
    seal(tmp_path / "model")
    assert damage(tmp_path / "model") is None
    flip(tmp_path / "model" / "text_encoder" / "vocab.txt", 0)
    assert "vocab.txt (4 bytes) was altered" in str(damage(tmp_path / "model"))


def test_a_resume_falls_back_to_the_newest_whole_checkpoint(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*shapes_overrides, "checkpoint.every_steps=1", "trainer.log_every_steps=1"]
    undisturbed = train_run(*overrides[len(shapes_overrides) :])
    folder = tmp_path / "killed"
    killed_run(overrides, folder, 5, "after")  # `best` is of step 3
    cut(folder / "checkpoints" / "last" / "tensors.safetensors", 1000)
    capsys.readouterr()
    run = resumed(overrides, folder)
    said = capsys.readouterr().err
    assert "tensors.safetensors has 1,000 bytes but was written with" in said
    assert f"{folder / 'checkpoints' / 'best'} is the newest whole checkpoint" in said
    assert run.summary["resumed_from"] == [3]
    assert same_weights(run, undisturbed)
    assert run.metrics == undisturbed.metrics
    assert run.summary["test"] == undisturbed.summary["test"]


def test_a_damaged_best_is_not_the_finished_model(
    shapes_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*shapes_overrides, "checkpoint.every_steps=1"]
    folder = tmp_path / "killed"
    killed_run(overrides, folder, 5, "after")
    flip(folder / "checkpoints" / "best" / "tensors.safetensors", 5000)
    run = resumed(overrides, folder)
    assert "optimizer step 3 is no longer the best" in capsys.readouterr().err
    assert run.summary["model_step"] == 6


def test_without_a_whole_checkpoint_nothing_is_resumed(shapes_overrides: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    killed_run([*shapes_overrides, "checkpoint.every_steps=1"], folder, 2, "after")
    flip(folder / "checkpoints" / "last" / "state.json", 40)
    with pytest.raises(UserError, match="has no whole checkpoint") as told:
        resumed([*shapes_overrides, "checkpoint.every_steps=1"], folder)
    assert "state.json" in str(told.value)
    assert Run(folder).summary["status"] == "failed"


def test_a_damaged_model_is_not_loaded_and_made_again_on_resume(
    train_run: TrainRun, shapes_overrides: list[str]
) -> None:
    run = train_run()
    before = run.model_state
    for name in ("model.safetensors", "config.json", "text_encoder/tokenizer.json"):
        flip(run.path / "model" / name, 100)
        with pytest.raises(UserError, match=name) as told:
            mmft.load(run.path)
        assert told.value.exit_code == ExitCode.USER
        found = resolve(compose("train", [*shapes_overrides, f"resume={run.path}"]))
        assert found is not None
        assert train(*found) == 0
        mmft.load(run.path)
    assert all(torch.equal(before[name], value) for name, value in run.model_state.items())


def test_a_best_damaged_during_training_ends_it_by_name(
    train_run: TrainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmft.commands.train as program

    plain, folder = program.finish, tmp_path / "run"

    def damaged(*args: object) -> object:
        flip(folder / "checkpoints" / "best" / "tensors.safetensors", 5000)
        return plain(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(program, "finish", damaged)
    with pytest.raises(TrainingError, match="was altered since it was written") as told:
        train_run("checkpoint.every_steps=1", "optim.lr=1e-12", "optim.head_lr=1e-12", folder=folder)  # best: step 3
    assert f"To resume from {folder / 'checkpoints' / 'last'} (optimizer step 6)" in str(told.value)


def test_lengths_alone_name_a_checkpoint_in_messages(train_run: TrainRun) -> None:
    run = train_run()
    folder = RunFolder(run.path)
    assert "checkpoints/last (optimizer step 6)" in folder.way_on()
    os.truncate(run.path / "checkpoints" / "last" / "state.json", 10)
    assert "checkpoints/last" not in folder.way_on()
