"""Signals and kills at random moments: the right exit code, nobody left, and a resumed run ends as the undisturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
from runs import Run, same_weights

from mmft import build

TIMES = 20
QUIET = ["checkpoint.every_steps=1", "trainer.accelerator=cpu", "trainer.max_epochs=5", "name=signals"]
TWO = "trainer.devices=2"
WORKERS = "data.num_workers=2"


class Bench:
    """Commands on the sample in a folder, and the run that nothing disturbs.

    Args:
        folder: everything is written in it.
        overrides: what every command is given.
    """

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder, self.overrides = folder, overrides
        assert self.start("first").wait() == 0, self.said("first")  # reads everything from the disk
        started = time.monotonic()
        assert self.start("undisturbed").wait() == 0, self.said("undisturbed")
        self.seconds = time.monotonic() - started
        self.undisturbed = self.run("undisturbed")
        assert self.undisturbed is not None

    def start(self, name: str, *more: str) -> forked.Forked:
        return forked.command(
            ["train", *self.overrides, f"paths.runs={self.folder / name}", *more], self.folder / f"{name}.txt"
        )

    def run(self, name: str) -> Run | None:
        """The only run of a command; None: it was ended before it made one."""
        found = list((self.folder / name).glob("*/*/config.yaml"))
        return Run(found[0].parent) if found else None

    def logged(self, name: str) -> int:
        """How many lines the only run of a command has in its metrics.csv."""
        return sum(file.read_text().count("\n") for file in (self.folder / name).glob("*/*/metrics.csv"))

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text()


@pytest.fixture
def bench(tmp_path: Path, shapes_overrides: list[str]) -> Iterator[Callable[..., Bench]]:
    """`bench(override, ...)`: the bench of a setting."""
    forked.adopt_orphans(True)
    build.preload()  # once, not in every command
    os.chdir(tmp_path)
    yield lambda *more: Bench(tmp_path, [*shapes_overrides, *QUIET, *more])
    forked.adopt_orphans(False)


def ends_as_undisturbed(bench: Bench, name: str) -> None:
    """Resumes a run and compares it, bit for bit."""
    run = bench.run(name)
    if run is None:  # it was ended before it began
        return
    # The command before may have ended it while a resumption still would have something to do, or nothing.
    again = bench.start(name, f"resume={run.path}")
    assert again.wait() == 0, bench.said(name)
    assert run.summary["status"] == "completed"
    assert bench.undisturbed is not None
    assert same_weights(run, bench.undisturbed), name
    assert run.metrics == bench.undisturbed.metrics, name
    assert run.summary["test"] == bench.undisturbed.summary["test"]


def disturbed(
    bench: Bench, name: str, moment: float, disturb: Callable[[forked.Forked], Any], steps: int = 0
) -> tuple[int, Any]:
    """Disturbs a run `moment` seconds after it logged `steps`; its exit code and what the disturbance gave."""
    known = set(forked.children(os.getpid()))
    run = bench.start(name)
    known.add(run.pid)
    while run.poll() is None and bench.logged(name) < steps:
        time.sleep(0.01)
    time.sleep(moment)
    done = disturb(run)
    code = run.wait()
    assert forked.left_over(known - {run.pid}, 10) == [], bench.said(name)
    return code, done


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ranks", [[], [TWO]], ids=["one", "two"])
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_at_any_moment(bench: Any, number: int, expected: int, ranks: list[str]) -> None:
    table = bench(*ranks)
    draw, seen = random.Random(number), []
    for at in range(TIMES // 2):
        name = f"signal{at}"
        # By the clock, which also meets the start and the end; and by the steps, which meets training on any machine.
        moment, steps = (draw.uniform(0, table.seconds), 0) if at % 2 else (draw.uniform(0, 0.2), draw.randrange(1, 10))
        code, _ = disturbed(table, name, moment, lambda run: run.send_signal(number), steps)
        run = table.run(name)
        status = run and run.summary["status"]
        # Before the command's first line and after its last one the process ends by the signal itself.
        if status == "completed":  # the signal came when all was done
            assert code in (0, expected, -number), table.said(name)
        elif run is None:
            assert code in (expected, -number), table.said(name)
        else:
            assert (status, code) == ("stopped", expected), table.said(name)
        seen.append(status)
        ends_as_undisturbed(table, name)
    assert seen.count("stopped") >= TIMES // 5, seen  # the rest came before its folder, or after its end


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_rank_killed_at_any_moment(bench: Any) -> None:
    table = bench(TWO)
    draw, failures = random.Random(9), 0
    for at in range(TIMES):
        name, victim = f"killed{at}", at % 2

        def kill(run: forked.Forked, victim: int = victim) -> bool:
            while run.poll() is None:  # a moment before there are any is no moment
                if len(ranks := forked.children(run.pid)) == 2:
                    os.kill(ranks[victim], signal.SIGKILL)
                    return True
                time.sleep(0.01)
            return False

        code, killed = disturbed(table, name, draw.uniform(0, table.seconds), kill)
        if code == 3:
            assert f"rank {victim} (process" in table.said(name)
            assert "was killed by SIGKILL" in table.said(name)
            run = table.run(name)
            # The first rank, which writes, may have been at its end.
            assert run is None or run.summary["status"] in ("failed", "completed")[: 2 - victim], table.said(name)
            failures += 1
        else:  # there were no ranks yet, or no more to do
            assert code == 0, table.said(name)
            assert not killed or table.run(name).summary["status"] == "completed"
        ends_as_undisturbed(table, name)
    assert failures >= TIMES // 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_worker_killed_at_any_moment(bench: Any) -> None:
    table = bench(WORKERS)
    draw, failures = random.Random(5), 0
    for at in range(TIMES):
        name = f"worker{at}"

        def kill(run: forked.Forked, at: int = at) -> bool:
            while run.poll() is None:  # a moment before there are any is no moment
                if workers := forked.children(run.pid):
                    os.kill(workers[at % len(workers)], signal.SIGKILL)
                    return True
                time.sleep(0.01)
            return False

        code, _ = disturbed(table, name, draw.uniform(0, table.seconds), kill)
        if code == 3:
            assert "worker" in table.said(name)
            assert "Traceback" not in table.said(name)
            assert table.run(name).summary["status"] == "failed"
            failures += 1
        else:
            assert code == 0, table.said(name)
        ends_as_undisturbed(table, name)
    assert failures >= TIMES // 4


def test_the_summary_of_a_run_is_whole_at_any_moment(bench: Any) -> None:
    """What a signal leaves is what another process may be reading."""
    table = bench("trainer.max_epochs=1")
    run = table.start("read")
    while run.poll() is None:
        for file in (table.folder / "read").glob("*/*/summary.json"):
            assert json.loads(file.read_text())["status"] in ("running", "completed")
    assert run.wait() == 0
