"""A field that no code reads is a defect: an option that changes nothing."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from make_shapes import Shapes
from needed_overrides import must
from runs import TrainRun
from torch import nn

import mmft
from mmft import build
from mmft.batch import Widths
from mmft.commands.check import check
from mmft.commands.embed import embed
from mmft.commands.explain import explain
from mmft.commands.index import index
from mmft.commands.predict import predict
from mmft.commands.search import search
from mmft.commands.test import test as run_test
from mmft.config import registry
from mmft.config.compose import Composed, compose
from mmft.config.rules.files import UNREAD
from mmft.config.schema.audit import AuditConfig
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.root import COMMANDS
from mmft.config.walk import is_group, sections
from mmft.data.job_cache import JOB_CACHE

# Code that handles configs as such, whatever their fields mean: all of mmft/config, which only checks them,
# and functions that copy one config onto another.
_GENERIC = "/mmft/config/"
_COPIES = {("run_data.py", "_overlay"), ("saved_model.py", "_fix_input")}


def schemas(root: type, path: str = "") -> Iterator[type]:
    """Every dataclass below a root, including all options of each group."""
    yield root
    for name, inner in sections(root).items():
        below = f"{path}/{name}".strip("/")
        options = [o.schema for o in registry.options(below).values()] if is_group(inner) else []
        for schema in options or [inner]:
            yield from schemas(schema, below)


def test_what_only_copies_is_where_it_is_said_to_be() -> None:
    """Or what it copies would count as read."""
    for file, function in _COPIES:
        paths = Path(mmft.__file__).parent.rglob(file)
        assert any(f"def {function}(" in path.read_text(encoding="utf-8") for path in paths), file


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """(schema, field) pairs that code of mmft reads while the test runs."""
    seen: set[tuple[str, str]] = set()
    for _ in range(2):
        JOB_CACHE.next_job()  # tables of tests before this one are read again

    def watch(schema: type) -> None:
        names = {f.name for f in dataclasses.fields(schema)}
        plain = schema.__getattribute__

        def getattribute(self: Any, name: str) -> Any:
            if name in names:
                code = sys._getframe(1).f_code
                file = Path(code.co_filename)
                if "/mmft/" in str(file) and _GENERIC not in str(file) and (file.name, code.co_name) not in _COPIES:
                    seen.add((type(self).__name__, name))
            return plain(self, name)

        monkeypatch.setattr(schema, "__getattribute__", getattribute, raising=False)

    for schema in {s for root, _ in COMMANDS.values() for s in schemas(root)}:
        watch(schema)
    return seen


def test_every_field_is_read(
    train_run: TrainRun, read: set[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shapes: Any
) -> None:
    # What is passed to a constructor by keyword is read by it: its name is a parameter there, or building fails.
    arguments = registry.arguments

    def noted(config: Any, but: type | None = None) -> dict[str, Any]:
        given = arguments(config, but)
        read.update((type(config).__name__, name) for name in given)
        return given

    monkeypatch.setattr(registry, "arguments", noted)
    first = train_run(
        "callbacks.early_stopping.patience=3",
        "callbacks.ema.decay=0.9",
        "optim.lr=null",
        "tune.image_encoder.lr=1e-3",
        "data.augment.policy=rand_augment",
        "model.auxiliary.alignment=contrastive",
        "checkpoint.use=wise_ft",
        "data.subset.rows=20",
    )
    train_run("optim=sgd", "schedule=constant", f"init={first.path}", "tune=head_only", "optim.lr=null")
    train_run("optim=adamw_8bit", "schedule=linear", "logger=wandb")  # WANDB_MODE is offline in tests
    train_run("optim=paged_adamw", "schedule=wsd", "logger=wandb_offline", "report=true")
    rows = [f"data.root={shapes.rows.parent}", "data.columns.split=null", "trainer.max_epochs=1"]
    train_run(*rows, "optim=paged_adamw_8bit", "logger=tensorboard")  # by fractions
    parts = {name: tmp_path / f"{name}.csv" for name in ("train", "test")}
    for name, file in parts.items():
        pd.read_csv(shapes.rows).query(f"split == '{name}'").to_csv(file, index=False)
    files = [f"data.{name}={file}" for name, file in parts.items()]
    train_run(*rows, "data.path=null", *files, "data.folds=2", "data.fold=1")
    for name in registry.options("tune/image_encoder"):  # tests/tuning trains with each
        chosen = [o for encoder in ENCODERS for o in (f"tune/{encoder}={name}", *must(f"tune/{encoder}", name))]
        typed = [*shapes.overrides, *chosen, "optim.lr=null"]
        build.build_methods(compose("train", typed).config.tune)
    for name in registry.options("model/fusion"):  # tests/models trains with each
        if name == "whole":  # it has no fields, and is made of parts of a whole model: tests/models/test_whole.py
            continue
        task = {"dual": "contrastive", "projector": "generation"}.get(name, "classification")
        of_pair = name == "pretrained"
        own = [o for o in shapes.overrides if not (of_pair and o.startswith("model."))]
        pair = ["model.pair=a/b"] if of_pair else []
        config = compose("train", [*own, f"task={task}", f"model/fusion={name}", *pair]).config
        parts = {"projections": (nn.Identity(), nn.Identity()), "scale": 1.0} if config.model.fusion.of_pair else {}
        registry.build(config.model.fusion, image=Widths(8, 8), text=Widths(8, 8), **parts)
    for name in registry.options("task"):  # tests/tasks trains with each
        build.build_task(compose("train", [*shapes.overrides, f"task={name}", *must("task", name)]).config.task)
    expected = {
        (schema.__name__, f.name) for schema in schemas(COMMANDS["train"].config) for f in dataclasses.fields(schema)
    }
    # `resume` is read by the command before training; tests/training/test_resume.py shows it.
    elsewhere = {("TrainConfig", "resume"), ("TrainConfig", "name"), ("TrainConfig", "paths"), ("PathsConfig", "runs")}
    elsewhere |= {("TrainerConfig", "rank_timeout")}  # where there are several ranks: tests/test_ranks.py
    assert sorted(expected - read - elsewhere) == []


USING = [
    ("test", run_test),
    ("predict", predict),
    ("embed", embed),
    ("explain", explain),
    ("index", index),
    ("search", search),
]


@pytest.mark.parametrize(("command", "function"), USING)
def test_every_field_of_a_command_that_uses_a_run_is_read(
    command: str,
    function: Callable[[Composed], int],
    train_run: TrainRun,
    read: set[tuple[str, str]],
    tmp_path: Path,
    shapes: Any,
) -> None:
    """Keys below `data` override the run's `DataConfig`; the command must read or refuse each."""
    run = train_run("trainer.max_epochs=1")
    read.clear()
    for _ in range(2):
        JOB_CACHE.next_job()  # the table is read again
    more = {"predict": ["out=out.csv"], "embed": ["out=out.npz"], "explain": ["out=pages", "ids=['0']", "points=8"]}
    more |= {"index": ["out=index"], "search": ["query=a"]}
    os.chdir(tmp_path)
    assert function(compose(command, [f"run={run.path}", f"data.path={shapes.rows}", *more.get(command, [])])) == 0
    copied = {
        "RunData": "DataConfig",
        "TestData": "DataConfig",
        "DataReading": "ReadingConfig",
        "DataColumns": "ColumnsConfig",
    }
    expected = {
        (copied.get(schema.__name__, schema.__name__), f.name)
        for schema in schemas(COMMANDS[command].config)
        for f in dataclasses.fields(schema)
    }
    read |= {(COMMANDS[command].config.__name__, name) for schema, name in read if schema == "TestConfig"}
    expected -= {
        (COMMANDS[command].config.__name__, "model"),
        ("PairConfig", "pair"),
    }  # in place of a run: test_pairs.py
    refused = {tuple(key.rpartition(".")[::2]) for key in UNREAD} if command != "test" else set()
    refused = {
        ({"": "DataConfig", "columns": "ColumnsConfig", "reading": "ReadingConfig"}[section], name)
        for section, name in refused
    }
    assert sorted(expected - read - refused) == []


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_every_field_of_a_command_that_listens_is_read(
    command: str, train_run: TrainRun, read: set[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_run("trainer.max_epochs=1")
    mmft.load(run.path).index([{"text": "red"}], tmp_path / "index")
    read.clear()
    module = import_module(f"mmft.commands.{command}")
    monkeypatch.setattr(module, "run_until_stopped", lambda *_: None)
    typed = {
        "serve": [f"index={tmp_path / 'index'}"],
        "demo": [f"marks={tmp_path / 'marks.jsonl'}", "by=anna"],
    }
    assert getattr(module, command)(compose(command, [f"run={run.path}", "port=0", *typed[command]])) == 0
    copied = {"ServedData": "DataConfig", "DataReading": "ReadingConfig", "DataColumns": "ColumnsConfig"}
    expected = {
        (copied.get(schema.__name__, schema.__name__), f.name)
        for schema in schemas(COMMANDS[command].config)
        for f in dataclasses.fields(schema)
    }
    expected -= {(COMMANDS[command].config.__name__, "model"), ("PairConfig", "pair")}
    refused = {("ColumnsConfig", key.rpartition(".")[2]) for key in UNREAD if key.startswith("columns.")}
    assert sorted(expected - read - refused) == []


def test_every_field_of_check_is_read(
    shapes: Shapes, shapes_overrides: list[str], read: set[tuple[str, str]], tmp_path: Path
) -> None:
    typed = [*shapes_overrides, "features=true", f"page={tmp_path / 'found.html'}"]
    assert check(compose("check", [*typed, f"out={tmp_path / 'found.csv'}"])) == 0
    frame = pd.read_csv(shapes.rows)
    frame.assign(size=range(len(frame))).to_csv(tmp_path / "rows.csv", index=False)
    numbers = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", "data.columns.label=size"]
    assert check(compose("check", [*typed, *numbers, "task=regression"])) == 0
    expected = {("AuditConfig", f.name) for f in dataclasses.fields(AuditConfig)}
    expected |= {("CheckConfig", name) for name in ("out", "features", "page")}
    assert sorted(expected - read) == []
