"""The page of `mmft runs compare=... out=page.html`: chosen runs side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mmft.reports.page import html
from mmft.run.listing.found import MISSING, FoundRun
from mmft.run.listing.side_by_side import SideBySide, best_sentence, curves_section, runs_section, varied_section
from mmft.run.listing.table import best_of, comparison, numbered, shown_value, started, told_apart_by


def comparison_page(runs: Sequence[FoundRun]) -> str:
    """The page of two runs or more."""
    names = numbered(runs)
    varied = told_apart_by(runs)
    settings = [{key: _setting(run, key) for key in varied} for run in runs]
    monitors = Counter(run.monitor for run in runs if run.monitor).most_common(1)
    side = SideBySide(runs, names, varied, settings, monitors[0][0] if monitors else "")
    told = f"{len(runs)} runs; of what was typed differ: {', '.join(varied) or 'nothing'}."
    legend = [[name, str(run.folder.path), started(run)] for name, run in zip(names, runs, strict=True)]
    body = [
        html.paragraph(told, best_sentence(side)),
        html.table(["run", "folder", "started"], legend),
        runs_section(side),
        _differences(runs, names),
        varied_section(side),
        curves_section(side),
    ]
    title = f"mmft: {len(runs)} runs compared"
    return html.document(title, title, "".join(body))


def _setting(run: FoundRun, key: str) -> str:
    value = run.setting(key)
    return "-" if value is MISSING else shown_value(value)


def _differences(runs: Sequence[FoundRun], names: Sequence[str]) -> str:
    """What differs of configs and results, with a star at the best of a metric."""
    _, lines = comparison(runs)
    rows = []
    for key, *values in lines:
        best = best_of(key, values, runs)
        rows.append([key, *(_cell(value) + (" *" if best is not None and value == best else "") for value in values)])
    told = "Keys of the configs, typed ones first, then results; a star marks the best of a metric."
    return html.section("What differs", html.paragraph(told), html.table(["", *names], rows))


def _cell(value: object) -> str:
    return "-" if value is MISSING else shown_value(value)
