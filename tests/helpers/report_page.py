"""Reads report.html, which must be complete in itself."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from mmft.reports.page.html import MOST_BYTES

_VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    """A page whose tags must be balanced; its headings, cells, and all that it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.names: Counter[str] = Counter()
        self.headings: list[str] = []
        self.cells: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names[tag] += 1
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and re.fullmatch(r"h\d", self.open[-1]):
            self.headings.append(data)
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data


def page_of(folder: Path) -> Page:
    """The page, which is complete in itself."""
    page = Page(folder / "report.html")
    assert page.text.startswith("<!doctype html>")
    assert "http:" not in page.text
    assert "https:" not in page.text
    assert page.names["script"] in (0, 2)  # those of the panel in which people mark answers
    assert page.names["link"] == 0
    assert all(one.startswith(("#", "data:image/jpeg;base64,")) for one in page.references)
    assert {one.removeprefix("#") for one in page.references if one.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert len(page.text.encode()) <= MOST_BYTES
    return page
