"""Several ranks through the command: one run folder, the same result, and an end for all when one ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import children
from make_shapes import Shapes
from safetensors.torch import load_file

from mmft.cli.main import main
from mmft.errors import ExitCode
from mmft.ranks import Ranks, first_host, started

QUIET = ["callbacks.progress=none", "modality_report=false", "trainer.accelerator=cpu", "model.dropout=0"]
TWO = "trainer.devices=2"


@pytest.fixture
def start(shapes: Shapes, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start(*overrides)`: `mmft train` on the sample in a session of its own, in an empty folder."""
    made: list[subprocess.Popen[str]] = []

    def run(*overrides: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mmft", "train", *shapes.overrides, *QUIET, *overrides]
        streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        made.append(subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, **streams))
        return made[-1]

    yield run
    for process in made:
        process.kill()
        process.communicate()


def folder_of(tmp_path: Path) -> Path:
    """The only run."""
    (folder,) = (tmp_path / "runs" / "shapes").iterdir()
    return folder


def summary_of(tmp_path: Path) -> dict[str, Any]:
    return dict(json.loads((folder_of(tmp_path) / "summary.json").read_text()))


def wait_for_training(tmp_path: Path) -> None:
    """Until the first steps are logged."""
    end = time.monotonic() + 200
    while time.monotonic() < end:
        if any("train/loss" in path.read_text() for path in tmp_path.glob("runs/*/*/metrics.csv")):
            return
        time.sleep(0.2)
    raise AssertionError("training does not begin")


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that it has started, in the order of ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def gone(pids: list[int]) -> bool:
    """Whether none of them runs any more, after a minute at most."""
    end = time.monotonic() + 60
    while time.monotonic() < end and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.2)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_two_ranks_give_the_result_of_one(
    start: Any, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["trainer.max_epochs=2", "data.batch_size=40"]  # of val that is one batch: one rank has none
    two = start(*typed, "paths.runs=two", TWO)
    monkeypatch.chdir(tmp_path)
    assert main(["train", *shapes.overrides, *QUIET, *typed, "paths.runs=one"]) == ExitCode.DONE
    out, err = two.communicate(timeout=600)
    assert two.returncode == 0, err
    first, second = (Path(next((tmp_path / name / "shapes").iterdir())) for name in ("one", "two"))
    assert out.splitlines() == [str(second)]
    assert err.count("accelerator cpu") == 1  # one rank speaks
    assert {p.name for p in first.iterdir()} == {p.name for p in second.iterdir()}
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (first, second))
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 5e-3  # Adam makes steps of rounding noise
    results = [json.loads((folder / "summary.json").read_text()) for folder in (first, second)]
    assert results[0]["rows"] == results[1]["rows"]
    assert results[0]["test"]["loss"] == pytest.approx(results[1]["test"]["loss"], rel=1e-3)
    assert len((second / "metrics.csv").read_text().splitlines()) == len(
        (first / "metrics.csv").read_text().splitlines()
    )


@pytest.mark.slow
def test_a_signal_saves_on_all_ranks_and_the_run_goes_on_where_it_was(start: Any, tmp_path: Path) -> None:
    run = start("trainer.max_epochs=200", TWO)
    wait_for_training(tmp_path)
    pids = ranks_of(run)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=600)
    assert run.returncode == 143, err
    assert "which is saved" in err
    assert gone(pids)
    saved = summary_of(tmp_path)
    assert saved["status"] == "stopped"
    state = json.loads((folder_of(tmp_path) / "checkpoints" / "last" / "state.json").read_text())
    assert state["global_step"] == saved["optimizer_steps"]
    again = start(f"resume={folder_of(tmp_path)}", "trainer.max_epochs=200", TWO)
    end = time.monotonic() + 200
    while summary_of(tmp_path).get("resumed_from") != [saved["optimizer_steps"]] and time.monotonic() < end:
        time.sleep(0.5)
    assert summary_of(tmp_path)["resumed_from"] == [saved["optimizer_steps"]]
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=600)
    assert again.returncode == 130


@pytest.mark.slow
def test_a_rank_that_dies_or_stops_ends_the_job_by_name(start: Any, tmp_path: Path) -> None:
    run = start("trainer.max_epochs=200", TWO, "trainer.rank_timeout=4")
    wait_for_training(tmp_path)
    pids = ranks_of(run)
    os.kill(pids[1], signal.SIGSTOP)
    _, err = run.communicate(timeout=600)
    assert run.returncode == 3, err
    assert f"rank 1 (process {pids[1]}) made no progress for 4 s" in err
    assert gone(pids)
    assert "made no progress" in summary_of(tmp_path)["error"]


@pytest.mark.slow
def test_a_killed_rank_and_a_killed_supervisor_leave_nobody(start: Any, tmp_path: Path) -> None:
    run = start("trainer.max_epochs=200", TWO, "data.num_workers=1")
    wait_for_training(tmp_path)
    pids = ranks_of(run)
    os.kill(pids[0], signal.SIGKILL)
    _, err = run.communicate(timeout=600)
    assert run.returncode == 3, err
    assert f"rank 0 (process {pids[0]}) was killed by SIGKILL" in err
    assert gone(pids)
    assert summary_of(tmp_path)["status"] == "failed"
    supervisor = start("trainer.max_epochs=200", TWO, "data.num_workers=1", f"resume={folder_of(tmp_path)}")
    end = time.monotonic() + 100
    everyone: list[int] = []
    while len(everyone) < 4 and time.monotonic() < end:  # each rank with a worker
        time.sleep(0.1)
        ranks = ranks_of(supervisor)
        everyone = [*ranks, *(worker for rank in ranks for worker in children(rank))]
    assert len(everyone) >= 4
    supervisor.kill()
    supervisor.communicate(timeout=600)
    assert gone(everyone)


@pytest.mark.slow
def test_what_one_rank_finds_wrong_is_told_once(start: Any) -> None:
    run = start(TWO, "data.columns.label=nothing")
    _, err = run.communicate(timeout=600)
    assert run.returncode == 2
    assert err.count("nothing") == 1
    assert "Traceback" not in err


@pytest.mark.slow
def test_all_gpus_of_a_machine_without_any(start: Any) -> None:
    run = start("trainer=ddp", "trainer.accelerator=auto")
    _, err = run.communicate(timeout=600)
    assert run.returncode == 2
    assert "trainer.devices=2" in err


class TestStarted:
    def test_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
            monkeypatch.delenv(name, raising=False)
        assert started() == Ranks(0, 1, 1)
        assert started().nodes == 1

    def test_torchrun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
            monkeypatch.setenv(name, value)
        assert started() == Ranks(5, 8, 4)
        assert started().nodes == 2
        assert not started().is_first

    def test_srun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RANK", raising=False)
        slurm = {"PROCID": "3", "NTASKS": "4", "LOCALID": "1", "NNODES": "2", "NODEID": "1", "JOB_ID": "123456"}
        slurm |= {"STEP_ID": "0", "STEP_NODELIST": "gpu[003-004]"}
        for name, value in slurm.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        assert started() == Ranks(3, 4, 2)
        assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu003", "18456")
        assert os.environ["NODE_RANK"] == "1"

    def test_an_interactive_allocation_is_no_srun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RANK", raising=False)
        monkeypatch.delenv("SLURM_STEP_ID", raising=False)
        monkeypatch.setenv("SLURM_PROCID", "0")
        monkeypatch.setenv("SLURM_NTASKS", "4")
        assert started().world == 1

    @pytest.mark.parametrize(
        ("nodes", "first"),
        [("n1", "n1"), ("n1,n2", "n1"), ("gpu[003-005,9],x", "gpu003"), ("a,gpu[1-2]", "a"), ("n[7]", "n7")],
    )
    def test_first_host(self, nodes: str, first: str) -> None:
        assert first_host(nodes) == first
