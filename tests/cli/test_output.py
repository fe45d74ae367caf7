"""What the command prints: in any encoding, paths in one form, a stop once."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from runs import TrainRun

from mmft.cli.main import main
from mmft.errors import ExitCode
from mmft.run.listing.found import find_runs
from mmft.run_folder import RunFolder
from mmft.training.callbacks.checkpointing import Checkpointing


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_terminal_that_lacks_a_character_gets_another(tmp_path: Path, encoding: str) -> None:
    rows = tmp_path / "größe.csv"
    rows.write_text("text,label\n猫,a\n", encoding="utf-8")
    typed = [f"data.path='{rows}'", "data.columns.text=text", "data.columns.label='ラベル'"]
    encoders = ["model.image_encoder.name=mmft:dinov2-tiny", "model.text_encoder.name=mmft:minilm-tiny"]
    done = subprocess.run(
        [sys.executable, "-m", "mmft", "check", *typed, *encoders],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode(encoding)
    assert done.returncode == ExitCode.USER
    assert "Traceback" not in said
    assert "UnicodeEncodeError" not in said
    assert ("ラベル" if encoding == "utf-8" else "???") in said


def test_predictions_on_stdout_are_utf8_in_any_terminal(
    train_run: TrainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmft.commands.predict import predict
    from mmft.config.compose import compose

    run = train_run()
    (tmp_path / "rows.csv").write_text("text,name\na red disc,größe-猫\n", encoding="utf-8")
    typed = [f"run={run.path}", f"data.path={tmp_path / 'rows.csv'}", "data.columns.image=null", "data.columns.id=name"]
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    assert predict(compose("predict", [*typed, "out=-"])) == 0
    sys.stdout.flush()
    [row] = csv.DictReader(io.StringIO(raw.getvalue().decode("utf-8")))
    assert row["id"] == "größe-猫"
    assert b"\r" not in raw.getvalue()


def test_paths_on_stdout_are_absolute(
    train_run: TrainRun,
    shapes: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = train_run()
    monkeypatch.chdir(tmp_path)
    relative = run.path.relative_to(tmp_path)
    data = f"data.path={shapes.rows}"
    capsys.readouterr()
    for typed, last in {
        ("train", f"resume={relative}"): relative,
        ("predict", f"run={relative}", data, "out=p.csv"): "p.csv",
        ("embed", f"run={relative}", data, "out=e.npz"): "e.npz",
        ("explain", f"run={relative}", data, "rows=[1]", "points=2", "out=x"): "x/row1.png",
        ("export", f"run={relative}"): relative / "export",
        ("runs", "paths.runs=.", "out=runs.csv"): "runs.csv",
    }.items():
        assert main(typed) == ExitCode.DONE
        assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / last)
    [listed] = csv.DictReader((tmp_path / "runs.csv").open())
    assert listed["run"] == str(run.path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_is_told_once(
    shapes_overrides: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    def work() -> int:
        save = Checkpointing.on_train_batch_end

        def signalled(self: Checkpointing, trainer: Any, *args: Any) -> None:
            save(self, trainer, *args)
            if trainer.global_step == 2:
                os.kill(os.getpid(), number)

        Checkpointing.on_train_batch_end = signalled  # type: ignore[method-assign]
        return main(["train", *shapes_overrides, f"paths.runs={tmp_path}", "name=stopped"])

    assert Forked(work).wait(300) == code
    said = capfd.readouterr().err
    [run] = find_runs(tmp_path)
    assert said.count("Stopped by") == 1
    assert said.count("mmft train resume=") == 1
    assert f"(optimizer step 2): mmft train resume={run.folder.path}" in said
    assert "Stopped by" in (run.folder.path / "train.log").read_text()
    assert run.status == "stopped"


def test_a_run_whose_process_is_gone_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "mine" / "1")
    with folder.owned():
        folder.start(monitor="val/accuracy", val={"a": 0.0, "accuracy": 0.5})
        assert [run.status for run in find_runs(tmp_path)] == ["running"]
    assert [run.status for run in find_runs(tmp_path)] == ["killed"]
    assert main(["runs", f"paths.runs={tmp_path}", "status=killed"]) == ExitCode.DONE
    header, line = capsys.readouterr().out.splitlines()
    assert "val/accuracy" in header
    assert "0.5000" in line
    assert main(["runs", f"paths.runs={tmp_path}", "status=running"]) == ExitCode.DONE
    assert capsys.readouterr().out == ""
