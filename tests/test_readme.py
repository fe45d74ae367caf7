"""The README's commands, run on the shapes sample.

Blocks behind `<!-- tested -->` are run as they stand, in a folder that looks like a user's; only the hub names
of the encoders are replaced by the sample's, because no test meets a network. `make test` runs them within its own
process, `make test-all` in bash. Of the others, every `make` target must exist.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from make_shapes import Shapes

from mmft.cli.main import main
from mmft.errors import ExitCode

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(<!-- tested -->\n)?```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STAND_INS = {
    "timm/vit_small_patch14_dinov2.lvd142m": "image_encoder",
    "hf/sentence-transformers/all-MiniLM-L6-v2": "text_encoder",
}


def blocks(tested: bool) -> list[tuple[str, str]]:
    """Language and text of the README's code blocks."""
    return [(language, text) for mark, language, text in BLOCK.findall(README) if bool(mark) == tested]


@pytest.fixture
def user_folder(shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a table, its images, two encoders, and a table of new rows without labels."""
    for name in ("images", "image_encoder", "text_encoder"):
        (tmp_path / name).symlink_to(shapes.folder / name)
    rows = list(csv.DictReader(shapes.rows.read_text().splitlines()))[::4]  # the README's images are large for a test
    for name, columns in {"rows.csv": list(rows[0]), "new.csv": ["image", "text"]}.items():
        with (tmp_path / name).open("w") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_in_bash(language: str, text: str) -> str:
    """Runs a block in a process and gives its stdout. `mmft` and `python` are those of this interpreter."""
    command = ["bash", "-euc", text] if language == "sh" else [sys.executable, "-c", text]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_here(language: str, text: str) -> str:
    """Runs a block in this process, which has imported torch already, and gives its stdout."""
    with redirect_stdout(io.StringIO()) as out:
        if language == "python":
            exec(text, {})
            return out.getvalue()
        for line in text.replace("\\\n", "").splitlines():
            program, *words = shlex.split(line)
            assert program == "mmft"
            assert main(words) == ExitCode.DONE, line
    return out.getvalue()


@pytest.mark.parametrize("run", [run_here, pytest.param(run_in_bash, marks=pytest.mark.slow)])
def test_commands_of_the_readme_run(run: Callable[[str, str], str], user_folder: Path) -> None:
    texts = []
    for language, text in blocks(tested=True):
        for name, folder in STAND_INS.items():
            text = text.replace(name, folder)
        texts.append(run(language, text))
    train, use, python = texts
    summary = json.loads((user_folder / train.splitlines()[-1] / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert "accuracy" in use
    with (user_folder / "predictions.csv").open() as file:
        predicted = list(csv.DictReader(file))
    assert len(predicted) == 60
    assert not any(row["error"] for row in predicted)
    assert "score" in python
    assert len(list((user_folder / "runs").rglob("summary.json"))) == 2


def test_encoders_of_the_readme_are_replaced() -> None:
    assert all(README.count(name) == 2 for name in STAND_INS)  # in the shell and in Python


def test_make_targets_of_the_readme_exist() -> None:
    named = {
        target
        for language, text in blocks(tested=False)
        for target in re.findall(r"^make ([\w-]+)", text, re.MULTILINE)
    }
    assert named == {"train", "test", "check", "test-all"}
    targets = set(re.findall(r"^([\w-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets
