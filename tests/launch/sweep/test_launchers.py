"""Runs of a sweep in other processes: joblib and submitit for real, SLURM as a stand-in that runs what it is given."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import optuna
import pytest
from command import fork_mmft

from mmft.config.compose import compose
from mmft.errors import ExitCode
from mmft.launch.rank_job import packed
from mmft.launch.sweep.job import Job
from mmft.launch.sweep.parallel import Parallel
from mmft.launch.sweep.submitit_launcher import parameters
from mmft.launch.sweep.worker import Outcome, Work

HERE = "hydra.sweep.dir=sweep"
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
LOCAL = ["hydra/launcher=submitit_local", "hydra.launcher.n_jobs=2", "hydra.launcher.timeout_min=5"]
SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.n_jobs=1", "hydra.launcher.partition=gpu"]
SEARCH = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler=random"]

# sbatch runs the job's own command in the background, srun in the foreground, sacct says that all is over.
FAKES = {
    "sbatch": """#!/bin/bash
script="${@: -1}"; cp "$script" "$FAKE_SLURM/"
export SLURM_JOB_ID=7$$ SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1
bash "$script" > "$FAKE_SLURM/out" 2>&1 &
echo "Submitted batch job $SLURM_JOB_ID"
""",
    "srun": """#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == *=* || "$1" == --unbuffered ]] && shift || shift 2; done
exec "$@"
""",
    "sacct": "#!/bin/bash\necho 'JobID|State|NodeList'\n",
    "scancel": "#!/bin/bash\n",
}


def sweep(*overrides: str, folder: Path, check: int | None = None, path: str = "") -> tuple[str, str]:
    """`mmft train -m` in a process of its own; the workers that it starts import what they need."""
    environment = {"OMP_NUM_THREADS": "1", "PATH": f"{path}:{os.environ['PATH']}"}
    done = fork_mmft("train", "-m", *overrides, HERE, cwd=folder, env=environment, check=False)
    assert done.returncode == check, done.stderr
    return done.stdout, done.stderr


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep" / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


class Stand(Parallel):
    """Jobs that end in the order that is given, with the codes that are given."""

    def __init__(self, n_jobs: int, codes: dict[int, int]) -> None:
        super().__init__(n_jobs)
        self.codes, self.most, self.asked = codes, 0, []  # type: ignore[var-annotated]

    def start(self, job: Job, text: str) -> Any:
        assert json.loads(text)["folder"] == str(job.folder)
        self.most = max(self.most, len(self._running) + 1)
        launcher = self

        class Handle:
            def done(self) -> bool:
                return job.number == max(r.job.number for r in launcher._running)

            def outcome(self) -> Outcome:
                return Outcome(launcher.codes.get(job.number, 0), ["a message"])

            def stop(self, number: int) -> None:
                launcher.asked.append((job.number, number))

        return Handle()


@pytest.fixture
def ask(shapes_overrides: list[str], tmp_path: Path) -> Callable[..., Any]:
    """`ask(count, "key=value")`: gives as many jobs, one after the other."""

    def make(count: int, *more: str) -> Any:
        jobs = iter([Job(n, [*shapes_overrides, *more], [], tmp_path / str(n)) for n in range(count)])
        return lambda: next(jobs, None)

    return make


def test_so_many_at_a_time(ask: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    launcher = Stand(2, {1: ExitCode.TRAINING})
    results = list(launcher.run(ask(4)))
    assert [(result.job.number, result.code) for result in results] == [(1, 3), (2, 0), (3, 0), (0, 0)]
    assert launcher.most == 2
    out, err = capsys.readouterr()
    assert out.split() == [str(tmp_path / str(n)) for n in (2, 3, 0)]
    assert "mmft: error: a message" in err
    for result in results:
        result.record()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["1"]
    assert json.loads((tmp_path / "1" / "summary.json").read_text()) == {"status": "failed", "error": "a message"}


def test_after_one_that_was_stopped_no_more_are_started(ask: Any) -> None:
    launcher = Stand(2, {1: ExitCode.INTERRUPTED})
    assert [result.job.number for result in launcher.run(ask(9))] == [1, 0]


def test_a_signal_goes_on_to_the_jobs(ask: Any) -> None:
    launcher = Stand(3, dict.fromkeys(range(9), int(ExitCode.TERMINATED)))
    running = launcher.run(ask(9))
    assert next(running).job.number == 2
    os.kill(os.getpid(), signal.SIGTERM)
    assert [result.job.number for result in running] == [1, 0]
    assert sorted(launcher.asked) == [(0, signal.SIGTERM), (1, signal.SIGTERM)]


def test_a_job_whose_config_went_wrong(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Stand(1, {})
    assert [result.code for result in launcher.run(ask(2, "seed=-1"))] == [ExitCode.USER, ExitCode.USER]
    assert capsys.readouterr().err.count("seed: -1 is out of bounds") == 2


def test_a_worker_tells_how_it_ended(shapes_overrides: list[str], tmp_path: Path, capfd: Any) -> None:
    composed = compose("train", [*shapes_overrides, "data.columns.label=nothing"])
    code, messages = Work({"MMFT_TEST": "1"})(json.dumps(packed(composed, tmp_path / "run")))
    assert (code, os.environ["MMFT_TEST"]) == (ExitCode.USER, "1")
    assert len(messages) == 1
    assert "nothing" in messages[0]
    assert capfd.readouterr().out == ""


def test_what_submitit_gets(shapes_overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    given = [*SLURM, "hydra.launcher.gpus_per_node=2", "hydra.launcher.cpus_per_task=8", "hydra.launcher.mem_gb=40"]
    given += ["hydra.launcher.setup=['module load cuda']", "hydra.launcher.additional_parameters={mail-type: END}"]
    composed = compose("train", [*shapes_overrides, *given, "seed=0,1"], multirun=True)
    assert composed.sweep is not None
    found = parameters(composed.sweep.launcher, "slurm")  # type: ignore[arg-type]
    assert found == {
        "timeout_min": 60,
        "gpus_per_node": 2,
        "cpus_per_task": 8,
        "mem_gb": 40.0,
        "name": "mmft",
        "nodes": 1,
        "tasks_per_node": 1,
        "slurm_partition": "gpu",
        "slurm_signal_delay_s": 120,
        "slurm_setup": ["module load cuda"],
        "slurm_additional_parameters": {"mail-type": "END"},
    }
    local = compose("train", [*shapes_overrides, *LOCAL, "seed=0,1"], multirun=True)
    assert local.sweep is not None
    known = {"timeout_min": 5, "name": "mmft", "nodes": 1, "tasks_per_node": 1}
    assert parameters(local.sweep.launcher, "local") == known  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([*JOBLIB[:1], "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs: 0 would start no runs"),
        ([*JOBLIB[:1], "hydra.launcher.n_jobs=two"], "hydra.launcher.n_jobs: 'two' is not allowed"),
        ([*LOCAL, "hydra.launcher.partition=gpu"], "belongs to hydra/launcher=submitit_slurm, not to"),
        ([*LOCAL, "hydra.launcher.timeout=5"], "hydra.launcher.timeout: no such key. Did you mean hydra.launcher."),
        (SLURM, "hydra/launcher: submitit_slurm: srun was not found on this machine"),
    ],
)
def test_refused(given: list[str], expected: str, shapes_overrides: list[str]) -> None:
    from mmft.errors import UserError

    with pytest.raises(UserError) as caught:
        compose("train", [*shapes_overrides, *given, "seed=0,1"], multirun=True)
    assert expected in str(caught.value)


@pytest.mark.slow
def test_a_search_side_by_side(shapes_overrides: list[str], tmp_path: Path) -> None:
    """One trial fails, the others go on; exit code, table, stdout and study are as with runs in one process."""
    given = [*shapes_overrides, *SEARCH, *JOBLIB, "optim.lr=interval(1e-4, 1e-3)", "optim.head_lr=1e-3,1e30"]
    out, err = sweep(*given, folder=tmp_path, check=ExitCode.TRAINING)
    found = rows(tmp_path)
    failed = [float(row["optim.head_lr"]) > 1 for row in found]
    assert len(found) == 4
    assert 0 < sum(failed) < 4
    assert [row["status"] for row in found] == ["failed" if f else "completed" for f in failed]
    lines = out.splitlines()
    done = [str(tmp_path / "sweep" / str(number)) for number, f in enumerate(failed) if not f]
    assert sorted(lines[: len(done)]) == done
    assert lines[len(done)].split()[:2] == ["jobs", "optim.lr"]
    assert lines[-1] == str(tmp_path / "sweep")
    assert err.count("of the sweep failed") == sum(failed)
    study = optuna.load_study(study_name="mmft", storage=f"sqlite:///{tmp_path}/sweep/study.db")
    assert [trial.state.name for trial in study.trials] == ["FAIL" if f else "COMPLETE" for f in failed]
    assert [trial.params["optim.lr"] for trial in study.trials] == [float(row["optim.lr"]) for row in found]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [JOBLIB, LOCAL], ids=["joblib", "submitit_local"])
def test_ctrl_c_saves_what_runs(launcher: list[str], shapes_overrides: list[str], tmp_path: Path) -> None:
    """As a terminal sends it, to the whole process group."""
    given = [*shapes_overrides, *launcher, "seed=0,1,2", "trainer.max_epochs=500", HERE]
    out, err = tmp_path / "out.txt", tmp_path / "err.txt"
    run = forked.command(["train", "-m", *given], out, err, cwd=tmp_path)
    end = time.monotonic() + 200
    logs = [tmp_path / "sweep" / str(n) / "metrics.csv" for n in (0, 1)]
    while time.monotonic() < end and not all(log.exists() and "train/loss" in log.read_text() for log in logs):
        time.sleep(0.5)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait() in (ExitCode.INTERRUPTED, ExitCode.TERMINATED), err.read_text()
    for number in (0, 1):
        summary = json.loads((tmp_path / "sweep" / str(number) / "summary.json").read_text())
        state = json.loads((tmp_path / "sweep" / str(number) / "checkpoints" / "last" / "state.json").read_text())
        assert summary["status"] == "stopped"
        assert state["global_step"] == summary["optimizer_steps"]
    assert not (tmp_path / "sweep" / "2").exists()
    assert "stopped" in out.read_text()


@pytest.mark.slow
def test_a_worker_that_dies_takes_no_other_with_it(shapes_overrides: list[str], tmp_path: Path) -> None:
    given = [*shapes_overrides, *JOBLIB, "seed=0,1", "trainer.max_epochs=60", HERE]
    printed = tmp_path / "printed.txt"
    run = forked.command(["train", "-m", *given], printed, cwd=tmp_path)
    log = tmp_path / "sweep" / "1" / "train.log"
    end = time.monotonic() + 200
    while time.monotonic() < end and not log.exists():
        time.sleep(0.2)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    opened = {pid: [str(f.readlink()) for f in Path(f"/proc/{pid}/fd").iterdir() if f.exists()] for pid in children}
    (worker,) = [pid for pid, names in opened.items() if str(log) in names]
    os.kill(int(worker), signal.SIGKILL)
    assert run.wait() == ExitCode.TRAINING, printed.read_text()
    assert f"Process {worker}, which executed the run, died" in printed.read_text()
    assert [row["status"] for row in rows(tmp_path)] == ["completed", "failed"]


@pytest.mark.slow
def test_slurm(shapes_overrides: list[str], tmp_path: Path) -> None:
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for name, text in FAKES.items():
        (fakes / name).write_text(text)
        (fakes / name).chmod(0o755)
    os.environ["FAKE_SLURM"] = str(fakes)
    given = [*shapes_overrides, *SLURM, "hydra.launcher.gpus_per_node=1", "hydra.launcher.mem_gb=8", "seed=0,1"]
    out, _ = sweep(*given, "hydra.launcher.account=lab", folder=tmp_path, check=ExitCode.DONE, path=str(fakes))
    assert out.splitlines()[:2] == [str(tmp_path / "sweep" / number) for number in "01"]
    scripts = [path.read_text() for path in fakes.glob("*.sh")]
    assert len(scripts) == 2
    for line in ("--partition=gpu", "--account=lab", "--gpus-per-node=1", "--mem=8GB", "--time=60", "--nodes=1"):
        assert all(f"#SBATCH {line}\n" in script for script in scripts), line
