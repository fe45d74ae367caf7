"""Formats runs as aligned lines for people, and as records for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmft.config.nested import flat
from mmft.config.schema.root import TrainConfig
from mmft.config.walk import key_names
from mmft.config.wording import show
from mmft.reports.aligned import aligned
from mmft.reports.numbers import number
from mmft.run.listing.found import MISSING, FoundRun, minimised_by, value_of, varied
from mmft.tasks.metrics.names import lower_is_better

_MOST_DIFFERING, _WIDEST = 5, 24
_UNSHOWN = ("name", "paths.", "resume", "logger", "trainer.devices", "data.num_workers", "callbacks.progress")


def run_table(runs: Sequence[FoundRun], extra: Sequence[str] = ()) -> str:
    """One line per run: folder, what differs of what was typed, status, start, the monitored metric on test and val,
    seconds, marks.

    Args:
        runs: in line order.
        extra: further columns, named as in `sort` and the filters.
    """
    usual = Counter(run.monitor for run in runs if run.monitor).most_common(1)
    monitor = usual[0][0] if usual else "metric"
    shown = [by for by in extra if by not in (f"test/{monitor}", f"val/{monitor}", "started", "status", "seconds")]
    named = any(run.name not in run.folder.path.parts for run in runs) and "name" not in shown
    shown = ["name", *shown] if named else shown
    differing = [name for name in told_apart_by(runs) if name not in shown][:_MOST_DIFFERING]
    header = ["run", *differing, *shown, "status", "started", f"test/{monitor}", f"val/{monitor}", "seconds", ""]
    lines = [
        [
            str(run.folder.path),
            *(_short(run.setting(name)) for name in differing),
            *(shown_value(value_of(run, by)) for by in shown),
            run.status,
            started(run),
            _metric(run, "test", monitor),
            _metric(run, "val", monitor),
            "" if run.seconds is None else f"{run.seconds:.1f}",
            " ".join(run.marks),
        ]
        for run in runs
    ]
    count = len(header)
    return aligned([header, *lines], right=(count - 4, count - 3, count - 2))


def told_apart_by(runs: Sequence[FoundRun]) -> list[str]:
    """What was typed and differs between the runs, apart from where they lie and how they were watched."""
    found = [name for name in varied(runs) if not name.startswith(_UNSHOWN)]
    return [name for name in found if not all(_is_own_file(run, name) for run in runs)]


def _is_own_file(run: FoundRun, name: str) -> bool:
    """Whether a setting is a file in the folder of the run or of its sweep, where rows from memory are kept."""
    value, folder = run.setting(name), run.folder.path.absolute()
    return isinstance(value, str) and Path(value).parent in (folder, folder.parent)


def _short(value: Any) -> str:
    """A cell beside others: of a long text, its beginning."""
    text = "-" if value is MISSING else shown_value(value)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def started(run: FoundRun) -> str:
    """Start time of a run, in local time."""
    return "" if run.started is None else run.started.astimezone().strftime("%Y-%m-%d %H:%M")


def shown_value(value: Any) -> str:
    """Formats a cell: numbers with four digits, text unchanged."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else show(value)


def _metric(run: FoundRun, split: str, usual: str) -> str:
    """The run's own monitored metric, named if it is not the usual one."""
    value = run.metrics.get(f"{split}/{run.monitor}")
    if value is None:
        return ""
    return f"{value:.4f}" if run.monitor == usual else f"{run.monitor} {value:.4f}"


def records(runs: Sequence[FoundRun]) -> list[dict[str, Any]]:
    """Every run with everything known about it, flattened, including all metrics and the whole config."""
    return [
        {
            "run": str(run.folder.path.absolute()),
            "name": run.name,
            "status": run.status,
            "started": run.summary.get("started"),
            "seconds": run.seconds,
            "marks": " ".join(run.marks),
            **run.metrics,
            **{key: value for key, value in flat(run.config).items() if key != "name"},
        }
        for run in runs
    ]


def comparison(runs: Sequence[FoundRun]) -> tuple[list[str], list[list[Any]]]:
    """What differs between runs: a header, and one line per differing config key, typed ones first, and per metric.

    `MISSING` marks a key or metric that a run lacks.
    """
    configs = [flat(run.config) | {"name": run.name} for run in runs]
    figures = [_figures(run) for run in runs]
    lines: list[list[Any]] = []
    places = {key: place for place, key in enumerate(key_names(TrainConfig))}
    known = {key for config in configs for key in config}
    typed = tuple(f"{name.replace('/', '.')}." for run in runs for name in run.typed)
    for key in sorted(known, key=lambda key: (not f"{key}.".startswith(typed), places.get(key, len(places)), key)):
        values = [config.get(key, MISSING) for config in configs]
        if any(value != values[0] for value in values):
            lines.append([key, *values])
    named = dict.fromkeys(key for figure in figures for key in figure)
    lines += [[key, *(figure.get(key, MISSING) for figure in figures)] for key in named]
    return ["", *(str(run.folder.path) for run in runs)], lines


_FIGURES = ("optimizer_steps", "best_step", "train_seconds", "median_step_seconds", "peak_memory_bytes")


def _figures(run: FoundRun) -> dict[str, Any]:
    """Status, metrics and statistics to compare."""
    found: dict[str, Any] = {"status": run.status, **run.metrics}
    found |= {name: run.summary[name] for name in _FIGURES if run.summary.get(name) is not None}
    parameters = run.summary.get("parameters")
    if isinstance(parameters, dict) and "trainable" in parameters:
        found["parameters.trainable"] = parameters["trainable"]
    return found


def numbered(runs: Sequence[FoundRun]) -> list[str]:
    """Names of runs side by side, since those of their folders are long: `[1]`, `[2]`, ..."""
    return [f"[{number}]" for number in range(1, len(runs) + 1)]


def comparison_table(runs: Sequence[FoundRun]) -> str:
    """`comparison` as text, with numbered runs, since folder names are long; a star marks the best of a metric."""
    header, lines = comparison(runs)
    numbers = numbered(runs)
    legend = [f"{number} {folder}" for number, folder in zip(numbers, header[1:], strict=True)]
    cells = []
    for key, *values in lines:
        best = best_of(key, values, runs)
        cells.append(
            [
                key,
                *(
                    "-" if v is MISSING else shown_value(v) + (" *" if best is not None and v == best else "")
                    for v in values
                ),
            ]
        )
    return "\n".join([*legend, "", aligned([["", *numbers], *cells])])


def best_of(key: str, values: Sequence[Any], runs: Sequence[FoundRun]) -> float | None:
    """The best of the runs' values of a metric; None if it is no metric or all runs have the same."""
    if not key.startswith(("test/", "val/")):
        return None
    known = [value for value in values if number(value) is not None and value == value]
    if len(set(known)) < 2:
        return None
    return float(min(known) if lower_is_better(key, minimised_by(runs)) else max(known))
