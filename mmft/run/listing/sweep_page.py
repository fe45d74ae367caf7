"""The report of a sweep: its runs side by side, and the monitored metric against each varied parameter."""

from __future__ import annotations

from pathlib import Path

from mmft.files import write_text
from mmft.reports.page import charts, html
from mmft.run.listing.found import FoundRun
from mmft.run.listing.importances import explained
from mmft.run.listing.sweep import Sweep, rank


def write_sweep_page(folder: Path) -> Path:
    """Writes report.html in a sweep's folder and returns its path."""
    path = folder / "report.html"
    write_text(path, sweep_page(Sweep(folder)))
    return path


def sweep_page(sweep: Sweep) -> str:
    """The page."""
    by = sweep.by
    ranked = sorted(sweep.jobs, key=lambda job: rank(_value(job, by), by))
    best = next((job for job in ranked if _value(job, by) is not None), None)
    title = f"mmft report: sweep {'/'.join(sweep.folder.absolute().parts[-2:])}"
    body = [
        _opening(sweep, by, best),
        html.section("Settings, best first", html.preformatted(sweep.table(), aligned=True)),
        _table(sweep, by, ranked, best),
        _charts(sweep, by),
    ]
    return html.document(title, title, "".join(body))


def _opening(sweep: Sweep, by: str, best: FoundRun | None) -> str:
    done = sum(job.status == "completed" for job in sweep.jobs)
    told = f"{len(sweep.jobs)} runs, {done} of them completed; varied: {', '.join(sweep.varied) or 'nothing'}."
    found = f"Run {best.name} has the best {by}: {html.figure(best.metrics[by])}." if best is not None else ""
    return html.paragraph(told, found)


def _value(job: FoundRun, by: str) -> float | None:
    """A job's metric; None if it was pruned, since it is not comparable then."""
    return None if job.status == "pruned" else job.metrics.get(by)


def _table(sweep: Sweep, by: str, ranked: list[FoundRun], best: FoundRun | None) -> str:
    found = dict.fromkeys(name for job in sweep.jobs for name in job.metrics)
    metrics = sorted(found, key=lambda name: (name != by, not name.endswith(f"/{sweep.metric}")))
    rows = [
        [
            job.name,
            job.status,
            *(sweep.typed(job).get(key, "") for key in sweep.varied),
            *(job.metrics.get(name) for name in metrics),
            None if job.seconds is None else round(job.seconds),
        ]
        for job in ranked
    ]
    header = ["run", "status", *sweep.varied, *metrics, "seconds"]
    return html.section("Runs, best first", html.table(header, rows, marked=[] if best is None else [0]))


def _charts(sweep: Sweep, by: str) -> str:
    drawn = html.charts(*(_against(sweep, key, by) for key in sweep.varied))
    return html.section(f"{by} by what was varied", _importances(sweep, by), drawn)


def _importances(sweep: Sweep, by: str) -> str:
    """How much of the metric's variance each key explains, the most important first."""
    jobs = [job for job in sweep.jobs if _value(job, by) is not None]
    values = [job.metrics[by] for job in jobs]
    found = {key: explained([sweep.typed(job).get(key, "") for job in jobs], values) for key in sweep.varied}
    rows = sorted(((key, share) for key, share in found.items() if share is not None), key=lambda one: -one[1])
    told = (
        f"Share of the variance of {by} that a key explains by itself, adjusted for its number of values: 1 is all, "
        "0 no more than chance. What is left is chance, and what keys do together."
    )
    return html.paragraph(told) + html.table(["key", "variance explained"], rows) if rows else ""


def _against(sweep: Sweep, key: str, by: str) -> str:
    """A point for each run, over numbers on their own scale, over words side by side; a line through the means."""
    found = [(sweep.typed(job).get(key, ""), job.metrics[by]) for job in sweep.jobs if by in job.metrics]
    if not found:
        return ""
    return charts.scattered(f"sweep-{sweep.varied.index(key)}", key, found, by)
