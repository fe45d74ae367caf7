"""The wheel works without the checkout, and an editable install follows it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel for distribution, as a build frontend makes it, but with the hatchling that is installed."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, CHECKOUT]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("mmft-*.whl"))


@pytest.fixture(scope="module")
def target(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel and nothing else."""
    out = tmp_path_factory.mktemp("target")
    zipfile.ZipFile(wheel).extractall(out)
    return out


def conf_files(folder: Path) -> dict[str, str]:
    """Every YAML file below `folder` with its text."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.yaml"))}


def run(target: Path, cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in `cwd` with the unpacked wheel in front of the checkout's editable install."""
    environment = {"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_wheel_holds_conf_as_it_is(target: Path) -> None:
    assert conf_files(target / "mmft" / "conf") == conf_files(CHECKOUT / "conf")
    assert (target / "mmft" / "conf" / "train.yaml").is_file()


def test_wheel_holds_the_package_and_nothing_else(target: Path) -> None:
    tops = {path.name for path in target.iterdir()}
    assert tops == {"mmft", "mmft-0.1.0.dist-info"}
    modules = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "mmft").rglob("*.py")}
    assert modules == {str(path.relative_to(target)) for path in (target / "mmft").rglob("*.py")}


def test_wheel_holds_the_samples_and_is_small_enough(wheel: Path, target: Path) -> None:
    assert wheel.stat().st_size <= 40e6
    for path in (CHECKOUT / "mmft" / "samples").rglob("*"):
        if path.is_file():
            assert (target / path.relative_to(CHECKOUT)).read_bytes() == path.read_bytes()


def test_command_runs_from_the_wheel_in_an_empty_folder(target: Path, tmp_path: Path) -> None:
    where = run(target, tmp_path, "-c", "import mmft; print(mmft.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(target), where.stderr
    shown = run(target, tmp_path, "-m", "mmft", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "train" in shown.stdout
    composed = run(target, tmp_path, "-m", "mmft", "train", "--cfg", "job")
    assert composed.returncode == 0, composed.stderr
    assert "image_encoder:" in composed.stdout
    assert list(tmp_path.iterdir()) == []


def test_editable_install_has_no_frozen_conf(tmp_path: Path) -> None:
    built = next(WheelBuilder(str(CHECKOUT)).build(directory=str(tmp_path), versions=["editable"]))
    names = zipfile.ZipFile(built).namelist()
    assert not [name for name in names if name.endswith((".yaml", ".py"))]
    assert any(name.endswith(".pth") for name in names)


@pytest.mark.slow
def test_the_same_wheel_comes_from_the_source_archive(wheel: Path, tmp_path: Path) -> None:
    archive = next(SdistBuilder(str(CHECKOUT)).build(directory=str(tmp_path), versions=["standard"]))
    subprocess.run(["tar", "-xzf", archive, "-C", tmp_path], check=True)
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    again = next(WheelBuilder(str(unpacked)).build(directory=str(tmp_path), versions=["standard"]))
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
