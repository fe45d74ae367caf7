"""The command: help, exit codes, imports, runs and sweeps with a stub for training."""

from __future__ import annotations

import csv
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from composed_once import COMPLETE

from mmft.cli.main import main
from mmft.config.schema.root import COMMANDS
from mmft.config.schema.sweep import MultirunConfig
from mmft.config.walk import key_names
from mmft.errors import ExitCode, TrainingError, UserError
from mmft.run import naming as cli_folder

HEAVY = ("torch", "lightning", "transformers", "timm", "peft", "wandb", "numpy", "pandas")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text("title,label\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


Calls = list[tuple[Any, Path]]


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A stub for `mmft.commands.train` that records each call and fails for some head_lr."""
    calls: Calls = []

    def train(composed: Any, folder: Path) -> int:
        calls.append((composed, folder))
        raised = {2.0: UserError("bad rows"), 3.0: TrainingError("not finite"), 4.0: ZeroDivisionError("oops")}
        raised |= {5.0: KeyboardInterrupt(), 6.0: SystemExit(143)}
        if composed.config.optim.head_lr in raised:
            raise raised[composed.config.optim.head_lr]
        return ExitCode.INTERRUPTED if composed.config.optim.head_lr == 7.0 else ExitCode.DONE

    module: Any = ModuleType("mmft.commands.train")
    module.train = train
    monkeypatch.setitem(sys.modules, "mmft.commands.train", module)
    return calls


class TestHelp:
    def test_is_cheap(self, mmft: Callable[..., Any]) -> None:
        """It imports no Hydra, and costs at most two imports of it."""
        most = 2 * of_hydra()
        for args in (["--help"], ["--version"], ["train", "--help"], ["predict", "-h"]):
            runs = [mmft(*args) for _ in range(3)]
            assert min(run.cpu_seconds for run in runs) <= most, args
            assert runs[0].stderr == ""

    @pytest.mark.parametrize("args", [["--help"], ["--version"], ["train", "--help"]])
    def test_imports_nothing_heavy(self, args: list[str]) -> None:
        loaded = modules_after(args)
        assert not {"hydra", "omegaconf", "yaml", *HEAVY} & loaded

    @pytest.mark.parametrize("command", COMMANDS)
    def test_lists_every_key(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([command, "--help"]) == ExitCode.DONE
        text = capsys.readouterr().out
        for key in key_names(COMMANDS[command].config):
            assert re.search(rf"^  {re.escape(key)}( \(|$)", text, re.MULTILINE), key
        assert max(map(len, text.splitlines())) <= 120

    def test_lists_what_goes_with_a_sweep(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", "--help"]) == ExitCode.DONE
        text = capsys.readouterr().out
        for key in key_names(MultirunConfig):
            assert re.search(rf"^  {re.escape(key)}( \(|$)", text, re.MULTILINE), key
        assert "hydra/sweeper         basic, optuna" in text
        assert " sweep " not in text.partition("groups (GROUP=OPTION):")[2].partition("keys (KEY=VALUE):")[0]

    def test_overview(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["-h"]) == ExitCode.DONE
        text = capsys.readouterr().out
        assert all(re.search(rf"^  {command} ", text, re.MULTILINE) for command in COMMANDS)

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == ExitCode.DONE
        assert capsys.readouterr().out == f"mmft {version('mmft')}\n"

    def test_nothing_typed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == ExitCode.USER
        assert "usage: mmft COMMAND" in capsys.readouterr().out


def modules_after(args: list[str]) -> set[str]:
    """The top-level modules that a command has imported when it ends."""
    code = f"import sys; from mmft.cli.main import main; main({args!r}); print('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.rpartition("MODULES")[2].split()
    return {name.partition(".")[0] for name in names}


class TestErrors:
    def test_typo_costs_at_most_twice_a_bare_hydra_app(self, tmp_path: Path, mmft: Callable[..., Any]) -> None:
        bare = bare_app(tmp_path / "bare")
        ours, theirs = [], []
        for _ in range(4):
            done = mmft("train", *COMPLETE, "seeed=1", check=False)
            assert done.returncode == ExitCode.USER
            assert "Did you mean seed?" in done.stderr
            assert done.stdout == ""
            ours.append(done.cpu_seconds)
            theirs.append(cpu_seconds([sys.executable, str(bare), "seeed=1"]))
        assert min(ours) <= 2 * min(theirs), f"ours {min(ours):.2f} s, bare {min(theirs):.2f} s"

    def test_typo_imports_nothing_heavy(self) -> None:
        assert not set(HEAVY) & modules_after(["train", *COMPLETE, "seeed=1"])

    def test_no_traceback_and_numbered(self, mmft: Callable[..., Any]) -> None:
        done = mmft("train", *COMPLETE, "seeed=1", "optim=sdg", check=False)
        assert done.returncode == ExitCode.USER
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("mmft: error: 2 problems\n  1. ")
        done = mmft("train", *COMPLETE, "seeed=1", check=False, env={"MMFT_DEBUG": "1"})
        assert "Traceback" in done.stderr

    @pytest.mark.parametrize(
        ("argv", "expected"),
        [
            (["tain"], "Did you mean train?"),
            (["train", "--cgf", "job"], "Did you mean --cfg?"),
            (["train", "--cfg", "jobs"], "job, hydra, all"),
            (["train", "--cfg"], "--cfg needs a value"),
            (["train", "--config-path", "x"], "--config-path is not supported"),
            (["train", "-cp=x"], "--config-dir FOLDER"),
            (["train", "--config-name=x"], "the sub-command chooses"),
            (["train", "--experimental-rerun", "x.pickle"], "pickle"),
            (["train", "--package", "x"], "--package is not supported"),
            (["train", "-m", "--cfg", "job"], "only one of them"),
            (["train", "--resolve"], "needs --cfg"),
            (["train", "-m", "resume=last"], "-m does not go with resume="),
            (["predict", "-m", "run=a,b"], "-m goes with mmft train"),
        ],
    )
    def test_flags(self, argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(argv) == ExitCode.USER
        captured = capsys.readouterr()
        assert expected in captured.err
        assert captured.out == ""

    def test_rerun_does_not_unpickle(self, tmp_path: Path, mmft: Callable[..., Any]) -> None:
        evil = b"cos\nsystem\n(S'touch touched'\ntR."
        (tmp_path / "x.pickle").write_bytes(evil)
        assert mmft("train", "--experimental-rerun", "x.pickle", check=False, cwd=tmp_path).returncode == ExitCode.USER
        assert not (tmp_path / "touched").exists()

    def test_defect(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("oops")

        monkeypatch.setattr("mmft.launch.ready.compose", broken)
        assert main(["train"]) == ExitCode.DEFECT
        error = capsys.readouterr().err
        assert "this is a bug in mmft: ZeroDivisionError: oops" in error
        assert "Traceback" in error


def bare_app(folder: Path) -> Path:
    """A Hydra app of three files: one program, one root config, one group option."""
    (folder / "conf" / "db").mkdir(parents=True)
    (folder / "conf" / "config.yaml").write_text("defaults:\n  - db: mysql\n  - _self_\nseed: 0\n")
    (folder / "conf" / "db" / "mysql.yaml").write_text("user: me\n")
    (folder / "app.py").write_text(
        "import hydra\n"
        "@hydra.main(version_base='1.3', config_path='conf', config_name='config')\n"
        "def main(cfg):\n    print(cfg)\n"
        "main()\n"
    )
    return folder / "app.py"


def of_hydra() -> float:
    """CPU seconds of a program that imports Hydra and does nothing."""
    return min(cpu_seconds([sys.executable, "-c", "import hydra"], returncode=0) for _ in range(3))


def cpu_seconds(command: list[str], returncode: int = 1) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert subprocess.run(command, capture_output=True, check=False).returncode == returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_pipe_that_breaks_elsewhere_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such as the one to W&B's process."""

    def breaks(argv: list[str]) -> int:  # noqa: ARG001 - raises whatever it is given
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("mmft.cli.main._main", breaks)
    assert main(["doctor"]) == ExitCode.DEFECT
    assert "Broken pipe" in capfd.readouterr().err


def test_a_reader_that_has_enough_is_no_failure() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "mmft", "train", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(100) == ExitCode.DONE
        assert process.stderr is not None
        assert process.stderr.read() == ""


class TestShow:
    def test_whole_config(self, mmft: Callable[..., Any]) -> None:
        done = mmft("train", "--cfg", "job")
        import yaml

        shown = yaml.safe_load(done.stdout)
        assert shown["model"]["image_encoder"]["name"] == "mmft:dinov2-tiny"  # nothing names other rows
        assert (shown["data"]["path"], shown["optim"]["type"]) == ("mmft:clipart.parquet", "adamw")
        own = yaml.safe_load(mmft("train", "--cfg", "job", "data=table").stdout)
        assert own["model"]["image_encoder"]["name"] == "???"
        assert own["trainer"]["max_epochs"] == 3

    def test_is_validated(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", "--cfg", "job", "seeed=1"]) == ExitCode.USER
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("command", COMMANDS)
    def test_resolved(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        folder = "cache" if command == "cache" else "runs"
        assert main([command, "--cfg=job", "--resolve", f"paths.{folder}=elsewhere"]) == ExitCode.DONE
        assert f"{folder}: elsewhere" in capsys.readouterr().out

    def test_completion(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        for line, expected in (
            ("mmft tr", "train"),
            ("mmft train schedule=c", "schedule=constant\nschedule=cosine"),
            ("mmft train trainer.max_e", "trainer.max_epochs="),
            ("mmft predict ou", "out="),
            ("mmft gone x", ""),
        ):
            monkeypatch.setenv("COMP_LINE", line)
            assert main(["-sc", "query=bash"]) == ExitCode.DONE
            assert capsys.readouterr().out.strip() == expected

    def test_completion_is_cheap(self, mmft: Callable[..., Any]) -> None:
        line = {"COMP_LINE": "mmft train trainer.max_e"}
        assert min(mmft("-sc", "query=bash", env=line).cpu_seconds for _ in range(3)) <= 2 * of_hydra()


class TestTrain:
    def test_run(self, training: Calls) -> None:
        assert (
            main(["train", *COMPLETE, "optim.head_lr=1", "name=mine", "paths.runs='a ${b} é=,'".replace("${", "\\${")])
            == 0
        )
        [(composed, folder)] = training
        assert folder.is_dir()
        assert folder.parent == Path("a ${b} é=,/mine")
        assert composed.config.optim.head_lr == 1.0
        assert composed.typed[-2:] == ["name=mine", "paths.runs='a \\${b} é=,'"]
        assert composed.choices["optim"] == "adamw"
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize(
        ("head_lr", "code"),
        [(2, ExitCode.USER), (3, ExitCode.TRAINING), (4, ExitCode.DEFECT), (5, ExitCode.INTERRUPTED), (7, 130)],
    )
    def test_exit_codes(self, head_lr: int, code: int, training: Calls, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", *COMPLETE, f"optim.head_lr={head_lr}"]) == code
        assert ("Traceback" in capsys.readouterr().err) is (code == ExitCode.DEFECT)
        assert len(training) == 1

    def test_system_exit_passes(self, training: Calls) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["train", *COMPLETE, "optim.head_lr=6"])
        assert caught.value.code == ExitCode.TERMINATED
        assert len(training) == 1

    def test_nothing_is_made_for_a_wrong_config(self, training: Calls, tmp_path: Path) -> None:
        assert main(["train", *COMPLETE, "seeed=1"]) == ExitCode.USER
        assert training == []
        assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]

    def test_sweep(self, training: Calls, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", "-m", *COMPLETE, "optim=adamw,sgd", "optim.head_lr=1,8"]) == ExitCode.DONE
        sweep = Path(capsys.readouterr().out.splitlines()[-1])
        assert [folder.absolute() for _, folder in training] == [sweep / str(n) for n in range(4)]
        assert [(c.config.optim.type, c.config.optim.head_lr) for c, _ in training] == [
            ("adamw", 1.0),
            ("adamw", 8.0),
            ("sgd", 1.0),
            ("sgd", 8.0),
        ]
        assert training[1][0].typed[-2:] == ["optim=adamw", "optim.head_lr=8"]

    @pytest.mark.parametrize(
        ("head_lrs", "code"), [("2,1", ExitCode.USER), ("3,1", ExitCode.TRAINING), ("1,4,2", ExitCode.TRAINING)]
    )
    def test_failed_trial_does_not_stop_the_others(self, head_lrs: str, code: int, training: Calls) -> None:
        assert main(["train", "-m", *COMPLETE, f"optim.head_lr={head_lrs}"]) == code
        assert len(training) == len(head_lrs.split(","))

    def test_config_that_went_wrong_meanwhile(
        self, training: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A table that vanishes during a sweep fails only the runs that need it, and sweep.csv reports it."""
        make = cli_folder.make_run_folder

        def vanish(*args: Any, **options: Any) -> Path:
            Path("rows.csv").unlink()
            return make(*args, **options)

        monkeypatch.setattr(cli_folder, "make_run_folder", vanish)
        assert main(["train", "-m", *COMPLETE, "optim.head_lr=1,2", "hydra.sweep.dir=sweep"]) == ExitCode.USER
        assert training == []
        with Path("sweep/sweep.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [(row["status"], row["optim.head_lr"]) for row in rows] == [("failed", "1"), ("failed", "2")]
        assert all("there is no file 'rows.csv'" in row["error"] for row in rows)
        out, err = capsys.readouterr()
        assert out.splitlines()[0].split() == ["jobs", "optim.head_lr", "runs"]
        assert "starting run 1 of the sweep: optim.head_lr=2\n" in err

    @pytest.mark.parametrize("head_lrs", ["5,1", "7,1"])
    def test_ctrl_c_stops_the_sweep(self, head_lrs: str, training: Calls) -> None:
        try:
            code: object = main(["train", "-m", *COMPLETE, f"optim.head_lr={head_lrs}"])
        except SystemExit as stopped:
            code = stopped.code
        assert code == ExitCode.INTERRUPTED
        assert len(training) == 1

    def test_resume(self, training: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A resumed run needs no complete config, and keeps its folder."""
        asked = []

        def resolve(composed: Any) -> Any:
            asked.append(composed)
            return None if composed.config.resume == "last" else (composed, tmp_path)

        module: Any = ModuleType("mmft.run.resume")
        module.resolve = resolve
        monkeypatch.setitem(sys.modules, "mmft.run.resume", module)
        (tmp_path / "runs").mkdir()
        assert main(["train", "resume=runs"]) == ExitCode.DONE
        assert training[0][1] == tmp_path
        assert main(["train", "resume=last", "data=table"]) == ExitCode.USER  # nothing to resume, incomplete config
        assert main(["train", "resume=last", *COMPLETE]) == ExitCode.DONE
        assert len(asked) == 3
        assert len(training) == 2


def test_predict_is_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module: Any = ModuleType("mmft.commands.predict")
    module.predict = lambda composed: 0 if composed.config.out == "-" else 1
    monkeypatch.setitem(sys.modules, "mmft.commands.predict", module)
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    assert main(["predict", "run=run", "out=-"]) == ExitCode.DONE


@pytest.mark.slow
def test_a_run_starts_in_less_time_than_its_imports_take(mmft: Callable[..., Any], shapes: Any, tmp_path: Path) -> None:
    """CPU time from typing to the first optimizer step."""
    run = mmft("train", *shapes.overrides, "trainer.max_steps=1", cwd=tmp_path)
    summary = json.loads((tmp_path / run.stdout.splitlines()[-1] / "summary.json").read_text())
    assert 0 < summary["startup_cpu_seconds"] - summary["import_cpu_seconds"] <= summary["import_cpu_seconds"]


def test_a_value_that_is_typed_twice_is_no_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", *COMPLETE, "seed=3,0,3"]) == ExitCode.USER
    assert "seed: 3 is given twice" in capsys.readouterr().err
