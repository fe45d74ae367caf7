"""The learning curve of a sweep over `data.subset`: the metric by number of training rows, and what more would give."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmft.files import write_records
from mmft.reports.aligned import aligned
from mmft.reports.numbers import number
from mmft.run.listing.found import FoundRun, minimised_by
from mmft.run.listing.sweep import SEEDS, Sweep, spread
from mmft.tasks.metrics.names import lower_is_better

SIZES = ("data.subset.fraction", "data.subset.rows")
_FEWEST_SIZES = 3  # for a fit: two lie on any curve
_FLAT = 0.03  # share of the error; a gain below is none
_T = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
)  # 95 % quantiles of Student's t by degrees of freedom


class Point(NamedTuple):
    """Completed runs on the same number of rows."""

    rows: int  # their mean, which seeds and folds may change a little
    values: list[float]
    steps: int = 0  # most optimizer steps of any


class Fit(NamedTuple):
    """`y = exp(constant) * rows ** slope` of the error, or `y = constant + slope * log(rows)` of the metric itself.

    The error is what a metric lacks to 1, or a metric that is better when lower. Hestness et al. 2017 (arXiv
    1712.00409) find that it falls as a power of the rows. Where it is not above 0, the metric is fitted.
    """

    of_error: bool
    constant: float
    slope: float
    deviation: float  # standard error of the slope
    freedom: int  # runs beyond the two that determine a line


class Curve:
    """The curve of one setting of a sweep's other keys.

    Args:
        metric: with its split, `test/accuracy`.
        points: by rows, ascending.
        setting: the values of the other keys that vary.
        lower: whether the metric is better when lower.
        stops_early: whether runs end by early stopping, whatever number of steps they are given.

    Attributes:
        fit: of all points; of the last two alone if the curve flattens, so that one line does not fit all.
        flattens: whether it does, by the 95 % interval of a quadratic term.
    """

    def __init__(
        self, metric: str, points: Sequence[Point], setting: dict[str, str], lower: bool, stops_early: bool = False
    ) -> None:
        self.metric, self.points, self.setting = metric, points, setting
        self.lower, self.stops_early = lower, stops_early
        self.flattens = len(points) >= _FEWEST_SIZES and self._flattens()
        of_last = self.flattens and sum(len(point.values) for point in points[-2:]) > 2
        self.fitted_points = points[-2:] if of_last else points
        self.fit = self._fit()

    def error(self, value: float) -> float:
        """The error of a value of the metric."""
        return value if self.lower else 1 - value

    def _runs(self, points: Sequence[Point]) -> tuple[bool, list[float], list[float]]:
        """Whether errors are fitted; the logarithm of each run's rows, and of its error, or the metric itself."""
        of_error = all(self.error(value) > 0 for point in self.points for value in point.values)
        runs = [(math.log(point.rows), value) for point in points for value in point.values]
        return of_error, [x for x, _ in runs], [math.log(self.error(y)) if of_error else y for _, y in runs]

    def _flattens(self) -> bool:
        _, x, y = self._runs(self.points)
        freedom = len(x) - 3
        if freedom < 1:
            return False
        columns = np.vander(np.array(x) - np.mean(x), 3)  # the square, the line, the constant
        found = np.linalg.lstsq(columns, np.array(y), rcond=None)[0]
        rest = float(((np.array(y) - columns @ found) ** 2).sum())
        deviation = math.sqrt(rest / freedom * np.linalg.inv(columns.T @ columns)[0, 0])
        bend, slope = found[0], found[1]
        return bool(bend * slope < 0 and abs(bend) > _t(freedom) * deviation)

    def _fit(self) -> Fit | None:
        if len(self.points) < _FEWEST_SIZES:
            return None
        of_error, x, y = self._runs(self.fitted_points)
        slope, constant = statistics.linear_regression(x, y)
        rest = sum((b - constant - slope * a) ** 2 for a, b in zip(x, y, strict=True))
        width = sum((a - statistics.mean(x)) ** 2 for a in x)
        freedom = len(x) - 2
        return Fit(of_error, constant, slope, math.sqrt(rest / freedom / width), freedom)

    def fitted(self, rows: float) -> float | None:
        """The metric that the fit has for a number of rows; None for fewer than it was made of."""
        if self.fit is None or rows < self.fitted_points[0].rows:
            return None
        if not self.fit.of_error:
            return self.fit.constant + self.fit.slope * math.log(rows)
        return self.error(math.exp(self.fit.constant) * rows**self.fit.slope)  # its own inverse

    def text(self) -> str:
        """A table, the formula, and whether more rows would help."""
        of = ", ".join(f"{key}={value}" for key, value in self.setting.items())
        lines = [["rows", "runs", self.metric, "fit"]]
        for point in self.points:
            fitted = self.fitted(point.rows)
            shown = "" if fitted is None else f"{fitted:.4f}"
            lines.append([str(point.rows), str(len(point.values)), spread(point.values), shown])
        formula = [] if self.fit is None else [f"fit: {self._formula(self.fit)}"]
        title = f"learning curve{f' ({of})' if of else ''}"
        return "\n".join([title, aligned(lines, right=(0, 1)), *formula, self.forecast(), *self._unequal_steps()])

    def _unequal_steps(self) -> Iterator[str]:
        steps = [point.steps for point in self.points]
        first, *_, last = steps
        if len({*steps}) == 1:
            return
        if first == last:
            told = f"Not all numbers of rows were trained for as many optimizer steps ({min(steps)} to {max(steps)})."
        else:
            few, steep = ("fewer", "steeper") if first < last else ("more", "flatter")
            told = f"Fewer rows were also trained for {few} optimizer steps ({first} to {last}), which makes the curve "
            told += f"{steep}."
        early = ", and leave callbacks.early_stopping out" if self.stops_early else ""
        yield f"{told} For as many, type trainer.max_epochs=100000 trainer.max_steps={max(steps)}{early}."

    def records(self) -> list[dict[str, Any]]:
        """One record per number of rows."""
        return [
            {
                **self.setting,
                "rows": rows,
                "runs": len(values),
                "metric": self.metric,
                "mean": statistics.mean(values),
                "deviation": statistics.stdev(values) if len(values) > 1 else None,
                "fit": self.fitted(rows),
            }
            for rows, values, _ in self.points
        ]

    def forecast(self) -> str:
        """What twice as many rows would give, in a sentence: the gain, that there is none, or that noise hides it."""
        if self.fit is None:
            return f"For a forecast, sweep over {_FEWEST_SIZES} numbers of rows or more."
        rows, last = self.points[-1].rows, statistics.mean(self.points[-1].values)
        margin = _t(self.fit.freedom) * self.fit.deviation
        gain, *ends = (self._gain(last, self.fit.slope + change) for change in (0, -margin, margin))
        least, most = sorted(ends)
        between = f"{self._shown(least, unit='')} to {self._shown(most)} by the 95 % interval of the fit"
        if len(self.fitted_points) < len(self.points):
            between += f" of the last two sizes, {self.points[-2].rows:,} and {rows:,}"
        if self.flattens and least <= 0:
            return (
                f"The curve flattens: {2 * rows:,} rows instead of {rows:,} would give {self._shown(gain)} if it went "
                f"on ({between}), and less if it flattens further."
            )
        if least > 0:
            after = last - gain if self.lower else last + gain
            before = self.points[-2]
            step = self.error(statistics.mean(before.values)) - self.error(last)
            return (
                f"More rows would help{', though the curve flattens' * self.flattens}: if the curve goes on, "
                f"{2 * rows:,} instead of {rows:,} give about {self._shown(gain)}, from {last:.3f} to {after:.3f} "
                f"({between}; {rows:,} instead of {before.rows:,} gave {self._shown(step)})."
            )
        if most < _FLAT * (self.error(last) if self.fit.of_error else abs(last)):
            return f"The curve is flat: {2 * rows:,} rows instead of {rows:,} would hardly help ({between})."
        return (
            f"The noise is too large to say whether {2 * rows:,} rows instead of {rows:,} would help ({between}). "
            "More seeds tell more: seed=0,1,2,3,4."
        )

    def _gain(self, last: float, slope: float) -> float:
        """By how much the metric gets better with twice as many rows."""
        assert self.fit is not None
        if self.fit.of_error:
            return self.error(last) * (1 - 2**slope)
        return slope * math.log(2) * (-1 if self.lower else 1)

    def _shown(self, gain: float, unit: str = " points") -> str:
        return f"{-gain:+.3g}" if self.lower else f"{100 * gain:+.1f}{unit}"

    def _formula(self, fit: Fit) -> str:
        if not fit.of_error:
            return f"{self.metric} = {fit.constant:.3g} {fit.slope:+.3g} * log(rows)"
        of = self.metric if self.lower else f"1 - {self.metric}"
        return f"{of} = {math.exp(fit.constant):.3g} * rows^{fit.slope:.3g}"


def learning_curves(sweep: Sweep) -> list[Curve]:
    """The curves of a sweep over the size of `data.subset`, one for each setting of its other keys; none without one.

    The metric is the monitored one, on the test rows if there are any.
    """
    sizes = [key for key in SIZES if key in sweep.varied]
    metric = next((job.monitor for job in sweep.jobs if job.monitor), None)
    if not sizes or metric is None:
        return []
    name = f"test/{metric}" if any(f"test/{metric}" in job.metrics for job in sweep.jobs) else f"val/{metric}"
    others = [key for key in sweep.varied if key not in (*SIZES, *SEEDS)]
    found: dict[tuple[str, ...], dict[int, Point]] = {}
    for values, jobs in sweep.groups([*others, *sizes]).items():
        points = found.setdefault(values[: len(others)], {})
        for point in _points(jobs, name):
            before = points.get(point.rows, Point(point.rows, []))  # two sizes may come to as many rows
            both = [*before.values, *point.values]
            points[point.rows] = Point(point.rows, both, max(before.steps, point.steps))
    lower = lower_is_better(name, minimised_by(sweep.jobs))
    early = any(key.startswith("callbacks.early_stopping") for job in sweep.jobs for key in sweep.typed(job))
    return [
        Curve(name, [points[rows] for rows in sorted(points)], dict(zip(others, setting, strict=True)), lower, early)
        for setting, points in found.items()
        if len(points) > 1
    ]


def write_curves(curves: Sequence[Curve], folder: Path) -> None:
    """Writes learning_curve.csv: one line per setting and number of rows."""
    write_records(folder / "learning_curve.csv", [record for curve in curves for record in curve.records()])


def _points(jobs: Sequence[FoundRun], metric: str) -> Iterator[Point]:
    """The completed ones of some jobs, if any, as one point."""
    done = [(rows, job) for job in jobs if (rows := _rows(job)) and metric in job.metrics]
    if done:
        steps = max(int(number(job.summary.get("optimizer_steps")) or 0) for _, job in done)
        yield Point(round(statistics.mean(rows for rows, _ in done)), [job.metrics[metric] for _, job in done], steps)


def _rows(job: FoundRun) -> float | None:
    """The training rows of a completed run."""
    rows = job.summary.get("rows")
    return number(rows.get("train")) if job.status == "completed" and isinstance(rows, dict) else None


def _t(freedom: int) -> float:
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.7 / freedom
