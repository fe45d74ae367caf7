"""`hydra/sweeper=optuna` with a stand-in for training: what is drawn, recorded, gone on with, and refused."""

from __future__ import annotations

import builtins
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
import yaml
from composed_once import COMPLETE

from mmft.cli.main import main
from mmft.config import sweeps
from mmft.errors import ExitCode, TrainingError
from mmft.launch.sweep import study
from mmft.run_folder import RunFolder
from mmft.training.trial import Trial, make_pruner

OPTUNA = "hydra/sweeper=optuna"
LR = "optim.lr=tag(log, interval(1e-5, 1e-3))"
HERE = "hydra.sweep.dir=sweep"

Made = list[tuple[Any, Path]]
Search = Callable[..., int]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text("title,label\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Stands in for training: notes each run; better the nearer `optim.head_lr` is to 0.5, fails at some seeds."""
    runs: Made = []

    def train(composed: Any, path: Path) -> int:
        runs.append((composed, path))
        folder = RunFolder(path)
        folder.write_config({"name": None}, composed.typed, composed.choices)
        folder.start()
        config = composed.config
        if config.seed == 7:
            folder.update_summary(status="failed", error="it broke")
            raise TrainingError("it broke")
        if config.seed == 8 and sum(c.config.seed == 8 for c, _ in runs) == 1:
            folder.update_summary(status="stopped")
            return ExitCode.INTERRUPTED
        if config.seed == 9:
            folder.update_summary(status="pruned", monitor="val/accuracy", val={"accuracy": 0.1})
            return ExitCode.DONE
        value = 1 - abs(config.optim.head_lr - 0.5)
        metrics = {"accuracy": value, "loss": 1 - value}
        folder.update_summary(status="completed", monitor="val/accuracy", val=metrics, test=metrics)
        return ExitCode.DONE

    module: Any = ModuleType("mmft.commands.train")
    module.train = train
    monkeypatch.setitem(sys.modules, "mmft.commands.train", module)
    return runs


def search(*overrides: str, base: list[str] = COMPLETE) -> int:
    return main(["train", "-m", *base, OPTUNA, *overrides])


def trials(folder: str = "sweep") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="mmft", storage=f"sqlite:///{folder}/study.db").trials


def rows(folder: str = "sweep") -> list[dict[str, str]]:
    with Path(folder, "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_what_is_drawn_is_what_is_run(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["optim.head_lr=interval(0.01, 1)", LR, "optim=adamw,sgd", "trainer.max_epochs=interval(1, 4)"]
    given += ["data.batch_size=choice(8,16)", "hydra.sweeper.n_trials=10", HERE]
    assert search(*given) == ExitCode.DONE
    assert [path.name for _, path in made] == [str(n) for n in range(10)]
    configs = [composed.config for composed, _ in made]
    assert all(1e-5 <= c.optim.lr <= 1e-3 and 0.01 <= c.optim.head_lr <= 1 for c in configs)
    assert sum(c.optim.lr < 1e-4 for c in configs) > 2  # on a logarithmic scale, half of them
    assert {c.trainer.max_epochs for c in configs} <= {1, 2, 3, 4}
    assert all(type(c.trainer.max_epochs) is int for c in configs)
    assert {c.optim.type for c in configs} == {"adamw", "sgd"}
    assert {c.data.batch_size for c in configs} == {8, 16}
    goodness = [1 - abs(c.optim.head_lr - 0.5) for c in configs]
    assert [trial.value for trial in trials()] == pytest.approx(goodness)
    *_, table, folder = capsys.readouterr().out.splitlines()
    assert folder == str(Path("sweep").absolute())
    best = goodness.index(max(goodness))
    assert table.startswith(f"job {best} is the best; to run it again: mmft train data.path=rows.csv")
    assert f"optim.head_lr={configs[best].optim.head_lr!r}" in table
    assert float(rows()[best]["optim.head_lr"]) == configs[best].optim.head_lr
    assert main(["train", *yaml.safe_load(Path(f"sweep/{best}/overrides.yaml").read_text())]) == ExitCode.DONE
    assert made[-1][0].config == configs[best]


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow)])
def test_a_search_learns_and_the_same_seed_draws_the_same(sampler: str, made: Made) -> None:
    given = ["optim.head_lr=interval(0.01, 1)", f"hydra.sweeper.sampler={sampler}", "hydra.sweeper.n_startup_trials=4"]
    for folder, seed, count in (("a", 0, 16), ("b", 0, 6), ("c", 1, 2)):
        more = [f"hydra.sweep.dir={folder}", f"hydra.sweeper.seed={seed}", f"hydra.sweeper.n_trials={count}"]
        assert search(*given, *more) == ExitCode.DONE
    drawn = {folder: [trial.params for trial in trials(folder)] for folder in "abc"}
    assert drawn["a"][:6] == drawn["b"]
    assert drawn["a"][:2] != drawn["c"]
    assert len({params["optim.head_lr"] for params in drawn["a"]}) == 16
    distance = [abs(composed.config.optim.head_lr - 0.5) for composed, _ in made[:16]]
    assert sum(distance[8:]) / 8 < 0.17  # at random, 0.25 is expected


def test_ranges(made: Made) -> None:
    given = ["optim.head_lr=range(1, 9)", "data.batch_size=tag(log, range(8, 65))", "schedule.warmup=range(0,0.5,0.25)"]
    assert search(*given, "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler=random", HERE) == ExitCode.DONE
    configs = [composed.config for composed, _ in made]
    assert all(c.optim.head_lr in range(1, 9) for c in configs)
    assert all(8 <= c.data.batch_size <= 64 and type(c.data.batch_size) is int for c in configs)
    assert {c.schedule.warmup for c in configs} <= {0, 0.25}


def test_a_search_goes_on_where_it_was(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    given = [LR, "optim.head_lr=interval(0.01, 1)", "hydra.sweeper.n_startup_trials=3"]
    assert search(*given, "hydra.sweeper.n_trials=8", "hydra.sweep.dir=whole") == ExitCode.DONE
    assert search(*given, "hydra.sweeper.n_trials=5", HERE) == ExitCode.DONE
    assert search(*given, "hydra.sweeper.n_trials=8", HERE) == ExitCode.DONE
    assert [path.name for _, path in made[8:]] == [str(n) for n in range(8)]
    assert "n_trials=8, 5 are done, 0 had started, 3 are left." in capsys.readouterr().err
    assert [t.params for t in trials()] == [t.params for t in trials("whole")]
    assert [c.config.optim.lr for c, _ in made[8:]] == [c.config.optim.lr for c, _ in made[:8]]
    assert len(rows()) == 8
    assert search(*given, "hydra.sweeper.n_trials=8", HERE) == ExitCode.DONE  # nothing is left
    assert len(made) == 16


def test_a_trial_that_was_stopped_goes_on_in_its_folder(made: Made) -> None:
    given = ["optim.head_lr=interval(0.01, 1)", "seed=8,0", "hydra.sweeper.n_trials=4", HERE]
    assert search(*given) == ExitCode.INTERRUPTED
    stopped = made[-1]
    assert stopped[0].config.seed == 8
    assert [t.state.name for t in trials()][-1] == "RUNNING"
    assert search(*given) == ExitCode.DONE
    again = made[len(made) - 4 + int(stopped[1].name)] if stopped[1].name == "0" else made[int(stopped[1].name) + 1]
    assert again[1] == stopped[1]
    assert again[0].config == stopped[0].config
    assert [t.state.name for t in trials()] == ["COMPLETE"] * 4
    assert sorted(path.name for path in Path("sweep").iterdir() if path.is_dir()) == ["0", "1", "2", "3"]


def test_what_a_killed_sweep_could_not_tell_is_read_from_the_run(made: Made) -> None:
    given = ["optim.head_lr=interval(0.01, 1)", "hydra.sweeper.n_trials=2", HERE]
    assert search(*given) == ExitCode.DONE
    storage = optuna.storages.RDBStorage("sqlite:///sweep/study.db")
    study = optuna.load_study(study_name="mmft", storage=storage)
    lost = study.ask({"optim.head_lr": optuna.distributions.FloatDistribution(0.01, 1)})
    RunFolder(Path(f"sweep/{lost.number}")).update_summary(status="completed", val={"accuracy": 0.25})
    assert search(*given[:-2], "hydra.sweeper.n_trials=4", HERE) == ExitCode.DONE
    assert [path.name for _, path in made] == ["0", "1", "3"]
    assert trials()[2].value == 0.25


def test_failed_and_pruned_trials(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["optim.head_lr=interval(0.01, 1)", "seed=0,7,9", "hydra.sweeper.n_trials=12", HERE]
    assert search(*given) == ExitCode.TRAINING
    out, err = capsys.readouterr()
    seeds = [c.config.seed for c, _ in made]
    assert set(seeds) == {0, 7, 9}
    states = {0: "COMPLETE", 7: "FAIL", 9: "PRUNED"}
    assert [t.state.name for t in trials()] == [states[seed] for seed in seeds]
    words = {0: "completed", 7: "failed", 9: "pruned"}
    assert [row["status"] for row in rows()] == [words[seed] for seed in seeds]
    assert err.count("of the sweep failed") == seeds.count(7)
    assert out.count(" pruned ") == seeds.count(9)


def test_a_loss_is_minimised(made: Made) -> None:
    assert search("optim.head_lr=interval(0.01, 1)", "checkpoint.monitor=loss", "hydra.sweeper.n_trials=3", HERE) == 0
    study = optuna.load_study(study_name="mmft", storage="sqlite:///sweep/study.db")
    assert study.direction.name == "MINIMIZE"
    assert study.trials[0].value == pytest.approx(abs(made[0][0].config.optim.head_lr - 0.5))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "there is nothing to search"),
        (
            [LR, "data.fractions.val=0", "data.fractions.train=0.9"],
            "trials are compared on validation rows, but data.fractions.val is 0",
        ),
        ([LR, "checkpoint.monitor=loss,accuracy"], "checkpoint.monitor: defines how trials are compared"),
        ([LR, "hydra.sweeper.n_trails=3"], "hydra.sweeper.n_trails: no such key. Did you mean hydra.sweeper.n_trials?"),
        ([LR, "hydra.sweeper.n_trials=many"], "hydra.sweeper.n_trials: 'many' is not allowed; expected an integer"),
        ([LR, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials: 0 is out of bounds"),
        ([LR, "hydra.sweeper.n_trials=1,2"], "hydra.sweeper.n_trials: must be one plain value"),
        ([LR, "hydra.sweeper.sampler=tpee"], "Did you mean tpe?"),
        ([LR, "hydra.sweeper._target_=os.system"], "hydra.sweeper._target_: is not allowed"),
        ([LR, "hydra/sweeper=optunna"], "'optunna' is not an option of hydra/sweeper. Did you mean optuna?"),
        ([LR, "hydra.sweeper=optuna"], "hydra.sweeper: 'optuna' is not a section. Choose an option with hydra/sweeper"),
        ([LR, "hydra/launcher=jobllib"], "'jobllib' is not an option of hydra/launcher. Did you mean joblib?"),
        ([LR, "hydra.launcher.n_jobs=2"], "belongs to hydra/launcher=joblib and hydra/launcher=submitit_local"),
        (["optim.lr=interval(1e-3, 1e-5)"], "the first number must be the lower"),
        (["optim.lr=tag(log, interval(0, 1))"], "tag(log, ...) needs numbers above 0"),
        (["optim.lr=tag(log, choice(1, 2))"], "goes with interval(LOW, HIGH)"),
        (["optim.lr=tag(fast, interval(1, 2))"], "tag(fast, ...) is unknown"),
        (["optim.lr=shuffle(1, 2)"], "shuffle has no effect in a search"),
        (["optim.lr=interval(-1, 1)"], "optim.lr: -1.0 is out of bounds"),
        (["trainer.max_epochs=interval(0.5, 3)"], "trainer.max_epochs: 0.5 is not allowed; expected an integer"),
        (["optim.lrr=interval(0, 1)"], "optim.lrr: no such key. Did you mean optim.lr?"),
        (["modality_report=interval(0, 1)"], "modality_report: 0 is not allowed"),
        (["optim=interval(0, 1)"], "optim: a sweep needs listed values"),
    ],
)
def test_refused(overrides: list[str], expected: str, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(*overrides) == ExitCode.USER
    assert expected in capsys.readouterr().err
    assert made == []


def test_sweep_keys_without_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *COMPLETE, OPTUNA]) == ExitCode.USER
    assert f"hydra/sweeper: belongs to a sweep, which needs -m. Type mmft train -m {OPTUNA}" in capsys.readouterr().err
    assert main(["train", "-m", *COMPLETE, "hydra.sweeper.n_trials=3", "seed=0,1"]) == ExitCode.USER
    assert "belongs to hydra/sweeper=optuna, not to hydra/sweeper=basic" in capsys.readouterr().err
    assert main(["train", "-m", *COMPLETE, "optim.lr=interval(0, 1)"]) == ExitCode.USER
    assert "hydra/sweeper=optuna also samples intervals" in capsys.readouterr().err


def test_another_search_in_the_same_folder(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["optim.head_lr=interval(0.01, 1)", "hydra.sweeper.n_trials=2", HERE]
    assert search(*given) == ExitCode.DONE
    assert search(*given, "seed=5") == ExitCode.USER
    assert "seed: the search in sweep does not have seed=5. Type the same overrides" in capsys.readouterr().err
    assert search("optim.head_lr=interval(0.01, 2)", *given[1:]) == ExitCode.USER
    assert "optim.head_lr: the search in sweep has optim.head_lr=interval(0.01, 1)" in capsys.readouterr().err
    assert main(["train", "-m", *COMPLETE, "seed=0,1", HERE]) == ExitCode.USER
    assert "exists and is not empty" in capsys.readouterr().err
    assert len(made) == 2
    assert json.loads(Path("sweep/sweep.json").read_text())["sweeper"] == "optuna"


def test_two_searches_at_once_in_one_folder(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    given = ["optim.head_lr=interval(0.01, 1)", "hydra.sweeper.n_trials=2", HERE]
    assert search(*given) == ExitCode.DONE
    with Path("sweep/.study.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert search(*given[:-2], "hydra.sweeper.n_trials=3", HERE) == ExitCode.USER
    assert "a sweep is running in sweep" in capsys.readouterr().err
    assert len(made) == 2


def test_a_search_that_ended_leaves_its_folder_to_the_next_one(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[study.StudySweeper] = []  # as a garbage collector that has not run yet, or a debugger, keeps it

    class Kept(study.StudySweeper):
        def __init__(self, *given: Any) -> None:
            kept.append(self)
            super().__init__(*given)

    monkeypatch.setattr(study, "StudySweeper", Kept)
    given = ["optim.head_lr=interval(0.01, 1)", HERE]
    assert search(*given, "hydra.sweeper.n_trials=1") == ExitCode.DONE
    assert search(*given, "hydra.sweeper.n_trials=2", "seed=5") == ExitCode.USER  # another search
    assert search(*given, "hydra.sweeper.n_trials=2") == ExitCode.DONE
    assert len(kept) == 3
    assert len(made) == 2


@pytest.mark.parametrize(
    ("override", "package"),
    [(OPTUNA, "optuna"), ("hydra/launcher=joblib", "joblib"), ("hydra/launcher=submitit_local", "submitit")],
)
def test_a_package_that_is_not_there(
    override: str, package: str, made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find, load = sweeps.find_spec, builtins.__import__

    def never(name: str, *args: Any, **options: Any) -> Any:
        assert name.partition(".")[0] != package
        return load(name, *args, **options)

    monkeypatch.setattr(sweeps, "find_spec", lambda name: None if name == package else find(name))
    monkeypatch.setattr(builtins, "__import__", never)
    assert main(["train", "-m", *COMPLETE, override, "seed=0,1"]) == ExitCode.USER
    assert f"needs {package}, which is not installed. Type: pip install 'mmft[{package}]'" in capsys.readouterr().err
    assert made == []
    assert not Path("runs").exists()


def test_a_nan_is_neither_reported_nor_prunes() -> None:
    trial: Any = Mock(spec=Trial, _over=False, _reported=set(), _trial=Mock())
    assert not Trial.report(trial, float("nan"), 1)
    assert not trial._trial.mock_calls


@pytest.mark.parametrize("warmup", [0, 2])
def test_reports_by_steps_prune_as_reports_by_epochs(warmup: int) -> None:
    """Every report of an epoch's end is judged as if only those were made."""
    by_epochs = make_pruner("hyperband", 0, warmup, 9)
    by_steps = make_pruner("hyperband", 0, warmup, 9, per_epoch=100)
    kept = []
    for pruner, per_epoch in ((by_epochs, 1), (by_steps, 100)):
        study = optuna.create_study(pruner=pruner, study_name="one")  # the name decides on brackets
        ended = []
        for number in range(30):
            trial = study.ask()
            for epoch in range(1, 10):
                trial.report((number * 7 % 30) / epoch, epoch * per_epoch)
                if trial.should_prune():
                    break
            ended.append(epoch)
            study.tell(trial, number, state=optuna.trial.TrialState.COMPLETE)
        kept.append(ended)
    assert kept[0] == kept[1]
    assert len({*kept[0]}) > 1
