"""The report of a sweep: its runs side by side, and the monitored metric against each varied parameter."""

from __future__ import annotations

from pathlib import Path

from mmft.files import write_text
from mmft.reports.page import charts, html
from mmft.runs.listing.found import FoundRun
from mmft.runs.listing.sweep import Sweep
from mmft.tasks.metric_names import lower_is_better


def write_sweep_page(folder: Path) -> Path:
    """Writes report.html in a sweep's folder and returns its path."""
    path = folder / "report.html"
    write_text(path, sweep_page(Sweep(folder)))
    return path


def sweep_page(sweep: Sweep) -> str:
    """The page."""
    metric = next((job.monitor for job in sweep.jobs if job.monitor), "")
    by = f"val/{metric}" if any(f"val/{metric}" in job.metrics for job in sweep.jobs) else f"test/{metric}"
    through = [job for job in sweep.jobs if job.status != "pruned" and by in job.metrics]
    best = (min if lower_is_better(by) else max)(through, key=lambda job: job.metrics[by]) if through else None
    title = f"mmft report: sweep {'/'.join(sweep.folder.absolute().parts[-2:])}"
    return html.document(title, title, _opening(sweep, by, best) + _table(sweep, by, best) + _charts(sweep, by))


def _opening(sweep: Sweep, by: str, best: FoundRun | None) -> str:
    done = sum(job.status == "completed" for job in sweep.jobs)
    told = f"{len(sweep.jobs)} runs, {done} of them completed; varied: {', '.join(sweep.varied) or 'nothing'}."
    found = f"Run {best.name} is the best by {by}: {html.figure(best.metrics[by])}." if best is not None else ""
    return html.paragraph(told, found)


def _table(sweep: Sweep, by: str, best: FoundRun | None) -> str:
    metrics = [by, *(name for name in dict.fromkeys(n for job in sweep.jobs for n in job.metrics) if name != by)]
    order = sorted(sweep.jobs, key=lambda job: _rank(job, by))
    rows = [
        [
            job.name,
            job.status,
            *(sweep.typed(job).get(key, "") for key in sweep.varied),
            *(job.metrics.get(name) for name in metrics),
            None if job.seconds is None else round(job.seconds),
        ]
        for job in order
    ]
    header = ["run", "status", *sweep.varied, *metrics, "seconds"]
    return html.section("Runs, best first", html.table(header, rows, marked=[0] if best is order[0] else []))


def _rank(job: FoundRun, by: str) -> tuple[bool, float]:
    value = job.metrics.get(by)
    if value is None or job.status == "pruned":
        return True, 0.0
    return False, value if lower_is_better(by) else -value


def _charts(sweep: Sweep, by: str) -> str:
    return html.section(f"{by} by what was varied", html.charts(*(_against(sweep, key, by) for key in sweep.varied)))


def _against(sweep: Sweep, key: str, by: str) -> str:
    """A point for each run, over numbers on their own scale, over words side by side; a line through the means."""
    found = [(sweep.typed(job).get(key, ""), job.metrics[by]) for job in sweep.jobs if by in job.metrics]
    if not found:
        return ""
    return charts.scattered(f"sweep-{sweep.varied.index(key)}", key, found, by)
