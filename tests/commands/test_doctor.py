"""`mmft doctor` and `mmft --version`: what they print and give."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mmft.commands import doctor as module
from mmft.commands.doctor import doctor
from mmft.config.compose import compose
from mmft.errors import ExitCode
from mmft.reports.machine.diagnosis import Diagnosis

FATAL = Diagnosis("torchvision", "1.0", "does not import. Type this", fatal=True)
ODD = Diagnosis("disk", "1 MiB", "is full. Type that")
FINE = Diagnosis("cpu", "2 cores")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`said(diagnosis, ...)`: the exit code and the output where these are found."""

    def run(*found: Diagnosis) -> tuple[int, str]:
        def diagnoses(runs: str) -> Iterator[Diagnosis]:
            assert runs == "here"
            yield from found

        monkeypatch.setattr(module, "diagnoses", diagnoses)
        return doctor(compose("doctor", ["paths.runs=here"])), capsys.readouterr().out

    return run


def test_all_is_well(said: Callable[..., tuple[int, str]]) -> None:
    assert said(FINE) == (ExitCode.DONE, "cpu            2 cores\n\nTraining can work here.\n")


def test_what_is_wrong_is_said_below(said: Callable[..., tuple[int, str]]) -> None:
    code, text = said(FINE, ODD)
    assert code == ExitCode.DONE
    assert "warning  disk: is full. Type that\n" in text
    code, text = said(FATAL, FINE, ODD)
    assert code == ExitCode.USER
    assert "WRONG  torchvision: does not import. Type this\n" in text
    assert text.endswith("Training cannot work here: torchvision.\n")


@pytest.mark.slow
def test_a_torchvision_of_another_torch(mmft: Callable[..., Any], tmp_path: Path) -> None:
    """The whole command, with the trap that an installation most often has (LESSONS): exit code 2, no traceback."""
    trap = tmp_path / "trap" / "torchvision.py"
    trap.parent.mkdir()
    trap.write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    done = mmft(
        "doctor",
        cwd=tmp_path,
        check=False,
        env={"PYTHONPATH": str(trap.parent), "HOME": str(tmp_path), "TORCH_HOME": ""},
    )
    assert done.returncode == ExitCode.USER, done.stderr
    lines = dict(
        re.split(r" {2,}|(?<=MMFT_ENCODERS) ", line, maxsplit=1) for line in done.stdout.split("\n\n")[0].splitlines()
    )
    assert lines["torch"] == version("torch")
    assert lines["torchvision"] == f"{version('torchvision')}  does not import"
    assert {"python", "mmft", "cpu", "hub cache", "MMFT_ENCODERS", "wandb login", "paths.runs"} <= lines.keys()
    assert "operator torchvision::nms does not exist" in done.stdout
    assert "pip install --force-reinstall torch torchvision" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()
