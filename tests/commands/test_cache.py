"""`mmft cache`: lists, verifies and clears the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmft.cache.shard import KEY
from mmft.cache.store import Store
from mmft.commands.cache import cache
from mmft.config.compose import compose
from mmft.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two entries of three rows and one."""
    for name, numbers in (("aa11", (1, 2, 3)), ("ab22", (4,))):
        entry = Store(tmp_path, 10**9).entry(name, {"encoder": "x/dinov2-small", "layers": 6, "kept": ["hidden"]})
        digests, values = [bytes([n]) * KEY for n in numbers], [torch.full((4,), float(n)) for n in numbers]
        entry.write(digests, [1] * len(numbers), [False], [values])
        entry.note_computed(len(numbers), 2.0 * len(numbers))
        entry.note_read(30)
    return tmp_path


@pytest.fixture
def said(store: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*typed: str) -> str:
        assert cache(compose("cache", [f"paths.cache={store}", *typed])) == 0
        return capsys.readouterr().out

    return run


def test_lists(said: Any) -> None:
    lines = said().splitlines()
    assert [line.split()[:5] for line in sorted(lines[1:3])] == [
        ["aa11", "dinov2-small", "6", "hidden", "3"],
        ["ab22", "dinov2-small", "6", "hidden", "1"],
    ]
    assert all(line.endswith("60 s") for line in lines[1:3])


def test_verifies(said: Any, store: Path) -> None:
    (shard,) = (store / "aa11").glob("*.shard")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    out = said("verify=true")
    assert f"{store / 'aa11'}: 1 damaged shards were removed" in out
    assert "verified 1 rows" in out
    assert not shard.exists()


def test_of_a_damaged_shard_that_cannot_be_removed_both_are_said(
    said: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a store that belongs to someone else; root may remove everything."""
    (shard,) = (store / "aa11").glob("*.shard")
    shard.write_bytes(shard.read_bytes()[:-1])

    def refuse(path: Path, missing_ok: bool = False) -> None:  # noqa: ARG001 - of `Path.unlink`
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(UserError, match=r"aa11/.*\.shard: is damaged, and cannot be removed: Permission denied"):
        said("verify=true")


def test_clears(said: Any, store: Path) -> None:
    with pytest.raises(UserError, match="clear=a: several entries begin"):
        said("clear=a")
    with pytest.raises(UserError, match="clear=zz: no entry begins"):
        said("clear=zz")
    assert "removed 1 entries" in said("clear=aa")
    assert [path.name for path in store.iterdir()] == ["ab22"]
    assert "removed 1 entries" in said("clear=all")
    assert "is empty" in said()


def test_a_file_in_the_place_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    with pytest.raises(UserError, match=r"paths\.cache=.*rows\.csv: it is a file"):
        cache(compose("cache", [f"paths.cache={tmp_path / 'rows.csv'}"]))
