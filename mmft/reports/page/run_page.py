"""The report of a run: one HTML file, from what its folder holds. The same folder gives the same bytes."""

from __future__ import annotations

from mmft.reports.page import html
from mmft.reports.page.attributions import attribution_section
from mmft.reports.page.classes import class_section, label_section
from mmft.reports.page.curves import curve_section
from mmft.reports.page.evidence import Answers, Evidence
from mmft.reports.page.marking import marking_section
from mmft.reports.page.mistakes import mistake_section
from mmft.reports.page.numbers import number_section
from mmft.reports.page.opening import closing, opening
from mmft.reports.page.probabilities import match_section, probability_section
from mmft.reports.page.retrieval import retrieval_section
from mmft.reports.page.review_section import review_section
from mmft.reports.page.tables_side_by_side import tables_section
from mmft.reports.page.texts import text_section
from mmft.run_folder import RunFolder, short_name


def run_page(folder: RunFolder) -> str:
    """The page of a run.

    Raises:
        UserError: the folder is no run's, or needs plugins that are not allowed.
    """
    run = Evidence(folder)
    answered = [_answers(answers, run) for answers in run.answers]  # finds what is missing, which the opening tells
    title = short_name(folder.path)
    body = [
        opening(run),
        curve_section(run),
        *answered,
        tables_section(run),
        attribution_section(run),
        review_section(run),
        marking_section(run),
        closing(run),
    ]
    return html.document(f"mmft report: {title}", f"mmft report: {title}", "".join(body))


def _answers(answers: Answers, run: Evidence) -> str:
    """What there is to show of a task's answers, by the facts of the task."""
    labelled, task = answers.labelled, answers.task
    if task.pairwise:
        shown = retrieval_section(answers, run.cards)
    elif task.predicts_numbers:
        shown = number_section(labelled, run.cards)
    elif task.generates:
        shown = text_section(labelled, run.cards)
    else:
        shown = class_section(answers) if task.has_classes else ""
        if task.independent_labels and labelled.rows:
            shown += label_section(labelled)
        if task.needs_both:
            shown += match_section(labelled)
        if task.has_classes or task.independent_labels:
            shown += probability_section(labelled, labelled.label_sets("label"))
        shown += mistake_section(labelled, run.cards) if labelled.rows else ""
    rows = f"{len(answers.rows):,} rows of predictions.csv, {len(labelled.rows):,} of them with a label."
    title = f"Answers on the {answers.split} rows" + (f": {answers.name}" if answers.name else "")
    return html.section(title, html.paragraph(rows), shown) if shown else ""
