"""Scripts of `tools/` in the test's process, and the small clip-art sample that they read."""

from __future__ import annotations

import contextlib
import csv
import io
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from drawings import drawing, encoded
from tiny_encoders import make_image_encoder, make_text_encoder
from transformers import Dinov2Model

from mmft.cli.main import main

TOOLS = Path(__file__).parents[2] / "tools"
CLASSES = ("animals", "plants")


def run_script(script: str | Path, *typed: str | Path) -> str:
    """What `python tools/SCRIPT TYPED` prints."""
    said, before = io.StringIO(), sys.argv
    sys.argv = [str(TOOLS / script), *map(str, typed)]
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.argv = before
    return said.getvalue()


def run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python processes that a script starts become calls in this process, which saves their imports."""

    def called(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable
        said = io.StringIO()
        if command[1:3] == ["-m", "mmft"]:
            with contextlib.redirect_stdout(said):
                code = main(command[3:])
        else:
            code = 0
            said.write(run_script(*command[1:]))
        assert code == 0, command
        return subprocess.CompletedProcess(command, code, said.getvalue())

    monkeypatch.setattr(subprocess, "run", called)


def make_clip_art(shared: Path, rows: int = 32) -> Path:
    """Writes a folder like the shared one: clip-art rows of two classes, and both encoders, small and at random."""
    folder = shared / "data" / "clipart"
    (folder / "images").mkdir(parents=True)
    titles = [f"{'dog' if n % 2 == 0 else 'rose'} number {n}" for n in range(rows)]
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "title", "keywords", "label", "split", "group"])
        for n, title in enumerate(titles):
            (folder / "images" / f"{n}.png").write_bytes(encoded(drawing(n, 64)))
            split = ("train", "train", "val", "test")[n // 2 % 4]
            writer.writerow([f"{CLASSES[n % 2]}/{n}", f"images/{n}.png", title, "", CLASSES[n % 2], split, str(n)])
    _spread(make_image_encoder(shared / "encoders" / "dinov2-small", kind="hf_dinov2"))
    make_text_encoder(shared / "encoders" / "minilm-l6", titles)
    return shared


def _spread(folder: Path) -> None:
    """Gives an encoder larger weights: small ones take all images for the same."""
    encoder = Dinov2Model.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in encoder.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                torch.nn.init.kaiming_normal_(module.weight)
    encoder.save_pretrained(folder)
