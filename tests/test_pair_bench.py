"""`tools/bench/pair*.py`: that each runs on small rows, and that what it compares is what it says."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pair.start import join, save
from tool_scripts import CLASSES, TOOLS, make_clip_art, run_here
from transformers import AutoTokenizer


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return make_clip_art(tmp_path / "shared")


@pytest.fixture
def pair(tmp_path: Path, shared: Path) -> Path:
    """The encoders of the sample as one model, as the pair of docs/pairs.md begins."""
    image, text = shared / "encoders/dinov2-small", shared / "encoders/minilm-l6"
    save(join(image, text), AutoTokenizer.from_pretrained(text), 112, tmp_path / "pair")
    return tmp_path / "pair"


@pytest.fixture(autouse=True)
def _bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts import their neighbours by name."""
    monkeypatch.syspath_prepend(str(TOOLS / "bench"))


def module(name: str) -> ModuleType:
    """A script of the folder under a name of its own, since tests have a helper `pairs`, too."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", TOOLS / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_loop_trains_the_layers_that_it_is_told(pair: Path) -> None:
    loop: Any = module("pair_loop")
    built = loop.build(pair, steps=4, lr=1e-2, image_layers=1)
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=noise)
    ids = torch.randint(5, 20, (8, 8), generator=noise)
    losses = [loop.step(built, pixels, ids, torch.ones(8, 8, dtype=torch.bool)) for _ in range(4)]
    assert losses[-1] < losses[0]
    moved = {name for name, value in built.model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("vision_model.embeddings" in name or "vision_model.encoder.layer.0" in name for name in moved)
    for part in ("vision_model.encoder.layer.1", "text_model.embeddings", "visual_projection", "logit_scale"):
        assert any(part in name for name in moved), part


class Pairs:
    """`pairs.py` on the small rows, its runs in this process.

    Args:
        typed: what all commands have after the first word.
    """

    def __init__(self, typed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._typed, self._monkeypatch, self._capsys = typed, monkeypatch, capsys
        self.script: Any = module("pairs")

    def says(self, what: str, *more: str) -> list[list[str]]:
        """The cells of each line that the command prints."""
        self._monkeypatch.setattr("sys.argv", ["pairs.py", what, *self._typed, *more])
        self._capsys.readouterr()
        self.script.main()
        said = self._capsys.readouterr().out.splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in said if line.startswith("|")]


@pytest.fixture
def pairs(
    shared: Path, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Pairs:
    run_here(monkeypatch)
    made = Pairs([str(pair), "--shared", str(shared), "--out", str(tmp_path / "out")], monkeypatch, capsys)
    monkeypatch.setattr(made.script, "IMAGE_LAYERS", 1)
    return made


SHORT = ["report=false", "trainer.max_steps=2"]


@pytest.mark.slow
def test_retrieval_against_random_projections_and_the_loop(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is made once; `--table` prints them again and trains nothing."""
    said = pairs.says("retrieval", *SHORT)
    assert [line[0] for line in said] == ["pair", "random", "loop"]
    found = json.loads((tmp_path / "out" / "loop_0.json").read_text())
    assert found["seed"] == 0
    assert said[2][1:] == [f"{found['test']['mean_recall']:.3f} ± 0.000", f"{found['test']['mean_recall']:.3f}"]
    monkeypatch.setattr("subprocess.run", None)
    assert pairs.says("retrieval", "--table") == said


@pytest.mark.slow
def test_wise_ft_here_and_elsewhere(pairs: Pairs, shared: Path, tmp_path: Path) -> None:
    """Elsewhere are the validation images of the pair's own rows, each once and with a title of its own."""
    titles = ["a dog", "a dog", "an animal", "a rose", "a plant", "a tree"]
    columns = {"title": titles, "group": list("011233"), "split": ["val"] * 5 + ["train"]}
    columns["image"] = [(shared / f"data/clipart/images/{n}.png").read_bytes() for n in (0, 2, 2, 1, 3, 3)]
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    said = {line[0]: line[1:] for line in pairs.says("wise_ft", "--rows", str(tmp_path / "rows.parquet"), *SHORT)}
    assert list(said) == ["start", "pair", "wise", "tolerant"]
    assert pq.read_table(tmp_path / "out" / "elsewhere.parquet")["title"].to_pylist() == ["a dog", "a rose", "a plant"]
    assert said["start"][0] == said["start"][2] == said["pair"][2] == ""
    assert all(0 < float(cells[1].split()[0]) <= 1 for cells in said.values())
    wise, tolerant = (float(said[what][2]) for what in ("wise", "tolerant"))
    assert 0.5 <= tolerant <= wise <= 0.9


@pytest.mark.slow
def test_few_labels_by_rows_per_class(pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs.script, "ROWS_PER_CLASS", (1, 2))
    monkeypatch.setattr(pairs.script, "FEW_STEPS", 2)
    said = pairs.says("few_labels", "report=false")
    assert [line[0] for line in said] == ["1", "2"]
    assert all(0 <= float(cell.split()[0]) <= 1 for line in said for cell in line[1:])
    with (tmp_path / "out" / "few_2_0.csv").open(newline="") as file:
        splits = Counter((row["split"], row["label"]) for row in csv.DictReader(file))
    assert splits == {(s, label): 2 if s == "train" else 4 for s in ("train", "test") for label in CLASSES}


@pytest.mark.slow
def test_steps_and_memory_against_the_loop(
    pair: Path, tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both make so many steps on the same batches; peaks are those of processes of their own."""
    images = [path.read_bytes() for path in sorted((shared / "data/clipart/images").iterdir())]
    titles = [f"dog number {n}" for n in range(len(images))]
    pq.write_table(pa.table({"image": images, "title": titles}), tmp_path / "rows.parquet")
    script: Any = module("pair_step")
    peaks: list[str] = []

    def peak(_: object, what: str) -> int:
        peaks.append(what)
        return 2**30 if what == "ours" else 2**29

    monkeypatch.setattr(script, "peak", peak)
    typed = ["pair_step.py", str(pair), "--table", str(tmp_path / "rows.parquet"), "--batch", "8"]
    monkeypatch.setattr("sys.argv", [*typed, "--steps", "4"])
    script.main()
    step, memory = capsys.readouterr().out.splitlines()[-2:]
    ours, theirs, ratio = (float(found) for found in re.findall(r"\d+\.\d+", step))
    assert ours > 0
    assert theirs > 0
    assert ratio > 0
    assert memory == "peak memory: ours 1.00 GiB, loop 0.50 GiB, ratio 2.000"
    assert peaks == ["ours", "theirs"] * 2
    for what in ("ours", "theirs"):
        monkeypatch.setattr("sys.argv", [*typed, "--steps", "3", "--only", what])
        script.main()
        assert int(capsys.readouterr().out.split()[-1]) > 2**20
