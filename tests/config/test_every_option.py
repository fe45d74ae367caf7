"""Every option is composed, validated and built; every experiment is trained in its `debug=fast` form.

Options are found in the registry and by walking `conf/`, so that a new one is tested from its first day.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from make_shapes import Shapes
from needed_overrides import must
from omegaconf import OmegaConf
from runs import Run

from mmft import build, clock
from mmft.commands.train import train
from mmft.config import registry
from mmft.config.compose import Composed, compose, recompose
from mmft.config.paths import rebase
from mmft.config.schema.root import COMMANDS, TrainConfig
from mmft.config.sources import Groups, conf_dir
from mmft.config.walk import has_default
from mmft.data.bad_rows import BadRows
from mmft.data.splitting.splits import load_splits
from mmft.errors import UserError
from mmft.run_folder import RunFolder
from mmft.signals import StopRequest
from mmft.training.csv_log import CsvLog
from mmft.training.hardware import choose_hardware

# Folders of conf/ that hold no options of a Hydra group, and who tests their files.
NOT_GROUPS = {"sweep": "settings of `mmft train -m`, read by mmft.launch.sweep and tested with it"}

FILES = [path.relative_to(conf_dir()).with_suffix("") for path in sorted(conf_dir().rglob("*.yaml"))]
GROUPS = Groups([])
ROOTS = sorted({file.name for file in FILES if len(file.parts) == 1} | {*COMMANDS})
OPTIONS = [(group, name) for group in GROUPS.names() for name in GROUPS.options(group)]
EXPERIMENTS = [name for group, name in OPTIONS if group == "experiment"]
OF_HYDRA = [(file.parent.as_posix(), file.name) for file in FILES if file.parts[0] == "hydra"]
OF_TRAIN = [option for option in OPTIONS if option[0] != "experiment"]


def _ids(options: list[tuple[str, str]]) -> list[str]:
    return [f"{group}={name}" for group, name in options]


def test_no_file_is_left_out() -> None:
    tested = {*ROOTS, *(f"{group}/{name}" for group, name in [*OF_TRAIN, *OF_HYDRA])}
    tested |= {f"experiment/{name}" for name in EXPERIMENTS}
    others = {file.as_posix() for file in FILES} - tested
    assert {file.split("/")[0] for file in others} <= set(NOT_GROUPS)
    assert [p for p in conf_dir().rglob("*") if p.is_file() and p.suffix != ".yaml"] == []


def defaults_of(root: str) -> list[Any]:
    """The defaults list of a command's file."""
    return list(yaml.safe_load((conf_dir() / f"{root}.yaml").read_text())["defaults"])


@pytest.mark.parametrize("name", ROOTS)
def test_root(name: str, shapes: Shapes, tmp_path: Path) -> None:
    """A root file is a command's config, or is in the defaults list of one."""
    if name not in COMMANDS:
        assert any(name in defaults_of(command) for command in COMMANDS)
        return
    given = {"run": f"run={tmp_path}", "out": f"out={tmp_path / 'out.parquet'}"}
    must = [f.name for f in dataclasses.fields(COMMANDS[name].config) if f.name == "run" or not has_default(f)]
    rows = shapes.overrides if issubclass(COMMANDS[name].config, TrainConfig) else []
    rows = {"explain": ["rows=[0]"], "search": ["query=a"]}.get(name, rows)  # rows or ids, query or queries
    composed = compose(name, [*rows, *(given[key] for key in must if key in given)])
    assert type(composed.config) is COMMANDS[name].config
    _reads_its_own_config_back(composed)


def _reads_its_own_config_back(composed: Composed) -> None:
    assert recompose(composed.command, composed.resolved_for_disk()).config == composed.config


@pytest.mark.parametrize(("group", "name"), OF_HYDRA, ids=_ids(OF_HYDRA))
def test_option_of_hydra(group: str, name: str, shapes: Shapes) -> None:
    """Users cannot choose Hydra's own node; a sweep chooses launchers and sweepers."""
    if group == "hydra":
        assert {"hydra": name} in defaults_of("train")
        return
    assert compose("train", [*shapes.overrides, f"{group}={name}"], multirun=True).config.seed == 0


@pytest.mark.parametrize(("group", "name"), OF_TRAIN, ids=_ids(OF_TRAIN))
def test_option(
    group: str,
    name: str,
    shapes: Shapes,
    pair_folder: Callable[[str], Path],
    language_model_folder: Callable[[str], Path],
    whole_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """On the shapes sample: the config has the chosen option, and everything that a run needs can be built."""
    file = conf_dir() / group / f"{name}.yaml"
    brings_rows = group == "data" and file.exists() and "path" in yaml.safe_load(file.read_text())
    keys = (
        "name",
        "model.image_encoder",
        "model.text_encoder",
        *([] if brings_rows else ["data.path", "data.columns"]),
    )
    more = [*(_with_numbers(shapes, tmp_path) if name in ("regression", "several") else []), *must(group, name)]
    if name == "pretrained":
        keys, more = ("name", "data."), [f"model.pair={pair_folder('clip')}"]
    if (group, name) == ("model/fusion", "whole"):
        keys, more = ("name", "data."), [f"model.whole={whole_folder('llava')}", "task=generation"]
    if name in ("generation", "projector"):
        more += [f"model.text_encoder.name={language_model_folder('llama')}", "task.max_answer_tokens=8"]
    composed = compose("train", [*(o for o in shapes.overrides if o.startswith(keys)), f"{group}={name}", *more])
    assert composed.choices[group] == name
    chosen = composed.config
    for part in group.split("/") if registry.options(group) else ():
        chosen = getattr(chosen, part)
    assert not registry.options(group) or chosen.type == name
    _reads_its_own_config_back(composed)
    config = rebase(composed.config, Path.cwd())
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        with pytest.raises(UserError, match="torch sees no GPU here"):
            choose_hardware(config.trainer)
        config.trainer.accelerator = "cpu"
    config.trainer.devices = 1  # what one process can build
    if config.trainer.strategy == "fsdp":
        with pytest.raises(UserError, match="but there is only one"):
            choose_hardware(config.trainer)
        config.trainer.accelerator, config.trainer.precision = "cpu", "32-true"
    else:
        choose_hardware(config.trainer)
    _build(config, RunFolder(tmp_path / "run"))


def _with_numbers(shapes: Shapes, folder: Path) -> list[str]:
    """The rows with a column of numbers as their label."""
    frame = pd.read_csv(shapes.rows).reset_index(names="number")
    frame.to_csv(folder / "numbers.csv", index=False)
    return [f"data.path={folder / 'numbers.csv'}", f"data.root={shapes.rows.parent}", "data.columns.label=number"]


def _build(config: TrainConfig, folder: RunFolder) -> None:
    """What `mmft train` builds before its first step."""
    splits = load_splits(config.data, config.seed)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, task.make_head, config.seed)
    build.prepare_generation(model, task)
    plan = build.build_plan(config, model)
    data = build.build_data(config, splits, model, task)
    module = build.build_module(config, model, task, plan)
    optimizer: Any = module.configure_optimizers()
    assert [group["name"] for group in optimizer.param_groups] == [group.name for group in plan.groups]
    bad = BadRows(sum(data.rows.values()), config.data.max_bad_fraction, None)
    log = CsvLog(folder.metrics, keep_rows=None, writes=False)
    logger = build.build_logger(config.logger)
    composed = Composed("train", config, OmegaConf.create())
    run = build.Run(composed, folder, Path.cwd(), clock.Spent(0.0, 0.0), StopRequest(), logger)
    callbacks = build.build_callbacks(run, data, task, plan, log, bad)
    loggers = [log, logger]
    trainer = build.build_trainer(config, folder, data, callbacks, loggers)
    assert trainer.max_epochs == data.plan.epochs
    assert all(callback in trainer.callbacks for callback in callbacks)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment(name: str, tmp_path: Path, language_model_folder: Callable[..., Path]) -> None:
    """In an empty folder, as a user would try it: every file that it names must be shipped with mmft.

    Of those with a language model, only rows are.
    """
    os.chdir(tmp_path)
    typed = [f"experiment={name}", "debug=fast", "callbacks.progress=none", "trainer.accelerator=cpu"]
    if name in ("caption", "vqa"):
        typed += ["model.image_encoder.name=mmft:dinov2-tiny", "model.text_encoder.max_length=96"]
        typed += [f"model.text_encoder.name={language_model_folder('llama')}", "data.max_bad_fraction=0.9"]
    assert train(compose("train", typed), tmp_path / "run") == 0
    run = Run(tmp_path / "run")
    assert run.summary["status"] == "completed"
    assert run.summary["optimizer_steps"] == 2
    assert run.summary["test"]
