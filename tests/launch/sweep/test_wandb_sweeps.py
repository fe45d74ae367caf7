"""conf/sweep/*.yaml: what `wandb sweep` takes, and that the command a W&B agent makes of each really trains.

wandb judges a file on its server, or offline with the package `sweeps`, which needs numpy below 2 and so cannot be
installed beside mmft. `sweeps` 0.3.0 in an environment of its own finds nothing wrong with these files
(`schema_violations_from_proposed_config`); what is said here of their form is what they use of it.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb_file import WandbFile

from mmft.config.compose import compose
from mmft.config.sources import Groups, conf_dir
from mmft.tasks.classification import Classification
from mmft.tasks.metrics.names import lower_is_better

FILES = sorted((conf_dir() / "sweep").glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def sweep(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One file."""
    return dict(yaml.safe_load(request.param.read_text(encoding="utf-8")))


def drawn(parameter: dict[str, Any], draw: random.Random) -> Any:
    """One value of a parameter, as the sweep would send it."""
    if "values" in parameter:
        return draw.choice(parameter["values"])
    low, high = parameter["min"], parameter["max"]
    if parameter["distribution"] == "log_uniform_values":
        return math.exp(draw.uniform(math.log(low), math.log(high)))
    assert parameter["distribution"] == "uniform"
    return draw.uniform(low, high)


def command_of(sweep: dict[str, Any], *more: str) -> list[str]:
    """The first run's command, as `wandb.wandb_agent` puts it together.

    Args:
        sweep: the file.
        more: put into `command` in front of its last word, where the files tell users to put theirs.
    """
    draw = random.Random(0)
    first = {name: {"value": drawn(parameter, draw)} for name, parameter in sweep["parameters"].items()}
    words = create_sweep_command([*sweep["command"][:-1], *more, sweep["command"][-1]])
    known = create_sweep_command_args({"args": first, "type": "run"}) | {"env": ["/usr/bin/env"]}
    made: list[str] = []
    for word in words:
        made += known[word[2:-1]] if word.startswith("${") else [word]
    return made


def test_there_are_several() -> None:
    assert len(FILES) >= 2


def test_its_form(sweep: dict[str, Any]) -> None:
    keys = {"program", "method", "metric", "parameters", "command", "run_cap", "early_terminate"}
    assert sweep.keys() <= keys
    assert sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"]["goal"] in ("minimize", "maximize")
    assert sweep["command"] == ["${env}", "mmft", "train", "logger=wandb", "${args_no_hyphens}"]
    for parameter in sweep["parameters"].values():
        if "values" not in parameter:
            assert sweep["method"] != "grid"
            assert all(type(parameter[end]) is float for end in ("min", "max"))  # YAML reads 1e-5 as a text
            assert 0 <= parameter["min"] < parameter["max"]
            assert parameter["min"] > 0 or parameter["distribution"] == "uniform"


def test_every_value_is_one_of_mmft(sweep: dict[str, Any], shapes_overrides: list[str]) -> None:
    """The ends of each distribution and every listed value, each by itself."""
    for key, parameter in sweep["parameters"].items():
        for value in parameter.get("values", [parameter.get("min"), parameter.get("max")]):
            compose("train", ["logger=wandb", *_without(shapes_overrides, key), f"{key}={value}"])


def _without(overrides: list[str], key: str) -> list[str]:
    """With both encoders frozen, optim.lr changes nothing, and mmft says so."""
    return [o for o in overrides if not (key == "tune" and o.startswith("optim.lr="))]


def test_the_metric_is_one_that_is_logged(sweep: dict[str, Any]) -> None:
    task = Classification(None)
    task.fit(["a", "b"])
    split, _, name = sweep["metric"]["name"].partition("/")
    assert split == "val"
    assert name in [*task.metric_names(), "loss"]
    assert sweep["metric"]["goal"] == ("minimize" if lower_is_better(name) else "maximize")


def test_they_are_no_group() -> None:
    """A sweep file cannot be chosen, so it is not offered."""
    assert "sweep" not in Groups([]).names()
    assert not Groups([]).exists("sweep")


@pytest.mark.slow
def test_an_agents_command_trains(sweep: dict[str, Any], shapes_overrides: list[str], tmp_path: Path) -> None:
    """With the run's id and the sweep's that the agent gives, and the metric in what wandb wrote."""
    command = command_of(sweep, *[o for o in shapes_overrides if not o.startswith("optim.lr=")])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "WANDB_RUN_ID": "agentsrun", "WANDB_SWEEP_ID": "thesweep"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = tmp_path / done.stdout.splitlines()[-1]
    assert json.loads((run / "summary.json").read_text())["status"] == "completed"
    written = WandbFile(run)
    assert written.run.run_id == "agentsrun"
    keys = {key for row in written.history.values() for key in row}
    assert sweep["metric"]["name"] in keys
