"""Closing lines about probes: what a probe says of the labels, and how a run compares with an earlier probe."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmft.errors import UserError
from mmft.files import located
from mmft.run_folder import RunFolder, all_runs, newest
from mmft.tasks.metrics.names import lower_is_better
from mmft.training.probing import CERTAIN

log = logging.getLogger(__name__)
_WORDS = {"linear": "a linear probe", "knn": "a nearest-neighbour probe"}


def tell_contradicted(folder: RunFolder, rows: int) -> None:
    """Logs how many training labels a probe contradicts.

    Args:
        folder: of the run.
        rows: of training.
    """
    probe = folder.read_summary()["probe"]
    for name, part in probe.get("parts", {"": probe}).items():
        if part.get("contradicted"):
            log.info(
                "%sof %d training rows, %d have a label that a probe of the other rows contradicts with a probability "
                "of at least %.0f%%: %s. mmft check features=true looks for more, with images",
                *(f"{name}: " if name else "", rows, part["contradicted"], 100 * CERTAIN, folder.contradicted),
            )


def compare_with_probe(folder: RunFolder, config: Mapping[str, Any], runs: str, metric: str) -> None:
    """Logs by how much a run is better than the newest probe of the same name, task, data and number of test rows.

    A linear probe is preferred to nearest neighbours.

    Args:
        folder: of the run, whose summary has its test metrics.
        config: the contents of its config.yaml.
        runs: `paths.runs`.
        metric: to compare by, `accuracy`.
    """
    summary = folder.read_summary()
    if "probe" in summary:
        return
    alike = [one for one in _completed_probes(folder, located(runs)) if _is_alike(one, config, summary)]
    linear = [one for one in alike if one.peek()["probe"]["kind"] == "linear"]
    probe = newest(linear or alike)
    if probe is None:
        return
    before, now = (one.get("test", {}).get(metric) for one in (probe.peek(), summary))
    if before is None or now is None:
        return
    of_shares = not lower_is_better(metric, summary.get("minimised", ()))
    change = f"{100 * (now - before):+.1f} points" if of_shares else f"{now - before:+.4f} (lower is better)"
    kind = _WORDS[probe.peek()["probe"]["kind"]]
    log.info("test %s: %s on frozen features (%s) has %.3f: this run %s", metric, kind, probe.path, before, change)


def _completed_probes(folder: RunFolder, runs: Path) -> Iterator[RunFolder]:
    """Those below the folder of `paths.runs` that has the run's name."""
    path = folder.path.absolute()
    if path.is_relative_to(runs.absolute()):
        name = path.relative_to(runs.absolute()).parts[0]
        yield from (one for one in all_runs(runs / name) if one.is_completed and "probe" in one.peek())


def _is_alike(probe: RunFolder, config: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Whether a probe was made for the same task, on the same data, and tested on as many rows."""
    try:
        theirs = probe.read_config()
    except UserError:  # a probe that cannot be read must not fail another run
        return False
    same_rows = probe.peek().get("rows", {}).get("test") == summary.get("rows", {}).get("test")
    return same_rows and _of_data(theirs) == _of_data(config)


def _of_data(config: Mapping[str, Any]) -> list[Any]:
    """What a run's test rows and labels depend on."""
    data, base = config["data"], Path(config["working_directory"])
    files = [_absolute(data[name], base) for name in ("path", "train", "val", "test")]
    drawn = data["columns"]["split"] is None and data["test"] is None
    return [
        config["task"]["type"],
        data["columns"],
        *files,
        data["fold"],
        (config["seed"], data["fractions"]) if drawn else None,
    ]


def _absolute(files: Any, base: Path) -> Any:
    if isinstance(files, Mapping):
        return {name: _absolute(one, base) for name, one in files.items()}
    if isinstance(files, list):
        return [_absolute(one, base) for one in files]
    return files if files is None else str(base / files)
