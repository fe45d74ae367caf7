"""The report of a sweep: its settings and its runs side by side."""

from __future__ import annotations

from pathlib import Path

from mmft.files import write_text
from mmft.reports.page import html
from mmft.run.listing.side_by_side import SideBySide, best_sentence, curves_section, runs_section, varied_section
from mmft.run.listing.sweep import Sweep
from mmft.run_folder import short_name


def write_sweep_page(folder: Path) -> Path:
    """Writes report.html in a sweep's folder and returns its path."""
    path = folder / "report.html"
    write_text(path, sweep_page(Sweep(folder)))
    return path


def sweep_page(sweep: Sweep) -> str:
    """The page."""
    names = [job.name for job in sweep.jobs]
    side = SideBySide(sweep.jobs, names, sweep.varied, [sweep.typed(job) for job in sweep.jobs], sweep.metric)
    title = f"mmft report: sweep {short_name(sweep.folder)}"
    done = sum(job.status == "completed" for job in sweep.jobs)
    told = f"{len(sweep.jobs)} runs, {done} of them completed; varied: {', '.join(sweep.varied) or 'nothing'}."
    body = [
        html.paragraph(told, best_sentence(side)),
        html.section("Settings, best first", html.preformatted(sweep.table(), aligned=True)),
        runs_section(side),
        varied_section(side),
        curves_section(side),
    ]
    return html.document(title, title, "".join(body))
