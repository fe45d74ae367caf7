"""The README's commands, run on the shapes sample.

Blocks behind `<!-- tested -->` are run as they stand, in a folder that looks like a user's; only the hub names
of the encoders are replaced by the sample's, because no test meets a network. Of the others, every `make`
target must exist.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from make_shapes import Shapes

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
def user_folder(shapes: Shapes, tmp_path: Path) -> Path:
    """A folder with a table, its images, two encoders, and a table of new rows without labels."""
    for name in ("rows.csv", "images", "image_encoder", "text_encoder"):
        (tmp_path / name).symlink_to(shapes.folder / name)
    with shapes.rows.open() as old, (tmp_path / "new.csv").open("w") as new:
        writer = csv.writer(new)
        writer.writerows(
            (row["image"], row["text"]) for row in [{"image": "image", "text": "text"}, *csv.DictReader(old)]
        )
    return tmp_path


def run(language: str, text: str, cwd: Path) -> str:
    """Runs a block and gives its stdout. `mmft` and `python` are those of this interpreter."""
    for name, folder in STAND_INS.items():
        text = text.replace(name, folder)
    command = ["bash", "-euc", text] if language == "sh" else [sys.executable, "-c", text]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_commands_of_the_readme_run(user_folder: Path) -> None:
    train, use, python = [run(language, text, user_folder) for language, text in blocks(tested=True)]
    summary = json.loads((user_folder / train.splitlines()[-1] / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert "accuracy" in use
    with (user_folder / "predictions.csv").open() as file:
        predicted = list(csv.DictReader(file))
    assert len(predicted) == 240
    assert not any(row["error"] for row in predicted)
    assert "prediction" in python


def test_encoders_of_the_readme_are_replaced() -> None:
    assert all(README.count(name) == 1 for name in STAND_INS)


def test_make_targets_of_the_readme_exist() -> None:
    named = {
        target
        for language, text in blocks(tested=False)
        for target in re.findall(r"^make ([\w-]+)", text, re.MULTILINE)
    }
    assert named == {"train", "test", "check", "test-all"}
    targets = set(re.findall(r"^([\w-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets
