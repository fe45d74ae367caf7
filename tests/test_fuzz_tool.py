"""`tools/fuzz/run.py`: a small share of its cases, and that it sees each kind of failure."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from fuzz import checkpoints, damage, images, outcome, run, tables
from fuzz.outcome import Case, Unclear, Wrong, check_clear, judge

from mmft.data.images.mending import BadImage
from mmft.data.table import Table
from mmft.errors import UserError


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


def raising(error: BaseException) -> Any:
    def work() -> str:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "kind"),
    [
        (lambda: "read", "read"),
        (raising(UserError("data.path: no such file")), "refused"),
        (raising(BadImage("truncated")), "refused"),
        (raising(KeyError("a")), "traceback"),
        (raising(UserError("")), "unclear message"),
        (raising(BadImage("<_io.BytesIO object at 0x7f>")), "unclear message"),
        (raising(BadImage("caf\udce9")), "unclear message"),
        (raising(Wrong("other content")), "wrong content"),
        (lambda: time.sleep(60) or "read", "hang"),
    ],
)
def test_every_failure_is_seen(work: Any, kind: str) -> None:
    found = judge("tables", Case(3, "changed", work), 3)
    assert (found.kind, found.number) == (kind, 3)
    assert found.failed == (kind not in ("read", "refused"))


def test_a_long_message_is_unclear() -> None:
    with pytest.raises(Unclear):
        check_clear(["x" * 10_000])


def test_a_row_with_another_rows_content_is_seen() -> None:
    rows = [dict(row) for row in tables.originals()[:4]]
    assert tables._check(Table.from_rows(rows, tables.COLUMNS)) == "read"
    rows[1]["label"] = rows[2]["label"]
    with pytest.raises(Wrong, match="row 1 has fields of the rows"):
        tables._check(Table.from_rows(rows, tables.COLUMNS))
    with pytest.raises(Wrong, match="comes after"):
        tables._check(Table.from_rows(list(reversed(tables.originals())), tables.COLUMNS))


def test_rows_that_are_lost_are_seen(tmp_path: Path) -> None:
    data = tables._encoded(".jsonl", list(tables.originals()), Random(0))
    assert tables._read(tmp_path / "a.jsonl", data, tables.ROWS) == "read"
    with pytest.raises(Wrong, match="29 rows of 30"):
        tables._read(tmp_path / "a.jsonl", data[data.index(b"\n") + 1 :], tables.ROWS)


def test_a_cut_image_read_with_other_pixels_is_seen() -> None:
    bmp, png = images.originals()["bmp"], images.originals()["png"]
    assert images._read(bmp, bmp) == "read whole"
    with pytest.raises(Wrong, match="other pixels"):
        images._read(png, images.originals()["gif"])


def test_an_altered_tensor_is_seen() -> None:
    saved = {"a": [torch.tensor([1.0, float("nan")]), {"b": (1, "x")}]}
    assert checkpoints._same(saved, {"a": [torch.tensor([1.0, float("nan")]), {"b": (1, "x")}]})
    for other in ({"a": [torch.tensor([1.0, 2.0]), {"b": (1, "x")}]}, {"a": []}, {"a": [saved["a"][0], {"b": (1, 1)}]}):
        assert not checkpoints._same(saved, other)


@pytest.mark.parametrize("way", tables._OF_BYTES + images._DAMAGES)
def test_damage_is_the_same_for_the_same_seed(way: Any) -> None:
    data = bytes(np.arange(200, dtype=np.uint8))
    assert way(data, Random(1)) == way(data, Random(1))
    assert damage.other(data, Random(1), (way,))[0] != data


def test_a_case_can_be_made_again_alone(tmp_path: Path) -> None:
    several = [case.what for case in images.cases(5, 10, 7, tmp_path)]
    assert [case.what for case in images.cases(1, 13, 7, tmp_path)] == several[3:4]


def test_images(capfd: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--images", "150", "--seed", "5"]) == 0
    assert "images: 150 cases" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "count"),
    [
        ("images", 2000),
        ("tables", 500),
        ("configs", 100),
        ("checkpoints", 50),
    ],
)
def test_a_small_share(part: str, count: int) -> None:
    assert run.main([f"--{part}", str(count)]) == 0


def test_failures_end_with_1(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(images, "cases", lambda *_: [Case(4, "png, cut", raising(KeyError("a")))])
    assert run.main(["--images", "1", "--seed", "9"]) == 1
    out = capfd.readouterr().out
    assert "traceback: png, cut: KeyError" in out
    assert "python tools/fuzz/run.py --images 1 --first 4 --seed 9" in out
    assert outcome.FAILURES[0] == "traceback"
