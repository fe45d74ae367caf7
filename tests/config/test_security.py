"""No config runs code. Every hostile config here would make a file `touched` if it did."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from mmft.config import yaml_files
from mmft.config.compose import Composed, compose, recompose
from mmft.config.interpolation import ENV_NAMES, interpolations
from mmft.config.loader import _HYDRA_NODE, ComposeError, Loader
from mmft.errors import UserError

Refused = Callable[..., str]
Own = Callable[[str, str], Path]

TOUCH = "{_target_: os.system, command: 'touch touched'}"

TYPED = [
    "optim._target_=os.system",
    f"+extra={TOUCH}",
    f"optim={TOUCH}",
    f"task.labels=[{TOUCH}]",
    "optim._partial_=true",
    "data._args_=[1]",
    "++data._recursive_=false",
    "data._convert_=all",
    "hydra/launcher=joblib",
    "hydra/sweeper=optuna",
    "hydra/job_logging=stdout",
    "hydra.launcher._target_=os.system",
    "++hydra.sweeper._target_=os.system",
    f"+hydra.callbacks.x={TOUCH}",
    f"hydra.callbacks={{x: {TOUCH}}}",
    "hydra.job_logging.handlers.x.class=os.system",
    "hydra.searchpath=[file:///tmp]",
    "hydra.job.env_set.PATH=/tmp",
    "hydra.job.chdir=true",
    "hydra.output_subdir=x",
    "hydra={}",
    "~hydra.sweeper",
    "hydra.run.dir='${oc.env:SECRET}'",
    "+schema/optim=adamw",
    "experiment=../../touched",
    "experiment=/tmp/touched",
    "name=${oc.decode:'[1]'}",
    "data.columns=${oc.create:'{image: a}'}",
    "name=${oc.select:data.path}",
    "name=${oc.deprecated:data.path}",
    "name=${oc.dict.keys:data}",
    "name=${hydra:runtime.cwd}",
    "name=${oc.env:PATH}",
    "'name=${oc.env:${oc.decode:HOME}}'",
    "name=${python_version:}",
    "name=${unknown:1}",
    "data.columns.text=[${oc.decode:1}]",
]

FILES = {
    "hydra section": "hydra:\n  launcher: {_target_: os.system}\n",
    "launcher by defaults": "defaults:\n  - override /hydra/launcher: joblib\n",
    "callback by package": f"defaults:\n  - /own/x@hydra.callbacks.x\nseed: 1\nx: {TOUCH}\n",
    "target": f"optim: {TOUCH}\n",
    "resolver": "name: ${oc.decode:1}\n",
    "resolver in a key": "'${oc.decode:1}': 1\n",
    "resolver in defaults": "defaults:\n  - override /optim: ${oc.decode:sgd}\n",
    "anchor": "data: &a\n  limit: 1\nother: *a\n",
    "python tag": "name: !!python/object/apply:os.system ['touch touched']\n",
    "way out": "defaults:\n  - ../../../etc/x\n",
}


@pytest.mark.parametrize("override", TYPED)
def test_typed(override: str, refused: Refused) -> None:
    key = override.strip("'~+").partition("=")[0]
    assert key in refused(override)


@pytest.mark.parametrize("case", FILES)
def test_own_files(case: str, own: Own, refused: Refused) -> None:
    folder = own("experiment/mine", "# @package _global_\n" + FILES[case])
    assert "mine.yaml:" in refused("experiment=mine", config_dirs=[folder]) or case == "way out"


def test_package_header(own: Own, refused: Refused) -> None:
    folder = own("mixin/mine", f"# @package hydra.callbacks\nx: {TOUCH}\n")
    assert "@package hydra.callbacks is not allowed" in refused("mixin=mine", config_dirs=[folder])


def test_folder_named_hydra(own: Own, refused: Refused) -> None:
    folder = own("hydra/launcher/basic", "_target_: os.system\n")
    own("hydra/mmft", "_target_: os.system\n")
    assert "reserved by mmft" in refused(config_dirs=[folder])


def test_billion_laughs(own: Own, refused: Refused) -> None:
    lines = ["# @package _global_", "a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 12)]
    message = refused("experiment=mine", config_dirs=[own("experiment/mine", "\n".join(lines))])
    assert "mine.yaml:2: an anchor (&name) is not allowed" in message


def test_billion_laughs_by_interpolation(own: Own, refused: Refused) -> None:
    columns = ("image", "label", "id", "split", "weight", "group")
    text = "# @package _global_\ndata:\n  columns:\n    image: xxxxxxxxxx\n"
    for before, after in itertools.pairwise(columns):
        text += f"    {after}: {'${data.columns.' + before + '}' * 1}" + f"${{data.columns.{before}}}" * 40 + "\n"
    message = refused("experiment=mine", base=(), config_dirs=[own("experiment/mine", text)])
    assert "expands to more than" in message


def test_deep_nesting(own: Own, refused: Refused) -> None:
    for depth in (30, 1500):
        nested = f"{'[' * depth}{']' * depth}"
        folder = own("experiment/mine", f"# @package _global_\nx: {nested}\n")
        assert "nested too deeply" in refused("experiment=mine", config_dirs=[folder])
        assert "nested too deeply" in refused(f"data.limit={nested}")


def test_large_file(own: Own, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_files, "LARGEST", 10)
    assert "10 bytes" in refused("experiment=mine", config_dirs=[own("experiment/mine", "# @package _global_\n")])


def test_allowed_hydra_keys(composed: Callable[..., Composed]) -> None:
    assert composed("hydra.run.dir=x", "hydra.sweep.dir=y").lines[-2:] == ["hydra.run.dir=x", "hydra.sweep.dir=y"]


def test_verbose_has_no_use_here(refused: Refused) -> None:
    """In Hydra's own apps it shows debug messages."""
    assert "train.log has the debug messages" in refused("hydra.verbose=true")


def test_hydra_is_as_shipped() -> None:
    """If a file passes the inspection, the check of the composed hydra node still catches it."""
    with pytest.raises(ComposeError, match="hydra.launcher"):
        Loader("train").compose("train", ["++hydra.launcher._target_=os.system"])
    node = Loader("train").compose("train", []).hydra
    assert all(node[key] == expected for key, expected in _HYDRA_NODE.items())


def test_a_run_of_another_is_judged_like_any_config(folder: Path) -> None:
    """A run's config.yaml may come from anyone."""
    values = compose("train", [], partial=True).resolved_for_disk()
    values["name"], values["optim"]["_target_"] = "${oc.decode:1}", "os.system"
    with pytest.raises(UserError) as caught:
        recompose("train", values)
    text = str(caught.value)
    assert "${oc.decode:1}" in text
    assert "optim._target_: is not allowed" in text
    assert folder.is_dir()


def test_allowed_interpolations() -> None:
    for text in (
        "${data.path}",
        "${.path}",
        "a${seed}b",
        "${now:%Y}",
        *(f"${{oc.env:{n}}}" for n in ENV_NAMES),
        "\\${x",
    ):
        assert not interpolations(text).errors, text
    assert interpolations("${oc.env:MMFT_X,default}").env == ["MMFT_X"]
