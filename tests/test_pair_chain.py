"""The commands that `tools/pair` prints, one after the other, on small packages and encoders."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pair
import pyarrow.parquet as pq
import pytest
import torch
from drawings import drawing, encoded
from pair import sources, tiny
from pair.judge import Judged, Pair, described
from pair.start import join, save
from tiny_encoders import make_image_encoder, make_text_encoder
from tool_scripts import make_clip_art, run_script
from transformers import AutoTokenizer

from mmft.cli.main import main

STAMPS = 48  # of which rows.py puts two into the validation split
NOUNS = ("entity", "object", "whole", "organism", "animal", "dog", "cat", "plant", "rose", "tree")
SMALL = {
    "start.py": ["--steps", "2"],
    "align.py": ["--batch", "16", "--projection-epochs", "2"],
    "train": ["data.batch_size=16", "trainer.max_steps=2", "report=false", "callbacks.progress=none"],
}
"""What is typed besides, by script or command."""
FEWER = {"tune.image_encoder.layers=4": "tune.image_encoder.layers=1"}


def make_packages(work: Path) -> None:
    """Every package that rows.py reads, unpacked: stamps, a drawing of Open Clip Art, icons, emoji."""
    folders = {name: work / "deb" / name for name in sources.DEBIAN}
    for folder in folders.values():
        folder.mkdir(parents=True)
    make_wordnet(folders[sources.WORDNET] / "usr/share/wordnet")
    countries = folders[sources.COUNTRIES] / "usr/share/iso-codes/json"
    countries.mkdir(parents=True)
    named = {"3166-1": [{"alpha_2": "DK", "name": "Denmark"}]}
    (countries / "iso_3166-1.json").write_text(json.dumps(named))
    stamps = folders[sources.STAMPS] / "usr/share/tuxpaint/stamps/things"
    stamps.mkdir(parents=True)
    for number in range(STAMPS):
        noun = NOUNS[5 + number % 5]
        (stamps / f"{noun}_{number:02}.png").write_bytes(encoded(drawing(100 + number, 64)))
        (stamps / f"{noun}_{number:02}.txt").write_text(f"A {noun} in box {number}.")
    library = folders[sources.OPEN_CLIP_ART] / "usr/share/openclipart/svg/plants"
    library.mkdir(parents=True)
    (library / "tree.svg").write_text("<svg>tree</svg>")
    (library / "1.svg").write_text("<svg>a row of the sample has this path</svg>")
    for name in (*sources.COLOURED, *sources.EMOJI):
        package = work / "npm" / f"iconify-json+{name}" / "package"
        package.mkdir(parents=True)
        icons = {"dk": {"body": name}} if name in sources.FLAGS else {"cat": {"body": name}, "rose": {"body": name * 2}}
        (package / "icons.json").write_text(json.dumps({"icons": icons}))
        (package / "metadata.json").write_text(json.dumps({"categories": {"Nature": list(icons)}}))


def make_wordnet(folder: Path) -> None:
    """A dog and a cat are animals, which are organisms, and so on; the rest are entities."""
    folder.mkdir(parents=True)
    kinds = [None, 0, 1, 2, 3, 4, 4, 0, 0, 0]
    data = ["  1 the licence\n"]
    for number, (noun, kind) in enumerate(zip(NOUNS, kinds, strict=True)):
        pointers = "000" if kind is None else f"001 @ {kind:08} n 0000"
        data.append(f"{number:08} 05 n 01 {noun} 0 {pointers} | a gloss\n")
    (folder / "data.noun").write_text("".join(data))
    (folder / "index.noun").write_text("".join(f"{noun} n 1 1 @ 1 0 {n:08}\n" for n, noun in enumerate(NOUNS)))


def rendered(svg_string: str, width: int, background: str) -> bytes:
    """Stands in for resvg: an image that depends on the whole text."""
    assert background == "white"
    return encoded(drawing(zlib.crc32(svg_string.encode()), width))


class Chain:
    """Commands as they are printed, with the folders of a test in the place of OUT and ../shared."""

    def __init__(self, out: Path, shared: Path) -> None:
        self._out, self._shared = out, shared
        self._variables: dict[str, list[str]] = {}
        self.said: dict[str, str] = {}

    def run(self, doc: str) -> None:
        """Every indented line of a docstring; a line goes on after a backslash."""
        lines = doc.replace("\\\n", " ").splitlines()
        for line in lines:
            if line.startswith("    "):
                self._command(line.strip())

    def _command(self, line: str) -> None:
        if line.startswith("TRAIN="):
            self._variables["$TRAIN"] = shlex.split(line.removeprefix("TRAIN=").strip('"'))
            return
        words = [word for typed in shlex.split(line) for word in self._variables.get(typed, [typed])]
        program, name, *typed = [self._placed(word) for word in words]
        if program == "python":
            script = Path(name).name
            print_ = run_script(Path(name).relative_to("tools"), *typed, *SMALL.get(script, []))
            self.said[script] = self.said.get(script, "") + print_
        else:
            assert program == "mmft"
            more = SMALL.get(name, [])
            keys = [one.partition("=")[0] for one in more]
            assert main([name, *(one for one in typed if one.partition("=")[0] not in keys), *more]) == 0, line

    def _placed(self, word: str) -> str:
        word = FEWER.get(word, word).replace("OUT", str(self._out)).replace("../shared", str(self._shared))
        if word.endswith("/..."):
            head, _, folder = word.rpartition("=")
            newest = max(Path(folder.removesuffix("/...")).iterdir(), key=lambda run: run.stat().st_mtime)
            return f"{head}={newest}"
        return word


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    make_packages(tmp_path / "out" / "src")
    monkeypatch.setitem(sys.modules, "resvg_py", SimpleNamespace(svg_to_bytes=rendered))
    return Chain(tmp_path / "out", make_clip_art(tmp_path / "shared", 16))


def one_script(doc: str, script: str) -> str:
    """The part of a docstring with the commands of a script, its last line for the next one's first."""
    begin = doc.index(f"    python tools/pair/{script}")
    return doc[begin : doc.index("\n    python", begin + 1)]


def titles_of(table: Path) -> Sequence[str]:
    return list(pq.read_table(table)["title"].to_pylist())


def test_rows_have_all_sources_and_none_of_the_sample(chain: Chain, tmp_path: Path) -> None:
    chain.run(one_script(pair.__doc__ or "", "rows.py"))
    rows = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    images = {row["group"]: row["source"] for row in rows}
    icons = sum(1 if name in sources.FLAGS else 2 for name in sources.COLOURED)
    assert Counter(images.values()) == {"stamps": STAMPS, "clip art": 1, "sets": icons}
    assert [row["title"] for row in rows if row["source"] == "clip art"][:2] == ["tree", "a drawing of a tree"]
    assert {"a dog in box 0", "the flag of denmark", "a drawing of the flag of denmark"} <= {r["title"] for r in rows}
    assert len({row["group"] for row in rows if row["split"] == "val"}) >= 2
    emoji = pq.read_table(tmp_path / "out" / "emoji.parquet").to_pylist()
    assert Counter((row["set"], row["label"]) for row in emoji) == {(name, "nature"): 2 for name in sources.EMOJI}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_chain(chain: Chain, tmp_path: Path) -> None:
    """Each step changes the pair, transformers loads what comes out, and it is judged on clip art and emoji."""
    chain.run(pair.__doc__ or "")
    out = tmp_path / "out"
    features = np.load(out / "apart.npy")
    groups = set(pq.read_table(out / "apart.parquet")["group"].to_pylist())
    assert features.shape == (len(groups), 32)
    assert f"{len(groups)} of " in chain.said["apart.py"]
    assert "recall at 10 of val" in chain.said["align.py"]
    judged = chain.said["judge.py"].splitlines()
    assert [line.split(" zero-shot")[0] for line in judged] == ["clip art", "openmoji", "twemoji"]
    assert "of 2 classes (majority 0.500)" in judged[0]
    images = [encoded(drawing(seed, 64)) for seed in (1, 2)]
    steps = [Pair(out / name).images(images) for name in ("start", "aligned", "once", "pair")]
    for before, after in pairwise(steps):
        assert not torch.allclose(before, after, atol=1e-4)
    torch.testing.assert_close(Pair(out / "pair").texts(["dog", "cat"]).norm(dim=-1), torch.ones(2))


@pytest.mark.slow
def test_the_shipped_pair_is_made(chain: Chain, tmp_path: Path) -> None:
    """The commands of tiny.py, with few rows and steps."""
    out = tmp_path / "out"
    chain.run(one_script(pair.__doc__ or "", "rows.py"))
    shutil.copy(out / "rows.parquet", out / "apart.parquet")
    chain.run(tiny.__doc__ or "")
    before, after = Pair(out / "tiny_aligned"), Pair(out / "pair-tiny")
    texts = ["dog", "a cat"]
    assert after.texts(texts).shape == before.texts(texts).shape
    assert not torch.allclose(before.texts(texts), after.texts(texts), atol=1e-4)
    assert json.loads((out / "pair-tiny" / "config.json").read_text())["dtype"] == "float16"
    assert " MB" in chain.said["tiny.py"]


def test_a_line_of_judgement(tmp_path: Path) -> None:
    image = make_image_encoder(tmp_path / "image", kind="hf_dinov2")
    text = make_text_encoder(tmp_path / "text", ["dog", "a cat"])
    save(join(image, text), AutoTokenizer.from_pretrained(text), 32, tmp_path / "pair")
    images = [encoded(drawing(seed, 64)) for seed in (0, 1, 2)]
    line = described(Pair(tmp_path / "pair"), Judged(images, ["a", "b", "a"], ["x", "y", "x"]))
    assert "of 2 classes (majority 0.667)" in line
    assert "of 2 (chance 5.000)" in line
