"""Loggers besides metrics.csv, read back from what wandb and TensorBoard really wrote."""

from __future__ import annotations

import csv
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from runs import Run, TrainRun, killed_run, resumed
from wandb_file import WandbFile

from mmft.config.compose import compose
from mmft.errors import ExitCode, TrainingError, UserError
from mmft.ranks import Ranks
from mmft.signals import Stopped
from mmft.training.loggers.base import RunLogger
from mmft.training.module import FineTuning

AXES = ["recall", "precision"]
OFFLINE = ["logger=wandb_offline", "trainer.log_every_steps=1", "checkpoint.every_steps=1"]


@pytest.fixture(autouse=True)
def _no_wandb_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keeps wandb from reading and writing what is the user's."""
    for name in [n for n in os.environ if n.startswith("WANDB_") and n != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def logged(run: Run) -> dict[int, dict[str, float]]:
    """metrics.csv by optimizer step, without what is empty."""
    steps: dict[int, dict[str, float]] = {}
    for row in csv.DictReader((run.path / "metrics.csv").open()):
        step = int(row.pop("step"))
        steps.setdefault(step, {}).update({k: float(v) for k, v in row.items() if v})
    return steps


def test_wandb_gets_what_the_run_folder_has(
    train_run: TrainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    more = ["logger.project=mine", "logger.entity=us", "logger.tags=[a,b]", "logger.group=together"]
    folder = tmp_path / "runs" / "shapes" / "2026"
    run = train_run(*OFFLINE, *more, "logger.predictions=8", "logger.log_model=true", folder=folder)
    written = WandbFile(run.path)
    assert not list((tmp_path / "here").iterdir())
    assert not list(tmp_path.glob("home/.local/share/wandb/**/*.*"))
    of_run = written.run
    assert (of_run.project, of_run.entity, of_run.run_group, list(of_run.tags)) == (
        "mine",
        "us",
        "together",
        ["a", "b"],
    )
    assert of_run.display_name == "shapes/2026"
    assert run.summary["wandb"] == {"id": of_run.run_id, "project": "mine", "url": None}
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert {k: v for k, v in written.config.items() if k != "_wandb"} == config

    history = written.history
    for step, values in logged(run).items():
        there = {k: history[step][k] for k in values}
        assert there == pytest.approx(values), step
    assert {"train/loss", "lr/head", "lr/image_encoder", "lr/text_encoder", "val/accuracy"} <= set(history[3])
    assert written.exit_code == 0
    assert written.summary["run"]["status"] == "completed"
    assert written.summary["run"]["test"] == run.summary["test"]

    with (run.path / "tuning.csv").open() as stream:
        header, *lines = csv.reader(stream)
    tuning = written.table("tuning")
    assert tuning["columns"] == header
    assert [[str(value) for value in row] for row in tuning["data"]] == lines
    matrix = written.table("test/confusion_matrix")
    assert matrix["columns"][0] == "true / predicted"
    chart = written.table("test/confusion_matrix_chart_table")
    counts = {
        (true, label): n for true, *of in matrix["data"] for label, n in zip(matrix["columns"][1:], of, strict=True)
    }
    assert {(true, label): n for true, label, n in chart["data"]} == counts
    assert sum(counts.values()) == run.summary["rows"]["test"]
    assert set(written.charts) == {"test/confusion_matrix_chart"}  # curves need predictions.csv
    best = {metric.name: metric.summary for metric in written.all("metric")}
    assert (best["val/accuracy"].max, best["val/accuracy"].min) == (True, False)
    assert (best["val/loss"].max, best["val/loss"].min) == (False, True)
    assert "train/loss" not in best
    (model,) = written.artifacts("model").values()
    assert {place: file.resolve() for place, file in model.items()} == {
        str(file.relative_to(run.path / "model")): file.resolve()
        for file in (run.path / "model").rglob("*")
        if file.is_file()
    }


def test_wandb_draws_curves_of_the_predictions(train_run: TrainRun) -> None:
    run = train_run("logger=wandb_offline", "report=true", "data.limit=null")
    written = WandbFile(run.path)
    found = list(csv.DictReader((run.path / "predictions.csv").open()))
    labels = [name.removeprefix("score_") for name in found[0] if name.startswith("score_")]
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, axes in {"roc": ["false positive rate", "true positive rate"], "precision_recall": AXES}.items():
        table = written.table(f"test/{name}_table")
        assert table["columns"] == ["class", *axes]
        for label, x, y in table["data"]:
            points.setdefault(name, {}).setdefault(label, []).append((x, y))
        chart = written.charts[f"test/{name}"]
        assert chart["panelDefId"] == "wandb/area-under-curve/v0"  # of wandb.plot.roc_curve and pr_curve
        assert chart["fieldSettings"] == {"x": axes[0], "y": axes[1], "class": "class"}
        assert points[name].keys() == {"all (micro)", *labels}
    for label in labels:
        true = np.array([row["label"] == label for row in found])
        scores = np.array([float(row[f"score_{label}"]) for row in found])
        x, y = np.array(points["roc"][label]).T
        above = (scores[true][:, None] > scores[~true]) + 0.5 * (scores[true][:, None] == scores[~true])
        assert np.trapezoid(y, x) == pytest.approx(above.mean())
        first, *_, last = points["precision_recall"][label]
        assert first == (1.0, pytest.approx(true.mean()))  # everything is found
        assert last == (0.0, 1.0)


def test_the_table_of_predictions_has_images(train_run: TrainRun, shapes: Any) -> None:
    run = train_run("logger=wandb_offline", "logger.predictions=8", "data.limit=null")
    written = WandbFile(run.path)
    table = written.table("test/predictions")
    assert table["columns"] == ["row", "id", "image", "text", "label", "prediction", "score", "split"]
    assert len(table["data"]) == 8
    known = list(csv.DictReader(shapes.rows.open()))
    tests = [i for i, r in enumerate(known) if r["split"] == "test"]
    assert [row[0] for row in table["data"]] == [tests[round(i * (len(tests) - 1) / 7)] for i in range(8)]
    images = table["files"]
    for number, _, image, text, label, prediction, score, split in table["data"]:
        assert split == "test"
        assert (text, label) == (known[number]["text"], known[number]["label"])
        assert prediction in {r["label"] for r in known}
        assert 0 < score <= 1
        assert images[image["path"]].is_relative_to(run.path)
        assert images[image["path"]].read_bytes().startswith(b"\x89PNG")


def test_predictions_and_model_are_left_out_where_they_are_not_wanted(train_run: TrainRun) -> None:
    written = WandbFile(train_run("logger=wandb_offline", "logger.predictions=0").path)
    assert not any(name.startswith("test/predictions") for row in written.history.values() for name in row)
    assert not written.artifacts("model")


def test_jobs_of_a_sweep_are_runs_of_one_group(train_run: TrainRun, tmp_path: Path) -> None:
    sweep = tmp_path / "shapes" / "2026"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text("{}")
    jobs = [train_run(*OFFLINE, f"seed={n}", folder=sweep / str(n)) for n in range(2)]
    written = [WandbFile(job.path) for job in jobs]
    assert [w.run.run_group for w in written] == ["shapes/2026"] * 2
    assert [w.run.display_name for w in written] == ["shapes/2026/0", "shapes/2026/1"]
    assert len({w.run.run_id for w in written}) == 2
    assert [w.config["seed"] for w in written] == [0, 1]
    assert [w.exit_code for w in written] == [0, 0]
    for job, w in zip(jobs, written, strict=True):
        assert {s: v["train/loss"] for s, v in w.history.items() if "train/loss" in v} == pytest.approx(
            {s: v["train/loss"] for s, v in logged(job).items() if "train/loss" in v}
        )


@pytest.mark.parametrize(
    ("happens", "raised", "code"),
    [
        (ZeroDivisionError("a defect"), ZeroDivisionError, ExitCode.DEFECT),
        (UserError("wrong rows"), UserError, ExitCode.USER),
        (TrainingError("no number"), TrainingError, ExitCode.TRAINING),
        (signal.SIGINT, Stopped, ExitCode.INTERRUPTED),
        (signal.SIGTERM, Stopped, ExitCode.TERMINATED),
    ],
)
def test_a_run_is_closed_with_its_exit_code_however_it_ends(
    train_run: TrainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happens: Any, raised: Any, code: int
) -> None:
    step = FineTuning.training_step

    def at_step_2(self: FineTuning, *args: Any) -> None:
        if self.global_step == 1:
            if not isinstance(happens, signal.Signals):
                raise happens
            os.kill(os.getpid(), happens)
        step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "training_step", at_step_2)
        with pytest.raises(raised):
            train_run(*OFFLINE, folder=tmp_path / "run")
    written = WandbFile(tmp_path / "run")
    assert written.exit_code == code
    assert "train/loss" in written.history[1]
    assert written.summary["run"]["status"] == Run(tmp_path / "run").summary["status"] != "running"


def test_a_resumed_run_goes_on_under_its_id(shapes_overrides: list[str], tmp_path: Path) -> None:
    overrides = [*shapes_overrides, *OFFLINE]
    killed_run(overrides, tmp_path / "run", 4, "before")
    run = resumed(overrides, tmp_path / "run")
    first, second = sorted((run.path / "wandb").glob("offline-run-*"))
    number = run.summary["wandb"]["id"]
    # Of the first segment a kill leaves what wandb's own process had flushed, which may be nothing.
    assert [file.name for file in first.glob("*.wandb")] == [f"run-{number}.wandb"]
    written = WandbFile(second)
    assert written.run.run_id == number
    assert written.exit_code == 0
    assert sorted(written.history) == [4, 5, 6]  # the checkpoint is of step 3
    for step, values in logged(run).items():
        if step > 3:
            assert {k: written.history[step][k] for k in values} == pytest.approx(values), step
    assert not any("tuning" in name for row in written.history.values() for name in row)


@pytest.mark.parametrize("logger", ["wandb_offline", "tensorboard"])
def test_another_rank_says_nothing(
    train_run: TrainRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logger: str
) -> None:
    monkeypatch.setattr("mmft.commands.train.started", lambda: Ranks(rank=1))
    train_run(f"logger={logger}", "trainer.max_epochs=1", folder=tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*wandb*"))
    assert not list((tmp_path / "run").glob("events.*"))


def test_a_logger_that_cannot_finish_does_not_fail_the_run(
    train_run: TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(RunLogger, "finish", fail)
    assert train_run("trainer.max_epochs=1").summary["status"] == "completed"


def on_a_terminal(command: list[str], cwd: Path, timeout: float = 600) -> tuple[int, str]:
    """Runs a command whose stdin, stdout and stderr are a terminal that nobody types at: exit code and output."""
    ours, its = pty.openpty()
    process = subprocess.Popen(command, cwd=cwd, stdin=its, stdout=its, stderr=its, close_fds=True)
    os.close(its)
    said = b""
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:  # Linux says so that the other side is closed
        pass
    finally:
        os.close(ours)
    return process.wait(timeout), said.decode()


@pytest.mark.slow
def test_without_a_login_the_error_says_what_to_type(shapes_overrides: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmft", "train", *shapes_overrides, "logger=wandb"]
    code, said = on_a_terminal(command, tmp_path)
    assert code == ExitCode.USER, said
    assert "logger=wandb: No API key configured" in said
    assert "logger=wandb_offline" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_without_a_network_the_error_says_what_to_type(
    shapes_overrides: list[str], tmp_path: Path, mmft: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    done = mmft("train", *shapes_overrides, "logger=wandb", cwd=tmp_path, check=False)
    assert done.returncode == ExitCode.USER, done.stderr
    assert "logger=wandb: " in done.stderr
    assert "logger=wandb_offline" in done.stderr
    assert "Traceback" not in done.stderr
    assert "0" * 40 not in done.stderr


@pytest.mark.slow
def test_only_the_chosen_logger_is_imported(shapes_overrides: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from mmft.cli.main import main; code = main(sys.argv[1:]);"
        "print([m for m in sys.modules if m == 'tensorboard' or m.startswith('mmft.training.loggers')]);"
        "sys.exit(code)"
    )  # wandb itself is imported by timm in any case
    argv = ["train", *shapes_overrides, "trainer.max_epochs=1"]
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=800)
    assert done.stdout.splitlines()[-1] == "['mmft.training.loggers', 'mmft.training.loggers.base']"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["logger=wandb", "logger.project=a/b"], "logger.project: 'a/b' cannot be the name"),
        (["logger=tensorboard", "logger.project=a"], "belongs to logger="),
        (["logger=wandb", "logger.predictions=-1"], "at least 0"),
    ],
)
def test_wrong_options(shapes_overrides: list[str], overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        compose("train", [*shapes_overrides, *overrides])
    assert said in str(error.value)


def events_of(run: Run) -> Any:
    """What TensorBoard itself would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run.path), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def curves(run: Run) -> dict[str, dict[int, float]]:
    """Every scalar by step; no step twice."""
    events = events_of(run)
    found = {}
    for name in events.Tags()["scalars"]:
        points = events.Scalars(name)
        found[name] = {p.step: p.value for p in points}
        assert len(found[name]) == len(points), name
    return found


def by_metric(run: Run) -> dict[str, dict[int, float]]:
    """metrics.csv as `curves` has it."""
    found: dict[str, dict[int, float]] = {}
    for step, values in logged(run).items():
        for name, value in values.items():
            found.setdefault(name, {})[step] = value
    return found


TENSORBOARD = ["logger=tensorboard", "trainer.log_every_steps=1", "checkpoint.every_steps=1"]


def test_tensorboard_gets_what_the_run_folder_has(train_run: TrainRun) -> None:
    run = train_run(*TENSORBOARD, "logger.predictions=5", "data.limit=null", "trainer.max_steps=6")
    found, expected = curves(run), by_metric(run)
    expected.pop("epoch")
    found.pop("epoch", None)
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert found[name] == pytest.approx(points, rel=1e-6), name
    events = events_of(run)
    texts = {
        name.removesuffix("/text_summary"): events.Tensors(name)[0].tensor_proto.string_val[0].decode()
        for name in events.Tags()["tensors"]
    }
    assert set(texts) == {"config", "tuning", "test/confusion_matrix", "test/predictions"}
    assert yaml.safe_load(texts["config"]) == yaml.safe_load((run.path / "config.yaml").read_text())
    assert texts["tuning"].splitlines()[0] == "|part|method|layers|group|tensors|trained|total|lr|weight_decay|"
    assert len(texts["test/predictions"].splitlines()) == 2 + 5
    images = events.Tags()["images"]
    assert len(images) == 5
    assert all(name.startswith("test_predictions/row_") for name in images)


def test_tensorboard_shows_a_resumed_run_as_undisturbed(
    train_run: TrainRun, shapes_overrides: list[str], tmp_path: Path
) -> None:
    overrides = [*shapes_overrides, *TENSORBOARD]
    undisturbed = train_run(*TENSORBOARD)
    killed_run(overrides, tmp_path / "run", 4, "before")
    run = resumed(overrides, tmp_path / "run")
    assert len(list(run.path.glob("events.out.tfevents.*"))) == 2
    again = curves(undisturbed)
    for name, points in curves(run).items():
        assert points.keys() <= again[name].keys()
        assert points == {step: again[name][step] for step in points}


def test_tensorboard_that_is_not_installed(shapes_overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        compose("train", [*shapes_overrides, "logger=tensorboard"])
