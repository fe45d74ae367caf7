"""A sweep of twelve runs of the shipped sample in one process: what does it cost beside the runs' own training?

    python tools/bench/sweep.py

Prints the sweep's wall time, twelve times the mean `train_seconds`, and where the rest goes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=12)
    given = parser.parse_args()
    seeds = ",".join(map(str, range(given.runs)))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mmft", "train", "-m", f"seed={seeds}", "trainer.max_epochs=1"]
        started = time.perf_counter()
        subprocess.run([*command, f"hydra.sweep.dir={folder}", "callbacks.progress=none"], check=True)
        wall = time.perf_counter() - started
        runs = [_summary(Path(folder) / str(number)) for number in range(given.runs)]
    training = sum(run["train_seconds"] for run in runs)
    imports = sum(run["import_seconds"] for run in runs)
    startup = sum(run["startup_seconds"] for run in runs) - imports
    first, *others = (run["train_seconds"] for run in runs)
    print(f"sweep of {given.runs} runs: {wall:.1f} s; training alone {training:.1f} s, {given.runs} x the first run's")
    print(
        f"train_seconds {given.runs * first:.1f} s (first {first:.1f} s, the others {sum(others) / len(others):.1f} s)"
    )
    print(f"imports {imports:.1f} s, of which {imports - runs[0]['import_seconds']:.1f} s after the first run")
    print(f"start of the runs without imports {startup:.1f} s; the rest is test, report and saving")


def _summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


if __name__ == "__main__":
    main()
