"""The page of findings: complete in itself, escaped, and of bounded size."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from drawings import drawing, encoded
from PIL import Image

from mmft.config.schema.data import ColumnsConfig, DataConfig
from mmft.data.splitting.splits import Split, whole
from mmft.data.table import Table
from mmft.reports.audit.finding import Finding
from mmft.reports.audit.page import write_page
from mmft.reports.page import html

EVIL = "<script>alert('1')</script>\"&<img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """Names of all tags that are opened, and sources of images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def split_of(*images: bytes | None, text: str = EVIL) -> Split:
    rows = [{"image": image, "text": text, "id": f"{EVIL}{at}"} for at, image in enumerate(images)]
    return whole(Table.from_rows(rows, ColumnsConfig(image="image", text="text", id="id"), Path()))


def finding(kind: str, at: int, other: int | None) -> Finding:
    second = ("train", other, EVIL) if other is not None else ("", None, "")
    return Finding(kind, "train", at, EVIL, *second, detail=EVIL, score=0.9, label=EVIL, other_label=EVIL)


def test_everything_is_escaped_and_nothing_is_fetched(tmp_path: Path) -> None:
    splits = {"train": split_of(encoded(drawing(0)), None, b"no image")}
    found = [finding("near leak", 0, 1), finding("suspect", 2, None)]
    assert write_page(tmp_path / "page.html", found, splits, DataConfig()) == 2
    written = (tmp_path / "page.html").read_text(encoding="utf-8")
    tags = Tags(written)
    assert set(tags.names) <= {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "img"}
    assert len(tags.sources) == 1
    data = re.fullmatch(r"data:image/jpeg;base64,(.+)", tags.sources[0])
    assert data is not None
    assert Image.open(BytesIO(base64.b64decode(data[1]))).size == (160, 160)
    assert written.index("suspect: 1 of 1") < written.index("near leak: 1 of 1")
    assert "url(" not in written


def test_no_more_than_it_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": split_of(*(encoded(drawing(seed)) for seed in range(8)), text="a" * 1000)}
    many = [finding(kind, at % 8, (at + 1) % 8) for kind in ("suspect", "near duplicate") for at in range(150)]
    path = tmp_path / "page.html"
    assert write_page(path, many, splits, DataConfig()) == 200
    written = path.read_text(encoding="utf-8")
    assert "suspect: 100 of 150" in written
    assert "near duplicate: 100 of 150" in written
    assert "a" * 301 not in written
    monkeypatch.setattr(html, "MOST_BYTES", 200_000)
    assert 0 < write_page(path, many, splits, DataConfig()) < 200
    assert path.stat().st_size <= 200_000


def test_without_findings(tmp_path: Path) -> None:
    assert write_page(tmp_path / "page.html", [], {"train": split_of(None)}, DataConfig()) == 0
    assert "Nothing was found." in (tmp_path / "page.html").read_text(encoding="utf-8")
