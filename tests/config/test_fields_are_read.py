"""A field that no code reads is a defect: an option that changes nothing."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from runs import TrainRun

from mmft.config import registry
from mmft.config.compose import compose
from mmft.config.schema import COMMANDS
from mmft.config.walk import sections
from mmft.predict import predict
from mmft.test import test as run_test

# Modules that handle configs as such, whatever their fields mean.
_GENERIC = ("/mmft/config/validate.py", "/mmft/config/checks.py", "/mmft/config/registry.py", "/mmft/config/compose.py")


def schemas(root: type, path: str = "") -> Iterator[type]:
    """Every dataclass that a root holds, all options of a group included."""
    yield root
    for name, inner in sections(root).items():
        below = f"{path}/{name}".strip("/")
        options = [o.schema for o in registry.options(below).values()]
        for schema in options or [inner]:
            yield from schemas(schema, below)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """(schema, field) pairs that code of mmft reads while the test runs."""
    seen: set[tuple[str, str]] = set()

    def watch(schema: type) -> None:
        names = {f.name for f in dataclasses.fields(schema)}
        plain = schema.__getattribute__

        def getattribute(self: Any, name: str) -> Any:
            if name in names:
                caller = sys._getframe(1).f_code.co_filename
                if "/mmft/" in caller and not caller.endswith(_GENERIC):
                    seen.add((type(self).__name__, name))
            return plain(self, name)

        monkeypatch.setattr(schema, "__getattribute__", getattribute, raising=False)

    for schema in {s for root in COMMANDS.values() for s in schemas(root)}:
        watch(schema)
    return seen


def test_every_field_is_read(
    train_run: TrainRun, read: set[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Any, shapes: Any
) -> None:
    # What is passed to a constructor by keyword is read by it: its name is a parameter there, or building fails.
    arguments = registry.arguments

    def noted(config: Any, but: type | None = None) -> dict[str, Any]:
        given = arguments(config, but)
        read.update((type(config).__name__, name) for name in given)
        return given

    monkeypatch.setattr(registry, "arguments", noted)
    first = train_run("callbacks.early_stopping.patience=3", "optim.lr=null", "tune.image_encoder.lr=1e-3")
    train_run("optim=sgd", "schedule=constant", f"init={first.path}", "tune=head_only", "optim.lr=null")
    train_run("schedule=linear")
    train_run("schedule=wsd")
    for command, function in (("test", run_test), ("predict", predict)):
        more = [f"out={tmp_path / 'out.csv'}"] if command == "predict" else []
        assert function(compose(command, [f"run={first.path}", f"data.path={shapes.rows}", *more])) == 0
    expected = {
        (schema.__name__, f.name)
        for root in COMMANDS.values()
        for schema in schemas(root)
        for f in dataclasses.fields(schema)
    }
    # `resume` is read by the command before training; tests/training/test_resume.py shows it.
    elsewhere = {("TrainConfig", "resume"), ("TrainConfig", "name"), ("TrainConfig", "paths"), ("PathsConfig", "runs")}
    assert sorted(expected - read - elsewhere) == []
