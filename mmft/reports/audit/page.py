"""One self-contained HTML page that shows findings with the images and texts of their rows."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from itertools import groupby, islice
from pathlib import Path

from PIL import Image

from mmft.config.schema.data import DataConfig
from mmft.data.image import ImageReader, background_of
from mmft.data.image_mending import BadImage
from mmft.data.splits import Split
from mmft.files import write_text
from mmft.reports.audit.finding import KINDS, Finding

MOST_ENTRIES, MOST_BYTES = 200, 5_000_000
_SIDE = 160  # pixels of a thumbnail, of which a JPEG has about 5 kB
_TEXT = 300  # characters of a text
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 76rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .2rem; } p { margin: .3rem 0 .8rem; }
.entries { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: .8rem; }
.entry { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem; overflow-wrap: anywhere; }
.rows { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; }
.row { background: var(--soft); border-radius: .3rem; padding: .4rem; min-width: 0; }
.row img { display: block; width: 100%; max-width: 160px; height: auto; margin-bottom: .3rem; background: #fff; }
.place, .why { font-size: .85rem; } .place { opacity: .75; } .label { font-weight: 600; }
"""


def write_page(path: Path, findings: Sequence[Finding], splits: Mapping[str, Split], config: DataConfig) -> int:
    """Writes the page.

    Args:
        path: of the file.
        findings: worst first within each kind; the first ones of every kind are shown.
        splits: by name.
        config: how images are read.

    Returns:
        The number of findings shown: as many as fit into `MOST_ENTRIES` and `MOST_BYTES`.
    """
    kinds = {kind: list(group) for kind, group in groupby(sorted(findings, key=_order), lambda one: one.kind)}
    rows = _Rows(splits, config)
    shown: dict[str, list[str]] = {kind: [] for kind in kinds}
    size = len(_STYLE)
    for finding in islice(_in_turn(kinds), MOST_ENTRIES):
        entry = rows.entry(finding)
        size += len(entry.encode())
        if size > MOST_BYTES - 10_000:  # what is around the entries is less
            break
        shown[finding.kind].append(entry)
    write_text(path, _document(shown, kinds))
    return sum(map(len, shown.values()))


def _order(finding: Finding) -> int:
    return list(KINDS).index(finding.kind)


def _in_turn(kinds: Mapping[str, Sequence[Finding]]) -> Iterator[Finding]:
    """The first of each kind, then the second of each, and so on."""
    for place in range(max(map(len, kinds.values()), default=0)):
        yield from (found[place] for found in kinds.values() if place < len(found))


def _document(shown: Mapping[str, Sequence[str]], kinds: Mapping[str, Sequence[Finding]]) -> str:
    parts = [
        f"<h2>{escape(kind)}: {len(entries):,} of {len(kinds[kind]):,}</h2>\n<p>Rows {escape(KINDS[kind])}</p>\n"
        f'<div class="entries">\n{"".join(entries)}</div>\n'
        for kind, entries in shown.items()
    ]
    body = "".join(parts) or "<p>Nothing was found.</p>\n"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>mmft check</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>mmft check: suspects and near duplicates</h1>\n{body}</body>\n</html>\n"
    )


class _Rows:
    """Shows rows of the splits as HTML."""

    def __init__(self, splits: Mapping[str, Split], config: DataConfig) -> None:
        self.splits = splits
        self._read = ImageReader(_SIDE, "pad", background_of(config), config.max_pixels)
        self._thumbnail = cache(self._thumbnail_of)

    def entry(self, finding: Finding) -> str:
        """One finding with its one or two rows."""
        rows = [self._row(finding.split, finding.row, finding.id, finding.label)]
        if finding.other_row is not None:
            rows.append(self._row(finding.other_split, finding.other_row, finding.other_id, finding.other_label))
        why = f'<p class="why">{escape(finding.detail)}</p>'
        return f'<div class="entry">{why}<div class="rows">{"".join(rows)}</div></div>\n'

    def _row(self, split: str, row: int, name: str, label: str) -> str:
        table = self.splits[split].table
        text = table.text(row) or ""
        text = text if len(text) <= _TEXT else text[:_TEXT] + "…"
        place = f"{split} row {row}" + ("" if name == str(row) else f" (id {name})")
        named = f'<div class="label">{escape(label)}</div>' if label else ""
        parts = [self._thumbnail(split, row), named, f"<div>{escape(text)}</div>"]
        return f'<div class="row">{"".join(parts)}<div class="place">{escape(place)}</div></div>'

    def _thumbnail_of(self, split: str, row: int) -> str:
        source = self.splits[split].table.image(row)
        if source is None:
            return ""
        try:
            pixels = self._read(source)
        except BadImage as error:
            return f"<div>{escape(str(error))}</div>"
        stream = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=80)
        data = base64.b64encode(stream.getvalue()).decode()
        return f'<img alt="" loading="lazy" src="data:image/jpeg;base64,{data}">'
