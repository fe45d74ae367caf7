"""The tables of what was measured, as text and in a page."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.setting import SETTINGS, TITLES, environment_of

BEGIN, END = "<!-- measured: written by tools/bench/peers/run.py --page -->", "<!-- measured: end -->"
Figures = dict[str, Any]


def tables(results: Path) -> str:
    """A table for each setting that has figures, and on what they were measured."""
    found: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(results.glob("*.json")):
        one = json.loads(path.read_text())
        found[one["setting"]][one["peer"]].append(one)
    parts = [table(name, found[name]) for name in SETTINGS if name in found]
    return "\n\n".join([*parts, about([one for peers in found.values() for runs in peers.values() for one in runs])])


def table(setting: str, of_peer: dict[str, list[Figures]]) -> str:
    """One line for each peer: the mean of its seeds."""
    about_it = SETTINGS[setting]
    any_ = next(iter(of_peer.values()))[0]
    epochs = f"{any_['epochs']} epoch{'s' if any_['epochs'] > 1 else ''}"
    told = f"**{about_it.title}**: {epochs} of {any_['train_rows']:,} rows, {any_['test_rows']} test rows."
    names = [about_it.metric, "processor", "of mmft's", "wall clock", "peak memory", "model", "all files", "lines"]
    lines = [told, "", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    ours = mean(of_peer["mmft"], "cpu_seconds") if "mmft" in of_peer else None
    for peer in about_it.peers:
        if runs := of_peer.get(peer):
            seconds = mean(runs, "cpu_seconds")
            cells = [
                quality(runs),
                f"{seconds:,.0f} s",
                f"{seconds / ours:.2f}" if ours else "",
                f"{mean(runs, 'wall_seconds'):,.0f} s",
                f"{mean(runs, 'peak_memory_bytes') / 2**20:,.0f} MiB",
                f"{mean(runs, 'model_bytes') / 1e6:,.0f} MB",
                f"{mean(runs, 'written_bytes') / 1e6:,.0f} MB",
                str(runs[0]["lines"]),
            ]
            lines.append(f"| {TITLES[peer]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def quality(runs: Sequence[Figures]) -> str:
    """The mean over seeds, with the standard deviation where there are several."""
    values = [one["quality"] for one in runs]
    spread = f" ± {statistics.stdev(values):.3f}, {len(values)} seeds" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def mean(runs: Sequence[Figures], name: str) -> float:
    """Of a figure over the seeds."""
    return float(statistics.mean(one[name] for one in runs))


def about(runs: Sequence[Figures]) -> str:
    """Machine, dates, load and versions."""
    if not runs:
        return "Nothing has been measured."
    packages: dict[str, dict[str, str]] = {}
    for one in runs:
        packages.setdefault(environment_of(one["peer"]), one["versions"])
    machines = {f"{one['machine']['processor']}, {one['machine']['cores']} cores" for one in runs}
    dates = sorted({one["date"] for one in runs})
    loads = [load for one in runs for load in (one["load_before"], one["load_after"])]
    lanes = sorted({one["lanes"] for one in runs})
    told = [
        f"Measured on {' and '.join(dates)} on {' and '.join(sorted(machines))}, a thread for each program, "
        f"{' or '.join(map(str, lanes))} at a time; the machine's load was {min(loads):.1f} to {max(loads):.1f}.",
        "",
        "| | packages |\n|---|---|",
        *(f"| {TITLES[name]} | {', '.join(map(' '.join, sorted(of.items())))} |" for name, of in packages.items()),
    ]
    return "\n".join(told)


def write(path: Path, text: str) -> None:
    """Puts the tables between the page's markers."""
    page = path.read_text(encoding="utf-8")
    if BEGIN not in page or END not in page:
        raise ValueError(f"{path} lacks the lines {BEGIN!r} and {END!r}, between which the tables go")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
