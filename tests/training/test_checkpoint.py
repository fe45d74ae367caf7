"""Checkpoints are whole or not there, and hold no pickle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmft.errors import UserError
from mmft.files import link_files, replace_folder, settled
from mmft.training.checkpoint import FolderCheckpointIO, read

TREE = {
    "loops": {"fit": {"done": 3, "flag": True, "none": None}},
    "optimizer": [{"state": {0: {"step": torch.tensor(2.0)}, 5: {"step": torch.ones(2, 3)}}, "betas": (0.9, 0.999)}],
    "tiny": 0.1 + 0.2,
}


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    io = FolderCheckpointIO()
    io.save_checkpoint(TREE, tmp_path / "last")
    back = io.load_checkpoint(tmp_path / "last")
    assert back["loops"] == TREE["loops"]
    assert back["tiny"] == TREE["tiny"]
    assert list(back["optimizer"][0]["state"]) == [0, 5]
    assert torch.equal(back["optimizer"][0]["state"][5]["step"], torch.ones(2, 3))
    assert sorted(f.name for f in (tmp_path / "last").iterdir()) == [
        "checksums.json",
        "state.json",
        "tensors.safetensors",
    ]


def test_what_is_no_plain_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not PosixPath"):
        FolderCheckpointIO().save_checkpoint({"path": tmp_path}, tmp_path / "last")
    assert settled(tmp_path / "last") is None


def test_a_kill_between_the_two_renames_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "last"
    replace_folder(target, lambda new: (new / "a").write_text("old") and None)
    target.rename(tmp_path / ".last.old")  # what a kill leaves
    (tmp_path / ".last.new").mkdir()
    assert settled(target) == target
    assert (target / "a").read_text() == "old"
    replace_folder(target, lambda new: (new / "a").write_text("new") and None)
    assert (target / "a").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last"]


def test_a_failing_write_leaves_the_old_one(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise OSError("disk full")

    target = tmp_path / "last"
    replace_folder(target, lambda new: (new / "a").write_text("old") and None)
    with pytest.raises(OSError, match="disk full"):
        replace_folder(target, fail)
    assert (target / "a").read_text() == "old"


def test_links_hold_their_content_when_the_source_is_replaced(tmp_path: Path) -> None:
    replace_folder(tmp_path / "last", lambda new: (new / "a").write_text("1") and None)
    replace_folder(tmp_path / "best", link_files(tmp_path / "last"))
    replace_folder(tmp_path / "last", lambda new: (new / "a").write_text("2") and None)
    assert (tmp_path / "best" / "a").read_text() == "1"


def test_no_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        read(tmp_path / "last")
