"""Damages tables, images, configs and checkpoints at random, and tells what mmft does wrong with them.

    python tools/fuzz/run.py --tables 2000 --images 500 --configs 300 --checkpoints 200 --seed 0
    python tools/fuzz/run.py --images 500                        # one part alone
    python tools/fuzz/run.py --images 1 --first 137 --seed 0     # one case again

Asserts: no traceback (each failure is a `UserError` or a bad row with a sentence), no hang, no row with another row's
content, no altered checkpoint that loads. Prints the outcomes and the first failures with what makes them again; ends
with 1 if there are any. Without a number, every part runs with the numbers of the first line.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]
PARTS = {"tables": 2000, "images": 500, "configs": 300, "checkpoints": 200}
SHOWN = 5
"""Failures shown of each kind and part."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part, count in PARTS.items():
        parser.add_argument(f"--{part}", type=int, metavar="N", help=f"number of damaged {part} (all parts: {count})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each part")
    options = parser.parse_args(argv)
    counts = {part: getattr(options, part) or 0 for part in PARTS}
    if not any(counts.values()):
        counts = PARTS
    _prepare()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for part, count in counts.items():
            if count:
                failed += _run(part, count, options.first, options.seed, Path(folder) / part)
    print(f"{failed} failures" if failed else "No failures.")
    return 1 if failed else 0


def _prepare() -> None:
    """Makes this checkout importable; nothing reaches a network."""
    sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "TOKENIZERS_PARALLELISM": "false"}


def _run(part: str, count: int, first: int, seed: int, folder: Path) -> int:
    """Runs a part's cases and prints what became of them; returns the number of failures."""
    from fuzz.outcome import FAILURES, judge, silenced

    module = importlib.import_module(f"fuzz.{part}")
    folder.mkdir()
    start = time.monotonic()
    with silenced():
        outcomes = [judge(part, case, module.SECONDS) for case in module.cases(count, first, seed, folder)]
    kinds = Counter(outcome.kind for outcome in outcomes)
    print(f"{part}: {count:,} cases in {time.monotonic() - start:.0f} s")
    for kind, times in kinds.most_common():
        print(f"  {times:6,}  {kind}")
    failures = [outcome for outcome in outcomes if outcome.failed]
    for kind in FAILURES:
        for outcome in [outcome for outcome in failures if outcome.kind == kind][:SHOWN]:
            print(f"  {kind}: {outcome.what}: {outcome.detail}")
            print(f"    python tools/fuzz/run.py --{part} 1 --first {outcome.number} --seed {seed}")
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
