"""A panel in which people mark answers right, wrong or unsure; the only part of the page with a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmft.reports.explain.numbers import readable
from mmft.reports.numbers import number_in
from mmft.reports.page import html
from mmft.reports.page.evidence import Answers, Evidence
from mmft.reports.review.marks import MARKS
from mmft.reports.review.sampling import draw
from mmft.run_folder import short_name

_SCRIPT = Path(__file__).with_name("marking.js")
_SIDE = 224  # pixels of an image
_TOLD = (
    "Look at answers as a person and mark them. They are a random sample in random order, in which mistakes are more "
    "frequent than in the rows; the label is hidden so that it has no influence. The marks stay in this browser until "
    "you save them as a file; mmft review tells what they say of the run."
)
_KEYS = (
    "Keys, after a click into the panel: R right, W wrong, U unsure, N note, L label, arrows to go back and forth. "
    "A mark can be changed."
)


def marking_section(run: Evidence) -> str:
    """The panel as HTML; nothing if the run has no answers, or its rows are gone."""
    items = [item for answers in run.answers for item in _items(answers, run)]
    if not items:
        return ""
    given = json.dumps({"run": short_name(run.folder.path), "items": items}, ensure_ascii=False, sort_keys=True)
    data = given.replace("<", "\\u003c")  # nothing in it ends the element
    return html.section(
        "Mark answers",
        html.paragraph(_TOLD),
        html.paragraph(_KEYS),
        _panel(),
        f'<script type="application/json" id="marking-data">{data}</script>\n',
        f"<script>\n{_SCRIPT.read_text(encoding='utf-8')}</script>\n",
    )


def _items(answers: Answers, run: Evidence) -> Iterator[dict[str, Any]]:
    """The answers to mark, in the order of the panel."""
    if answers.split not in run.splits:
        return
    for at, weight in draw(answers.right, run.config.seed):
        row = answers.rows[at]
        number = int(row["row"])
        image, problem = run.cards.image(answers.split, number, _SIDE)
        yield {
            "row": number,
            "id": row["id"],
            "task": answers.name,
            "prediction": answers.value(at, "prediction"),
            "weight": round(weight, 6),
            "label": answers.value(at, "label"),
            "image": image,
            "text": "\n".join(filter(None, [problem, run.splits[answers.split].table.text(number)])),
            "place": f"{answers.split} row {number}",  # not its id, which may tell the label
            **_asked(answers, at),
        }


def _asked(answers: Answers, at: int) -> dict[str, str]:
    """The question to the person, and the answer in question."""
    named = f" ({answers.name})" if answers.name else ""
    if answers.task.pairwise:
        return {"question": "Do image and text belong together?", "answer": ""}
    prediction = answers.value(at, "prediction")
    if answers.task.predicts_numbers:
        value = number_in(prediction)  # None of several targets
        return {
            "question": f"Is this number near enough{named}?",
            "answer": readable(prediction if value is None else value),
        }
    return {"question": f"Is this answer right{named}?", "answer": prediction or "(nothing)"}


def _panel() -> str:
    """The empty panel, hidden where scripts do not run."""
    marks = "".join(
        f'<button type="button" data-mark="{mark}" aria-pressed="false">{mark} <kbd>{mark[0].upper()}</kbd></button>'
        for mark in MARKS
    )
    return f"""<noscript><p>Marking needs JavaScript, which is switched off here.</p></noscript>
<div id="marking" class="entry" tabindex="0" hidden>
<p><label>Your name <input data-part="by" autocomplete="off" maxlength="60"></label>
<button type="button" data-part="save" disabled>Save marks as a file</button></p>
<p><progress data-part="progress" value="0"></progress> <span data-part="count" aria-live="polite"></span></p>
<div class="marked-row">
<img data-part="image" alt="">
<div>
<p data-part="text" class="written"></p>
<p data-part="question"></p>
<p data-part="answer" class="label written"></p>
<p><button type="button" data-part="reveal">show the label</button> <span data-part="label"></span></p>
</div>
</div>
<p class="buttons">{marks}</p>
<p><label>Note <input data-part="note" autocomplete="off" maxlength="1000"></label></p>
<p class="buttons"><button type="button" data-part="back">back</button>
<button type="button" data-part="next">next</button> <span data-part="place" class="place"></span></p>
<p data-part="said" role="status"></p>
</div>
"""
