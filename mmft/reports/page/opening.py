"""The beginning of a run's report: what was trained on what, the command, the metrics, what each modality adds."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from mmft.reports.comments import modality_comment
from mmft.reports.numbers import number
from mmft.reports.page import html
from mmft.reports.page.evidence import Evidence, read_table
from mmft.tasks.metrics.names import lower_is_better

_ONLY = {"text": "text only", "image": "image only", "both": "both (the model)"}


def opening(run: Evidence) -> str:
    """The first sections as HTML."""
    words = " ".join(map(shlex.quote, ["mmft", "train", *run.typed]))
    return (
        html.paragraph(*_in_words(run))
        + html.section("Command", html.preformatted(words))
        + html.section("Metrics", _metrics(run.summary), *_before(run.summary))
        + html.section("What each modality adds", _modalities(run))
    )


def _in_words(run: Evidence) -> list[str]:
    config, summary = run.written, run.summary
    choices, rows = summary.get("choices") or {}, summary.get("rows") or {}
    model, data = config.model, config.data
    fusion = choices.get("model/fusion", model.fusion.type)
    if whole := model.pair or model.whole:
        parts = f"The {'pair' if model.pair else 'model'} {whole}, joined by model/fusion={fusion}, was"
    else:
        parts = (
            f"The image encoder {model.image_encoder.name} and the text encoder {model.text_encoder.name}, "
            f"joined by model/fusion={fusion}, were"
        )
    source = data.path or data.train
    counted = ", ".join(f"{count:,} for {name}" for name, count in rows.items() if name != "bad" and "/" not in name)
    steps, best = summary.get("optimizer_steps"), summary.get("best_step")
    status = summary.get("status")
    return [
        f"{parts} trained with "
        f"task={config.task.type} and tune={choices.get('tune', '?')} on the rows of {source}"
        + (f": {counted}." if counted else "."),
        f"The run took {steps:,} optimizer steps in {summary['epochs']} epochs."
        if isinstance(steps, int) and "epochs" in summary
        else "",
        f"The finished model has the weights of step {best:,}, the best by {summary.get('monitor')}." if best else "",
        "" if status == "completed" else f"The run is not completed: its status is {status}.",
        *run.missing,
    ]


def _metrics(summary: Mapping[str, Any]) -> str:
    found = {split: summary[split] for split in ("val", "test") if isinstance(summary.get(split), dict)}
    if isinstance(summary.get("tests"), dict):
        found.pop("test", None)
        found |= {f"test/{name}": values for name, values in summary["tests"].items()}
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    monitor = str(summary.get("monitor") or "").partition("/")[2]
    names = [name for name in names if name == monitor] + [name for name in names if name != monitor]
    if not names:
        return html.paragraph("The run has no metrics of validation or test rows yet.")
    rows = [[name, *(number(values.get(name)) for values in found.values())] for name in names]
    return html.table(["metric", *found], rows, marked=[0] if names[0] == monitor else [])


def _before(summary: Mapping[str, Any]) -> list[str]:
    """What the pretrained pair gave before training, if the run has it."""
    before = summary.get("before")
    if not isinstance(before, dict):
        return []
    rows = [[name, number(value)] for name, value in before.items() if number(value) is not None]
    return [html.section("Before training", html.table(["metric", "value"], rows), level=3)] if rows else []


def _modalities(run: Evidence) -> str:
    summary = run.summary
    found = summary.get("modalities")
    if not isinstance(found, dict) or not found:
        return ""
    several = found if all(isinstance(one, dict) for one in found.values()) else {"": found}
    parts = []
    for name, figures in several.items():
        metric = _metric_of(figures, summary.get("test") or {}, name)
        rows = [[_ONLY.get(one, f"no input ({one})"), number(value)] for one, value in figures.items()]
        shown = html.table(["input", metric], rows) + html.paragraph(_comment(run, figures, metric))
        parts.append(html.section(name, shown, level=3) if name else shown)
    note = "Text only and image only are a linear head on the features of one encoder; both is the model itself."
    return "".join(parts) + html.paragraph(note)


def _metric_of(figures: Mapping[str, Any], test: Mapping[str, Any], task: str) -> str:
    """The metric that the figures are of: the model's own is among those of the test rows."""
    prefix = f"{task}/" if task else ""
    same = [name for name, value in test.items() if name.startswith(prefix) and value == figures.get("both")]
    return same[0].removeprefix(prefix) if same else "metric"


def _comment(run: Evidence, figures: Mapping[str, Any], metric: str) -> str:
    """What the figures say, in a sentence; nothing where the run has one modality."""
    columns = run.config.data.columns
    rows = run.summary.get("rows", {}).get("test")
    found = {name: number(value) for name, value in figures.items()}
    known = {name: value for name, value in found.items() if value is not None}
    if not rows or None in (columns.image, columns.text) or len(known) < max(4, len(found)):
        return ""
    said = modality_comment(known, lower_is_better(metric, run.summary.get("minimised", ())), rows)
    return f"{said[0].upper()}{said[1:]}."


def closing(run: Evidence) -> str:
    """The last sections as HTML: what is trained, bad rows, time and memory."""
    tuning = read_table(run.folder.tuning)
    trained = html.table(list(tuning[0]), [list(map(_read, row.values())) for row in tuning]) if tuning else ""
    bad = read_table(run.folder.bad_rows)
    shown = html.table(list(bad[0]), [list(row.values()) for row in bad[:100]]) if bad else ""
    more = f"The first 100 of {len(bad):,}." if len(bad) > 100 else ""
    return (
        html.section("What is trained", trained, _parameters(run.summary))
        + html.section("Bad rows", html.paragraph(more), shown or html.paragraph("There are none."))
        + html.section("Time and memory", _costs(run.summary))
    )


def _parameters(summary: Mapping[str, Any]) -> str:
    counted = summary.get("parameters") or {}
    if "total" not in counted:
        return ""
    share = counted["trainable"] / max(counted["total"], 1)
    return html.paragraph(f"{counted['trainable']:,} of {counted['total']:,} parameters are trained ({share:.1%}).")


def _costs(summary: Mapping[str, Any]) -> str:
    seconds = [name for name in ("train_seconds", "fit_seconds", "startup_seconds") if number(summary.get(name))]
    rows = [[name.replace("_", " "), str(timedelta(seconds=round(summary[name])))] for name in seconds]
    for name, text in (("median_step_seconds", "{:.3f} s"), ("samples_per_second", "{:.1f}")):
        if number(summary.get(name)):
            rows.append([name.replace("_", " "), text.format(summary[name])])
    if number(summary.get("peak_memory_bytes")):
        rows.append(["peak memory", f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB"])
    versions = summary.get("versions") or {}
    rows += [[f"version of {name}", str(value)] for name, value in versions.items()]
    return html.table(["", ""], rows) if rows else ""


def _read(text: str) -> Any:
    """A cell of a CSV file: whole numbers and numbers as such."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
