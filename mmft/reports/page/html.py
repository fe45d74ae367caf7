"""The parts of a self-contained HTML page: document, sections, tables. Whatever text they are given is escaped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

MOST_BYTES = 5_000_000
"""Size of a page."""
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --mark: #3b82f644; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 76rem;
       overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
p { margin: .3rem 0 .8rem; max-width: 60rem; }
pre { background: var(--soft); border-radius: .3rem; padding: .5rem; white-space: pre-wrap; }
pre.aligned { white-space: pre; overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; } .number { text-align: right; white-space: nowrap; overflow-wrap: normal; }
.marked { background: var(--mark); }
.scroll { overflow-x: auto; max-height: 36rem; margin: .3rem 0 .8rem; overflow-wrap: normal; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: .8rem; }
figure { margin: 0; min-width: 0; }
svg { display: block; width: 100%; height: auto; }
.entries { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: .8rem; }
.entry { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem; min-width: 0; }
.rows { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; }
.row { background: var(--soft); border-radius: .3rem; padding: .4rem; min-width: 0; }
.row img { display: block; width: 100%; max-width: 160px; height: auto; margin-bottom: .3rem; background: #fff; }
@media (max-width: 32rem) { table { font-size: .8rem; } th, td { padding: .2rem .3rem; } }
.marked-row { display: flex; flex-wrap: wrap; gap: 1rem; min-height: 240px; }
.marked-row > img { width: 224px; max-width: 100%; height: 224px; object-fit: contain; background: #fff; }
.marked-row > div { flex: 1 1 14rem; min-width: 0; }
.written { white-space: pre-wrap; max-height: 14rem; overflow-y: auto; }
button, input { font: inherit; padding: .35rem .7rem; max-width: 100%; }
.buttons { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
button[aria-pressed="true"] { outline: 3px solid #3b82f6; }
.word { padding: 0 .15rem; border-radius: .2rem; }
kbd { opacity: .6; font-size: .8em; }
.place, .why { font-size: .85rem; } .place { opacity: .75; } .label { font-weight: 600; }
"""


def document(title: str, heading: str, body: str) -> str:
    """A page.

    Args:
        title: in the window's bar.
        heading: at its top.
        body: HTML.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{escape(heading)}</h1>\n{body}</body>\n</html>\n"
    )


def section(title: str, *parts: str, level: int = 2) -> str:
    """A heading and the HTML below it; nothing without any."""
    body = "".join(parts)
    return f"<h{level}>{escape(title)}</h{level}>\n{body}" if body else ""


def paragraph(*sentences: str) -> str:
    """Text; empty sentences are left out, and nothing is left without any."""
    told = " ".join(filter(None, sentences))
    return f"<p>{escape(told)}</p>\n" if told else ""


def preformatted(text: str, aligned: bool = False) -> str:
    """Text as typed; long lines go on in the next, unless columns are `aligned`."""
    kind = ' class="aligned"' if aligned else ""
    return f"<pre{kind}>{escape(text)}</pre>\n"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], marked: Collection[int] = ()) -> str:
    """A table, as wide as it must be; numbers stand to the right.

    Args:
        header: names of the columns.
        rows: of cells; floats are shown with `figure`, None as nothing.
        marked: places of rows to highlight.
    """
    found = [list(row) for row in rows]
    numeric = [
        bool(found) and all(isinstance(row[at], int | float | None) for row in found) for at in range(len(header))
    ]
    kinds = [' class="number"' if number else "" for number in numeric]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(header, kinds, strict=True))
    lines = []
    for at, row in enumerate(found):
        cells = "".join(f"<td{kind}>{escape(cell(value))}</td>" for value, kind in zip(row, kinds, strict=True))
        lines.append(f'<tr class="marked">{cells}</tr>\n' if at in marked else f"<tr>{cells}</tr>\n")
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{"".join(lines)}</table></div>\n'


def cell(value: Any) -> str:
    """A value of a table as text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return figure(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def figure(value: float) -> str:
    """A number with four decimals; a large one with six significant digits, a small one with four."""
    if value == 0 or 0.01 <= abs(value) < 10:
        return f"{value:.4f}"
    return f"{value:.6g}" if abs(value) >= 10 else f"{value:.4g}"


def entries(cards: Iterable[str]) -> str:
    """Cards side by side; nothing without any."""
    shown = "".join(cards)
    return f'<div class="entries">\n{shown}</div>\n' if shown else ""


def entry(why: str, rows: Iterable[str], below: str = "") -> str:
    """A card: one or more rows (HTML), what there is to say about them, and what stands below them (HTML)."""
    return f'<div class="entry"><p class="why">{escape(why)}</p><div class="rows">{"".join(rows)}</div>{below}</div>\n'


def charts(*figures: str) -> str:
    """Charts side by side; nothing without any."""
    shown = "".join(figures)
    return f'<div class="charts">\n{shown}</div>\n' if shown else ""
