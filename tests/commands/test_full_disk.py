"""A full disk and a folder that may not be written end a command with one sentence and a code, never a traceback."""

from __future__ import annotations

import errno
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import Run, TrainRun, resumed

from mmft.cli.main import main
from mmft.errors import ExitCode, TrainingError, UserError
from mmft.files import naming, replace_folder, write_text, written_aside
from mmft.training import checkpoint, space


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train_run("checkpoint.every_steps=1")
    folder, plain, calls = tmp_path / "run", checkpoint.save_tensors, iter(range(99))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_tensors", lambda *args: full() if next(calls) == 3 else plain(*args))
        with pytest.raises(TrainingError, match="No space left on device") as told:
            train_run("checkpoint.every_steps=1", folder=folder)
    words = str(told.value)
    assert f"{folder / 'checkpoints' / 'last'} cannot be written" in words
    assert "bytes are free there" in words
    assert f"To resume from {folder / 'checkpoints' / 'last'} (optimizer step 3): mmft train resume={folder}" in words
    assert "\n" not in words
    assert Run(folder).summary["status"] == "failed"
    assert not list(folder.rglob(".*.new"))
    run = resumed([*shapes_overrides, "checkpoint.every_steps=1"], folder)
    assert run.metrics == undisturbed.metrics


def test_a_disk_without_room_is_refused_before_training(
    train_run: TrainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda _: 12_345)
    with pytest.raises(UserError, match=r"has 12,345 bytes free, but .* take about [\d,]+ more") as told:
        train_run(folder=tmp_path / "run")
    assert told.value.exit_code == ExitCode.USER
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_estimate_is_what_a_checkpoint_takes(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_run()
    monkeypatch.setattr(space, "free_bytes", lambda _: 0)
    with pytest.raises(UserError) as told:
        train_run()
    copies, estimate = re.search(r"\((\d) checkpoints of ([\d,]+),", str(told.value)).groups()  # type: ignore[union-attr]
    last = run.path / "checkpoints" / "last" / "tensors.safetensors"
    assert copies == "3"  # last, best, and one while it is written
    assert int(estimate.replace(",", "")) == pytest.approx(last.stat().st_size, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [4, 64, 512])  # of 1,024 bytes
def test_a_limit_on_the_size_of_files(shapes_overrides: list[str], tmp_path: Path, blocks: int) -> None:
    typed = [sys.executable, "-m", "mmft", "train", *shapes_overrides, f"paths.runs={tmp_path / 'runs'}"]
    limited = ["bash", "-c", f"ulimit -f {blocks}; exec " + " ".join(map(shlex.quote, typed))]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.TRAINING
    assert "Traceback" not in done.stderr
    assert re.search(rf"mmft: error: {tmp_path}/\S+ cannot be written: File too large.* bytes", done.stderr)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_write_that_fails_names_the_file_and_exits_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def fails(*_: Any) -> int:
        with written_aside(tmp_path / "out.csv") as new:
            new.write_text("half")
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("mmft.cli.main._main", fails)
    assert main([]) == ExitCode.TRAINING
    said = capsys.readouterr().err
    assert said.startswith(f"mmft: error: {tmp_path / 'out.csv'} cannot be written: {os.strerror(number)} (")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_path_that_may_not_be_used_is_the_users_and_exits_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def fails(*_: Any) -> int:
        raise OSError(number, os.strerror(number), "/somewhere/out.csv")

    monkeypatch.setattr("mmft.cli.main._main", fails)
    assert main([]) == ExitCode.USER
    assert f"/somewhere/out.csv cannot be used: {os.strerror(number)}" in capsys.readouterr().err


def test_what_was_there_stays_and_nothing_is_left_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "summary.json", "old")
    replace_folder(tmp_path / "last", lambda new: write_text(new / "a", "old"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="summary.json"):
            write_text(tmp_path / "summary.json", "new")
    with pytest.raises(OSError, match="last"):
        replace_folder(tmp_path / "last", full)
    assert (tmp_path / "summary.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "summary.json"]


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as told, naming(tmp_path / "out"):
        (tmp_path / "rows.csv").read_text()
    assert told.value.filename == str(tmp_path / "rows.csv")
