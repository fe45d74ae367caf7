"""The results of a sweep: `sweep.csv`, one line per job, and one table, best first, averaged over seeds and folds."""

from __future__ import annotations

import csv
import io
import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

from mmft.files import write_text
from mmft.reports.aligned import aligned
from mmft.run.listing.found import FoundRun, loss_beside, minimised_by, rank, ranked_by
from mmft.run_folder import SWEEP, RunFolder

SEEDS = ("seed", "data.fold")
"""Keys that repeat an experiment instead of changing it."""


class Sweep:
    """The jobs in a sweep's folder that have started.

    Args:
        folder: the sweep's; its jobs are in `0`, `1`, ...

    Attributes:
        jobs: in order.
        varied: keys that differ between jobs, in the order typed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        numbered = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        self.jobs = [FoundRun(RunFolder(path), path.name) for path in numbered]
        self._typed = [
            dict(word.split("=", 1) for word in job.folder.read_overrides() if "=" in word) for job in self.jobs
        ]
        keys = dict.fromkeys(key for typed in self._typed for key in typed)
        self.varied = [key for key in keys if len({typed.get(key) for typed in self._typed}) > 1]

    def typed(self, job: FoundRun) -> dict[str, str]:
        """What was typed for a job, by key."""
        return self._typed[self.jobs.index(job)]

    @property
    def metric(self) -> str:
        """The metric that selects the finished models; empty if no job has one."""
        return next((job.monitor for job in self.jobs if job.monitor), "")

    @property
    def by(self) -> str:
        """`metric` on the rows that jobs are ranked by."""
        return ranked_by(self.metric, self.jobs)

    def write(self) -> Path:
        """Writes sweep.csv: job, status, varied keys, all test and val metrics, seconds, error."""
        metrics = list(dict.fromkeys(name for job in self.jobs for name in job.metrics))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["job", "status", *self.varied, *metrics, "seconds", "error"])
        for job, typed in zip(self.jobs, self._typed, strict=True):
            values = [typed.get(key, "") for key in self.varied]
            figures = [job.metrics.get(name, "") for name in metrics]
            writer.writerow([job.name, job.status, *values, *figures, job.seconds, job.summary.get("error") or ""])
        write_text(self.folder / "sweep.csv", text.getvalue())
        return self.folder / "sweep.csv"

    def groups(self, keys: Sequence[str]) -> dict[tuple[str, ...], list[FoundRun]]:
        """The jobs by the values of some keys."""
        found: dict[tuple[str, ...], list[FoundRun]] = {}
        for job, typed in zip(self.jobs, self._typed, strict=True):
            found.setdefault(tuple(typed.get(key, "") for key in keys), []).append(job)
        return found

    def table(self) -> str:
        """One line per setting, best first, and the command that repeats the best."""
        keys = [key for key in self.varied if key not in SEEDS]
        metric, by = self.metric, self.by
        tests = list(dict.fromkeys(f"test/{table}" for job in self.jobs for table in job.tests)) or ["test"]
        shown = [f"{split}/{metric}" for split in ("val", *tests)] if metric else []
        loss = loss_beside(by)  # decides while all texts are wrong
        if shown and by != loss and not any(job.metrics.get(by) for job in self.jobs):
            shown.append(loss)
        minimised = minimised_by(self.jobs)
        ordered = sorted(
            self.groups(keys).items(),
            key=lambda item: (
                not _through(item[1]),
                rank(self._mean(item[1], by), by, self._mean(item[1], loss), minimised),
            ),
        )
        header = ["jobs", *keys, "runs", *shown]
        lines = [
            [_names(jobs), *map(_short, values), _count(jobs), *(spread(self._figures(jobs, name)) for name in shown)]
            for values, jobs in ordered
        ]
        best = [job for job in _through(ordered[0][1]) if by in job.metrics] if ordered else []
        text = aligned([header, *lines])
        if not best:
            return text
        first = min(best, key=lambda job: rank(job.metrics[by], by, job.metrics.get(loss), minimised))
        return f"{text}\n{self._command(first)}"

    def _figures(self, jobs: Sequence[FoundRun], name: str) -> list[float]:
        """A metric of the jobs that were not pruned, or of all if all were.

        Jobs that are alike count once: a search may repeat one, which tells of no spread.
        """
        counted = [job for job in _through(jobs) or jobs if name in job.metrics]
        return list({tuple(self.typed(job).items()): job.metrics[name] for job in counted}.values())

    def _mean(self, jobs: Sequence[FoundRun], name: str) -> float | None:
        values = self._figures(jobs, name)
        return statistics.mean(values) if values else None

    def _command(self, job: FoundRun) -> str:
        record = self.folder / SWEEP
        own = json.loads(record.read_text(encoding="utf-8")).get("config_dirs", []) if record.is_file() else []
        words = [word for folder in own for word in ("--config-dir", folder)]
        words += [f"{key}={value}" for key, value in self.typed(job).items()]
        return f"job {job.name} is the best; to run it again: {job.folder.train_command} {shlex.join(words)}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation of several values, in words."""
    if not values:
        return "-"
    return f"{statistics.mean(values):.4f}" + (f" +/- {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def _through(jobs: Sequence[FoundRun]) -> list[FoundRun]:
    """Jobs that were not pruned; those of pruned trials are not comparable."""
    return [job for job in jobs if job.status != "pruned"]


def _count(jobs: Sequence[FoundRun]) -> str:
    """Number of completed jobs, or the status that all share."""
    done = sum(job.status == "completed" for job in jobs)
    if done == len(jobs):
        return str(done)
    ends = {job.status for job in jobs}
    return ends.pop() if len(ends) == 1 else f"{done} of {len(jobs)}"


def _short(value: str) -> str:
    """A sampled number with readable digits; sweep.csv has all."""
    try:
        return f"{float(value):.4g}" if len(value) > 10 else value
    except ValueError:
        return value


def _names(jobs: Sequence[FoundRun]) -> str:
    return ",".join(job.name for job in jobs)
