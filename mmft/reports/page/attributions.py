"""What supports or opposes a few predictions: parts of the image, and words, from attributions.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from mmft.reports.explain.numbers import readable, signed
from mmft.reports.explain.rows import MUCH
from mmft.reports.page import html
from mmft.reports.page.evidence import Evidence
from mmft.reports.page.mistakes import shown_row

_STRONGEST = 0.7  # opacity of the colour of the word with the largest weight
_TOLD = (
    "Red supports what is explained, blue opposes it, by integrated gradients from an empty image and an empty text; "
    "image and words have a scale each. mmft explain shows any row, with its numbers."
)


def attribution_section(run: Evidence) -> str:
    """A card for each explained row as HTML; nothing without any."""
    path = run.folder.attributions
    if not path.exists() or run.tested not in run.splits:
        return ""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    cards = html.entries(_card(run, one) for one in found)
    return html.section("What predictions rest on", html.paragraph(_TOLD) if cards else "", cards)


def _card(run: Evidence, found: Mapping[str, Any]) -> str:
    name, of = found["explained"], found["of"]
    subject = (name or "a higher number") if of in (None, name) else f"{of}: {name}"
    sums = {word: found[word] for word in ("image", "text") if found[word] is not None}
    largest = max((abs(value) for value in sums.values()), default=0.0)
    told = ", ".join(f"{word} {signed(value, largest)}" for word, value in sums.items())
    score = "" if found["score"] is None else f" ({found['score']:.3f})"
    why = f"{readable(found['prediction'])}{score}. For {subject}: {told}"
    if abs(found["missed"]) > MUCH * largest:
        why += f"; {signed(found['missed'], largest)} is not attributed"
    row = int(found["row"])
    answers = run.answers[0]
    cells = None if found["cells"] is None else np.array(found["cells"])
    shown = [shown_row(answers, run.cards, row, str(found["id"]), _label(run, row))]
    if cells is not None:
        shown.append(f'<div class="row">{run.cards.heat_map(answers.split, row, cells)}</div>')
    return html.entry(why, shown, _words(found["words"]))


def _label(run: Evidence, row: int) -> list[str]:
    """A line with the row's label; none without one."""
    found = next((one.get("label") for one in run.answers[0].rows if one["row"] == str(row)), None)
    return [f"label: {found}"] if found else []


def _words(words: list[Mapping[str, Any]]) -> str:
    """The text, each word on a ground of its colour; words that were cut off are pale."""
    largest = max((abs(word["weight"] or 0.0) for word in words), default=0.0)
    shown = []
    for word in words:
        weight = word["weight"]
        if weight is None:
            shown.append(f'<span class="place">{escape(word["text"])}</span>')
            continue
        colour = "200 30 30" if weight > 0 else "30 70 200"
        ground = f"rgb({colour} / {_STRONGEST * abs(weight) / max(largest, 1e-12):.2f})"
        told = signed(weight, largest)
        shown.append(f'<span class="word" style="background: {ground}" title="{told}">{escape(word["text"])}</span>')
    return f"<p>{' '.join(shown)}</p>" if shown else ""
