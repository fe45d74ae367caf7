"""The runs below a folder, as far as they are readable: a broken or foreign folder is listed, never an error."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from mmft.errors import UserError
from mmft.reports.numbers import number
from mmft.run.listing.filters import Filter
from mmft.run_folder import RunFolder, all_runs, find_run, newest_unfinished
from mmft.tasks.metrics.names import lower_is_better
from mmft.tasks.metrics.names import rank as metric_rank

MISSING = object()
"""Marks a key that a run's config lacks, since null is a value."""


@dataclass
class FoundRun:
    """One run.

    Attributes:
        folder: the run folder.
        name: the first folder below `paths.runs`, or the config's `name` if the run is elsewhere.
        marks: `last`, `resume`: which value selects this run.
    """

    folder: RunFolder
    name: str
    marks: list[str] = field(default_factory=list)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Reads summary.json; empty if it is unreadable."""
        return self.folder.peek()

    @cached_property
    def config(self) -> dict[str, Any]:
        """Reads config.yaml; empty if it is unreadable."""
        try:
            return self.folder.read_config()
        except UserError:
            return {}

    @property
    def status(self) -> str:
        """The summary's status; `killed` if it is running but its process is gone, `unreadable` without a summary."""
        status = str(self.summary.get("status", "unreadable"))
        return "killed" if status == "running" and not self.folder.is_held else status

    @property
    def started(self) -> datetime | None:
        """When it was first started."""
        try:
            return datetime.fromisoformat(self.summary["started"])
        except (KeyError, ValueError, TypeError):
            return None

    @property
    def seconds(self) -> float | None:
        """Training time over all starts."""
        return number(self.summary.get("train_seconds"))

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Numeric `test/...`, `val/...`, and `test/photo/...` of named test tables."""
        found = {}
        splits = {split: self.summary.get(split) for split in ("test", "val")}
        for split, values in (splits | {f"test/{name}": values for name, values in self.tests.items()}).items():
            for name, value in values.items() if isinstance(values, dict) else ():
                if number(value) is not None:
                    found[f"{split}/{name}"] = float(value)
        return found

    @property
    def minimised(self) -> frozenset[str]:
        """Metrics of the run's own task that are better when lower."""
        named = self.summary.get("minimised")
        return frozenset(map(str, named)) if isinstance(named, list) else frozenset()

    @property
    def tests(self) -> dict[str, Any]:
        """The metrics on named test tables, by table; `test` has those of the first."""
        tests = self.summary.get("tests")
        return tests if isinstance(tests, dict) else {}

    @property
    def monitor(self) -> str | None:
        """The metric that selects the finished model, without `val/`; the first one if the run does not say."""
        named = self.summary.get("monitor") or self.get("checkpoint.monitor")
        if isinstance(named, str):
            return named.removeprefix("val/")
        return next((name.partition("/")[2] for name in self.metrics), None)

    def get(self, key: str) -> Any:
        """The config's value at a dotted key, or `MISSING`."""
        if key == "name":
            return self.name
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return MISSING
            node = node[part]
        return node

    def option(self, group: str) -> Any:
        """The chosen option of a group, or `MISSING`."""
        choices = self.summary.get("choices")
        if isinstance(choices, dict) and group in choices:
            return choices[group]
        section = self.get(group.replace("/", "."))
        if isinstance(section, Mapping) and "type" in section:
            return section["type"]
        return None if isinstance(choices, dict) else MISSING

    @cached_property
    def typed(self) -> list[str]:
        """The keys and groups that were typed, in that order."""
        return [word.partition("=")[0].lstrip("+~") for word in self.folder.read_overrides()]

    def setting(self, name: str) -> Any:
        """The option of a group, or the config's value at a key."""
        choices = self.summary.get("choices")
        return self.option(name) if isinstance(choices, dict) and name in choices else self.get(name)

    def fits(self, wanted: Filter) -> bool:
        """Whether a filter keeps this run."""
        return (self.option(wanted.key) if wanted.is_group else self.get(wanted.key)) in wanted.values


def varied(runs: Sequence[FoundRun]) -> list[str]:
    """The typed keys and groups whose values differ between runs, in the order typed."""
    names = dict.fromkeys(name for run in runs for name in run.typed)
    return [name for name in names if any(run.setting(name) != runs[0].setting(name) for run in runs)]


def find_runs(runs: Path) -> list[FoundRun]:
    """Every run below `runs`, newest first, with its marks."""
    found = [FoundRun(folder, _name(folder, runs)) for folder in all_runs(runs)]
    for path, mark in _marks(runs):
        for run in found:
            if run.folder.path == path:
                run.marks.append(mark)
    return sorted(found, key=_start, reverse=True)


def _name(folder: RunFolder, runs: Path) -> str:
    parts = folder.path.relative_to(runs).parts
    return parts[0] if parts else folder.path.absolute().name


def _marks(runs: Path) -> Iterator[tuple[Path, str]]:
    """The run that `run=last` selects, and for every name the run that `resume=last` resumes."""
    with suppress(UserError):
        yield find_run("last", runs).path, "last"
    for below in sorted(runs.iterdir()) if runs.is_dir() else ():
        if below.is_dir() and (unfinished := newest_unfinished(below)):
            yield unfinished.path, "resume"


def _start(run: FoundRun) -> float:
    try:
        return run.started.timestamp() if run.started else 0.0
    except (OverflowError, OSError):
        return 0.0


def sort_runs(runs: Sequence[FoundRun], by: str, keys: Sequence[str]) -> list[FoundRun]:
    """Sorts the runs; those without the value come last.

    Args:
        runs: newest first, the order of ties.
        by: `started`, `name`, `status`, `seconds`, a metric, or a config key.
        keys: keys that configs can have.

    Raises:
        UserError: no run has such a value.
    """
    if by == "started":
        return list(runs)
    metrics = sorted({name for run in runs for name in run.metrics})
    if by not in ("name", "status", "seconds", *metrics, *keys):
        from mmft.config.wording import did_you_mean, listed

        words = ("started", "name", "status", "seconds")
        near = did_you_mean(by, [*words, *metrics, *keys])
        raise UserError(
            f"sort={by}: nothing to sort by.{near} There are: {listed([*words, *metrics])}, and the keys of mmft train"
        )
    have = [run for run in runs if value_of(run, by) is not None]
    lacking = [run for run in runs if value_of(run, by) is None]
    best_is_high = by in metrics and not lower_is_better(by, minimised_by(runs))
    return sorted(have, key=lambda run: _comparable(value_of(run, by)), reverse=best_is_high) + lacking


def minimised_by(runs: Iterable[FoundRun]) -> frozenset[str]:
    """Metrics that are better when lower, of the runs' own tasks."""
    return frozenset[str]().union(*(run.minimised for run in runs))


def rank(value: float | None, name: str, loss: float | None, minimised: Collection[str]) -> tuple[bool, float, float]:
    """A metric's place in an order: smaller is better; None comes last.

    Args:
        value: the metric's.
        name: the metric's, with its split.
        loss: that of the same rows, which decides while all texts are wrong (`mmft.tasks.metrics.names.rank`).
        minimised: see `minimised_by`.
    """
    if value is None:
        return (True, 0.0, 0.0)
    lower = lower_is_better(name, minimised)
    return (False, *metric_rank({name: value, "loss": float("nan") if loss is None else loss}, name, minimised=lower))


def ranked_by(metric: str, runs: Sequence[FoundRun]) -> str:
    """A metric on the rows that runs are ranked by: of validation, or without any of test."""
    own = f"val/{metric}"
    return own if any(own in run.metrics for run in runs) else f"test/{metric}"


def loss_beside(name: str) -> str:
    """The loss of the rows that a metric is of: `val/loss` beside `val/cider`."""
    return f"{name.rpartition('/')[0]}/loss"


def value_of(run: FoundRun, by: str) -> Any:
    """A run's value to sort by; None if it has none."""
    if by in ("name", "status", "seconds"):
        return getattr(run, by)
    if by.startswith(("test/", "val/")):
        return run.metrics.get(by)
    value = run.get(by)
    return None if value is MISSING else value


def _comparable(value: Any) -> tuple[int, float, str]:
    """Sorts numbers before text."""
    known = number(value)
    return (1, 0.0, str(value)) if known is None else (0, known, "")
