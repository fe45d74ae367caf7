"""The command in a process of its own, or quicker in a forked one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import forked
import pytest


class Finished(subprocess.CompletedProcess[str]):
    """A finished command, with the CPU time of it and its children."""

    cpu_seconds: float


Mmft = Callable[..., Finished]


def run_mmft(
    *args: str | Path,
    cwd: Path | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    timeout: float = 800,
    stdin: str = "",
) -> Finished:
    """Runs `python -m mmft ARGS`; with `check`, any exit code but 0 fails the test with what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "mmft", *map(str, args)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        input=stdin,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = Finished(done.args, done.returncode, done.stdout, done.stderr)
    finished.cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _checked(finished, check)


def fork_mmft(
    *args: str | Path,
    cwd: Path | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    timeout: float = 800,
    stdin: str = "",
) -> Finished:
    """`run_mmft` without the imports, which this process has done: see `forked`. Its CPU time is not measured."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder, "stdout"), Path(folder, "stderr")
        argv = [str(one) for one in args]
        process = forked.command(argv, out, errors, stdin, cwd, env)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return _checked(Finished(argv, code, out.read_text(), errors.read_text()), check)


def _checked(done: Finished, check: bool) -> Finished:
    if check and done.returncode != 0:
        pytest.fail(f"{done.args} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done
