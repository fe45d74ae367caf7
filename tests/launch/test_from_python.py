"""`mmft.train`, `mmft.sweep` and `mmft.check` give what the command gives, on rows in a file or in memory."""

from __future__ import annotations

import logging
import pickle
import random
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from make_shapes import Shapes
from PIL import Image
from runs import QUICK, Run, TrainRun, same_weights

import mmft
from mmft.config.from_python import overrides_of
from mmft.config.plugins import allowed
from mmft.errors import UserError
from mmft.run_folder import RunFolder
from mmft.signals import Stopped
from mmft.training.checkpoint import read
from mmft.training.module import FineTuning

ROLES = {"image": "image", "text": "text", "label": "label"}


@pytest.fixture
def typed(shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The overrides of a quick run without those that name rows and columns; the runs lie in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    ours = ("data.path", "data.root", "data.columns.image", "data.columns.text", "data.columns.label", "data.limit")
    kept = [one for one in [*shapes.overrides, *QUICK] if not one.startswith(ours)]
    return [*kept, f"paths.runs={tmp_path / 'runs'}"]


@pytest.fixture
def frame(shapes: Shapes) -> pd.DataFrame:
    """Some rows of every split, with absolute paths of images."""
    rows = pd.read_csv(shapes.rows).dropna(subset=["image", "text", "label"]).groupby("split").head(24)
    rows["image"] = [str(shapes.rows.parent / path) for path in rows["image"]]
    return rows.reset_index(drop=True)


def splits_of(frame: pd.DataFrame, *names: str) -> Any:
    """A `DatasetDict`, each of whose splits has all rows."""
    import datasets

    return datasets.DatasetDict({name: datasets.Dataset.from_pandas(frame) for name in names})


def test_rows_in_memory_give_what_a_file_gives(
    typed: list[str], frame: pd.DataFrame, tmp_path: Path, shapes: Shapes, train_run: TrainRun
) -> None:
    frame.to_csv("rows.csv", index=False)
    of_frame = mmft.train(frame, typed, **ROLES)
    of_dicts = mmft.train(
        [{**row, "image": Image.open(row["image"])} for row in frame.to_dict("records")], typed, **ROLES
    )
    of_file = mmft.train("rows.csv", typed, **ROLES)
    of_command = train_run("data.limit=null", f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}")
    for run in (of_frame, of_dicts, of_file):
        assert run.summary["status"] == "completed"
        assert same_weights(Run(run.folder), of_command)
    assert (of_frame.folder / "rows.parquet").is_file()
    assert not (of_file.folder / "rows.parquet").exists()
    assert of_frame.config["data"]["path"] == str(of_frame.folder / "rows.parquet")
    every, alone = (of_frame.model.predict(rows) for rows in (frame[4:6], frame.iloc[4]))
    assert list(alone.index) == [4]
    assert list(alone["prediction"]) == list(every["prediction"][:1])


def test_a_run_is_read_and_trained_on(typed: list[str], frame: pd.DataFrame) -> None:
    parts = {name: rows.drop(columns="split") for name, rows in frame.groupby("split")}
    typed = [one for one in typed if not one.startswith("data.columns.split")]
    run = mmft.train(parts["train"], typed, val=parts["val"], test=parts["test"], **ROLES, seed=3)
    assert "completed" in repr(run)
    assert run.summary["rows"] == {"train": 24, "val": 24, "test": 24, "bad": 0}
    assert run.config["seed"] == 3
    assert run.metrics["step"].max() == 2 * 2
    assert run.bad_rows.empty
    assert list(run.model.predict(parts["test"]).index) == list(parts["test"].index)
    assert "classification model of " in repr(run.model)
    assert " parameters, cpu>" in repr(run.model)
    longer = mmft.train(resume=run.folder, trainer={"max_epochs": 3})
    assert longer.folder == run.folder
    assert longer.config["trainer"]["max_epochs"] == 3
    with pytest.raises(UserError, match="a resumed run has its own rows"):
        mmft.train(frame, resume=run.folder)


def _seed() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - as other people's code
    torch.manual_seed(1)


def _drawn() -> tuple[float, ...]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002


def test_nothing_of_the_process_changes(typed: list[str], frame: pd.DataFrame) -> None:
    _seed()
    wanted = _drawn()
    _seed()
    handlers, levels = list(logging.getLogger("mmft").handlers), logging.getLogger("transformers").level
    heard = signal.getsignal(signal.SIGINT)
    threads = torch.get_num_threads()
    first = mmft.train(frame, typed, **ROLES)
    assert _drawn() == wanted
    assert (logging.getLogger("mmft").handlers, logging.getLogger("transformers").level) == (handlers, levels)
    assert signal.getsignal(signal.SIGINT) is heard
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    mmft.check(frame, iter(typed), **ROLES, allow_code=True, callbacks={"progress": "none"})
    assert not allowed()
    assert same_weights(Run(first.folder), Run(mmft.train(frame, typed, **ROLES).folder))


def test_an_interrupt_saves_and_says_how_to_go_on(
    typed: list[str], frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = mmft.train(frame, typed, **ROLES)
    update = FineTuning.update
    monkeypatch.setattr(FineTuning, "update", lambda *given: (signal.raise_signal(signal.SIGINT), update(*given))[1])
    with pytest.raises(KeyboardInterrupt, match=r"To resume .* mmft train resume=") as stopped:
        mmft.train(frame, typed, **ROLES, name="stopped")
    assert isinstance(stopped.value.__cause__, Stopped)
    monkeypatch.undo()
    (folder,) = Path(whole.folder.parent.parent / "stopped").iterdir()
    assert same_weights(Run(mmft.train(resume=folder).folder), Run(whole.folder))


def test_what_is_wrong_is_told_and_leaves_no_folder(typed: list[str], frame: pd.DataFrame, tmp_path: Path) -> None:
    for given, message in [
        (
            {"rows": frame, "image": "imag", "text": "text", "label": "label"},
            r"image=imag: the table given has no such",
        ),
        ({"rows": frame, **ROLES, "optim": {"lrr": 1}}, r"optim\.lrr: no such key\. Did you mean optim\.lr"),
        ({"rows": frame.head(0), **ROLES}, "rows: there are none"),
        ({"rows": frame, **ROLES, "data.columns.text": "label"}, "text='text' and data.columns.text are both given"),
        ({"rows": 5, **ROLES}, "rows: an int given"),
        ({"val": frame, **ROLES}, "none to train on"),
        ({"rows": frame, "val": "rows.csv", **ROLES}, "some are files and some are in memory"),
        ({"rows": [{"image": 5, "text": "a", "label": "b"}], **ROLES}, "rows: row 0, column image: "),
        ({"rows": [{"image": None, "text": 1, "label": "b"}, {"text": "a"}], **ROLES}, "column text holds int, str"),
        ({"rows": frame, **ROLES, "seed": object()}, "seed: an object given"),
        ({"rows": frame, **ROLES, "valid": frame}, "valid: a DataFrame given.* tables go into rows, val and test"),
        ({"rows": pd.concat([frame, frame[["label"]]], axis=1), **ROLES}, "rows: 2 columns are named label. Rename"),
        ({"rows": splits_of(frame, "train", "odd"), **ROLES}, "rows: splits train, odd given. Give rows, val and test"),
    ]:
        with pytest.raises(UserError, match=message):
            mmft.train(overrides=typed, **given)
    unsplit = [one for one in typed if not one.startswith("data.columns.split")]
    with pytest.raises(UserError, match="text=text: the table of val has no such column"):
        mmft.train(frame, unsplit, val=frame.drop(columns="text"), **ROLES)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match=r"data\.fractions\..* rows of the table given in 1 group of one image"):
        mmft.train(frame.assign(image=frame["image"][0]), unsplit, **ROLES)


@pytest.mark.slow
def test_a_sweep_gives_its_runs(typed: list[str], frame: pd.DataFrame) -> None:
    runs = mmft.sweep(frame, {"optim.lr": [1e-4, 1e-3], "model.dropout": [0]}, typed, **ROLES)
    assert [run.config["optim"]["lr"] for run in runs] == [1e-4, 1e-3]
    assert {run.summary["status"] for run in runs} == {"completed"}
    (folder,) = {run.folder.parent for run in runs}
    assert (folder / "rows.parquet").is_file()
    assert (folder / "sweep.csv").is_file()


def test_a_search_goes_on_with_its_own_rows_alone(
    typed: list[str], frame: pd.DataFrame, tmp_path: Path, stand_in: list[Path]
) -> None:
    """What is refused leaves the rows of earlier trials as they are."""
    search = ["hydra/sweeper=optuna", f"hydra.sweep.dir={tmp_path / 'search'}", "optim.lr=interval(1e-5,1e-3)"]
    mmft.sweep(frame, None, [*typed, *search, "hydra.sweeper.n_trials=1"], **ROLES)
    rows = (tmp_path / "search" / "rows.parquet").read_bytes()
    other = frame.assign(label="x" + frame["label"])
    with pytest.raises(UserError, match="rows: the search in .*search has other rows. Give the same, or a new"):
        mmft.sweep(other, None, [*typed, *search, "hydra.sweeper.n_trials=2"], **ROLES)
    assert (tmp_path / "search" / "rows.parquet").read_bytes() == rows
    mmft.sweep(frame, None, [*typed, *search, "hydra.sweeper.n_trials=2"], **ROLES)
    assert [path.name for path in stand_in] == ["0", "1"]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of runs, which end at once."""
    made: list[Path] = []

    def train(composed: Any, path: Path) -> int:
        folder = RunFolder(path)
        folder.write_config({"name": None}, composed.typed, composed.choices)
        folder.update_summary(status="completed", monitor="val/accuracy", val={"accuracy": 0.5, "loss": 1.0})
        made.append(path)
        return 0

    module: Any = ModuleType("mmft.commands.train")
    module.train = train
    monkeypatch.setitem(sys.modules, "mmft.commands.train", module)
    return made


def test_a_run_and_its_model_can_be_pickled(typed: list[str], frame: pd.DataFrame) -> None:
    run = mmft.train(frame, [*typed, "tune=lora"], **ROLES)
    row = [{"image": frame["image"][0], "text": "red"}]
    assert pickle.loads(pickle.dumps(run)).folder == run.folder
    assert pickle.loads(pickle.dumps(run.model)).predict(row) == run.model.predict(row)


def test_images_in_memory_of_a_column_that_an_override_names(typed: list[str], frame: pd.DataFrame) -> None:
    frame["image"] = [Image.open(path) for path in frame["image"]]
    named = mmft.train(frame, typed, **ROLES)
    by_override = mmft.train(frame, [*typed, *(f"data.columns.{role}={column}" for role, column in ROLES.items())])
    assert same_weights(Run(named.folder), Run(by_override.folder))


def test_tables_by_split_are_given_one_by_one(typed: list[str], frame: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="rows: tables train, val given. Give one by one rows, val and test"):
        mmft.train({"train": frame, "val": frame}, typed, **ROLES)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_does_not_return(
    number: int, typed: list[str], frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = FineTuning.update
    monkeypatch.setattr(FineTuning, "update", lambda *given: (signal.raise_signal(number), update(*given))[1])
    with pytest.raises(KeyboardInterrupt, match="the sweep was stopped; the runs that it made are in"):
        mmft.sweep(frame, {"optim.lr": [1e-4, 1e-3]}, typed, **ROLES)


@pytest.mark.parametrize("values", [3, "lora", {"a": 1}])
def test_a_sweep_is_over_lists(values: Any, typed: list[str], frame: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="over: tune: .* given. Give a list of the values to try, such as"):
        mmft.sweep(frame, {"tune": values}, typed, **ROLES)


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("load", [3], "run: an int given; give a run folder"),
        ("runs", [3], r"overrides: 3 given. Give a list of them, such as \['optim.lr=1e-4'\]"),
        ("compose", ["rows.csv", "tune=lora"], r"overrides: 'tune=lora' given. .* \['tune=lora'\]"),
        ("sweep", ["rows.csv", ["tune"]], r"over: \['tune'\] given. Give a dict of lists"),
    ],
)
def test_what_is_given_in_the_wrong_form_is_named(name: str, given: list[Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        getattr(mmft, name)(*given)


@pytest.mark.parametrize("val", ["validation", "Eval"])
def test_the_splits_of_a_data_set(typed: list[str], frame: pd.DataFrame, val: str) -> None:
    """They are called as in a column of splits."""
    unsplit = [one for one in typed if not one.startswith("data.columns.split")]
    parts = mmft.compose(splits_of(frame, "train", val), unsplit, **ROLES)
    assert parts.data.rows == {"train": len(frame), "val": len(frame)}


def test_check_returns_its_findings(typed: list[str], frame: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    frame.loc[0, "image"] = "nowhere.png"
    typed = [one for one in typed if not one.startswith(("callbacks", "modality_report"))]
    found = mmft.check(frame, typed, **ROLES, data={"max_bad_fraction": 0.1})
    assert [(one.kind, one.row) for one in found if one.kind == "bad row"] == [("bad row", 0)]
    assert "Training would work." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"seed": 1, "optim.lr": 1e-5}, ["seed=1", "optim.lr=1e-05"]),
        ({"optim": {"lr": np.float32(0.5)}}, ["optim.lr=0.5"]),
        ({"modality_report": False, "name": None}, ["modality_report=false", "name=null"]),
        ({"name": "1e3"}, ["name='1e3'"]),
        ({"name": "it's"}, [r"name='it\'s'"]),
        ({"data.columns.text": ["title", "größe"]}, ["data.columns.text=[title,'größe']"]),
        ({"trainer.thaw": [1, 2.5]}, ["trainer.thaw=[1,2.5]"]),
        ({"data": {"test": {"photo": "a.csv"}}}, ["data.test={photo:a.csv}"]),
        (["tune=lora"], ["tune=lora"]),
    ],
)
def test_values_are_typed_as_the_shell_would(given: Any, wanted: list[str]) -> None:
    assert overrides_of(given) == wanted


def test_what_there_is_is_listed() -> None:
    assert {"train", "sweep", "check", "load", "load_pair", "runs"} <= set(dir(mmft))


def test_the_parts_train_in_lightnings_own_loop(typed: list[str], frame: pd.DataFrame, tmp_path: Path) -> None:
    parts = mmft.compose(frame, typed, **ROLES)
    assert not (tmp_path / "runs").exists()
    assert len(next(iter(parts.data.train_dataloader()))) == parts.config.data.batch_size
    parts.trainer.fit(parts.module, parts.data)
    wanted = read(mmft.train(frame, typed, **ROLES).folder / "checkpoints" / "last")["state_dict"]
    found = parts.module.state_dict()
    assert len(found) > 50
    assert all(torch.equal(found[name], wanted[name]) for name in found.keys() & wanted.keys())
    assert {name for name, one in parts.module.named_parameters() if one.requires_grad} <= wanted.keys()
    assert parts.task is parts.module.task
    assert parts.plan.groups


def test_another_trainer_fits_the_module(typed: list[str], frame: pd.DataFrame, tmp_path: Path) -> None:
    parts = mmft.compose(frame, [*typed, "schedule=constant"], **ROLES)
    before = {name: value.clone() for name, value in parts.model.state_dict().items()}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.fit(parts.module, parts.data)
    assert trainer.global_step == parts.data.plan.total // 2
    assert any(not torch.equal(before[name], value) for name, value in parts.model.state_dict().items())


def test_a_notebook_gets_one_line_that_is_replaced(
    typed: list[str], frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class Handle:
        update = staticmethod(shown.append)

    def display(line: str, *, display_id: bool) -> Handle:
        assert display_id
        shown.append(line)
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=display))
    monkeypatch.setattr("mmft.training.callbacks.progress.Console", lambda: SimpleNamespace(is_jupyter=True))
    run = mmft.train(frame, [one for one in typed if not one.startswith("callbacks.progress")], **ROLES)
    assert 'value="0" max="4"' in shown[0]
    assert 'value="4" max="4"' in shown[-1]
    accuracy = run.summary["val"]["accuracy"]
    assert any(f"val/accuracy {accuracy:.4f}" in line for line in shown)


def test_runs_are_those_of_the_command(tmp_path: Path) -> None:
    for place, accuracy in (("a/1", 0.5), ("a/2", 0.7), ("b/1", 0.6)):
        folder = RunFolder(tmp_path / place)
        folder.write_config({"seed": int(place[-1])}, [], {})
        folder.update_summary(status="completed", test={"accuracy": accuracy}, started=f"2026-01-0{place[-1]}T00:00:00")
    found = mmft.runs(sort="test/accuracy", paths={"runs": tmp_path})
    assert [run.summary["test"]["accuracy"] for run in found] == [0.7, 0.6, 0.5]
    assert [run.folder.name for run in mmft.runs(["name=a", "seed=2"], paths={"runs": tmp_path})] == ["2"]
    assert mmft.runs(status="failed", paths={"runs": tmp_path}) == []
    with pytest.raises(UserError, match="sede: no such key. Did you mean seed"):
        mmft.runs(sede=1)
