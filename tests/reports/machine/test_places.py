"""Folders and accounts, as the doctor sees them."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from mmft.errors import existing
from mmft.reports.machine.places import disk, encoder_folders, unwritable, wandb_login

ADDRESS = {"WANDB_BASE_URL": "https://wandb.example"}


def test_encoder_folders(tmp_path: Path) -> None:
    assert encoder_folders("").value == "not set"
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").touch()
    one = encoder_folders(str(tmp_path))
    assert (one.value, one.wrong) == (f"{tmp_path}  1 encoders", None)
    assert f"such folder: {tmp_path}/gone." in (encoder_folders(f"{tmp_path}{os.pathsep}{tmp_path}/gone").wrong or "")


def test_wandb_login(tmp_path: Path) -> None:
    assert wandb_login(ADDRESS, tmp_path).value == "none (for logger=wandb, type wandb login)"
    assert wandb_login({"WANDB_MODE": "offline"}, tmp_path).value == "not needed (WANDB_MODE=offline)"
    assert wandb_login({"WANDB_API_KEY": "secret"}, tmp_path).value == "key in WANDB_API_KEY"
    file = tmp_path / ".netrc"
    file.write_text("machine elsewhere login me password secret\n")
    assert "none" in wandb_login(ADDRESS, tmp_path).value
    file.write_text("machine wandb.example login user password secret\n")
    assert wandb_login(ADDRESS, tmp_path).value == f"key in {file}"
    file.write_text("nonsense\n")
    assert str(file) in (wandb_login(ADDRESS, tmp_path).wrong or "")


def test_wandb_login_without_an_address(tmp_path: Path) -> None:
    """W&B's own address is asked of wandb, not of the network."""
    assert wandb_login({}, tmp_path).value.startswith("none")


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = disk(str(tmp_path / "a" / "b"))
    assert (fine.name, fine.fatal) == ("paths.runs", False)
    (tmp_path / "file").touch()
    assert disk(str(tmp_path / "file")).fatal
    assert disk(str(tmp_path / "file" / "runs")).fatal
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 2**20))
    full = disk(str(tmp_path))
    assert "only 1.0 MiB" in (full.wrong or "")
    assert not full.fatal
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert disk(str(tmp_path)).fatal
    assert "export HF_HOME=FOLDER" in (unwritable(tmp_path, "HF_HOME") or "")


def test_existing(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
