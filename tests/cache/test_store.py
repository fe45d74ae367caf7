"""The store: several writers, limits, and entries that are used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from mmft.cache.entry import ABOUT, Entry
from mmft.cache.shard import KEY
from mmft.cache.store import Store, cache_folder, entries, size_of
from mmft.commands.cache import cache
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.files import written_aside

ABOUT_IT = {"encoder": "some/encoder"}


def digest(number: int) -> bytes:
    return number.to_bytes(KEY, "little")


def written(entry: Entry, *numbers: int) -> None:
    entry.write(
        [digest(n) for n in numbers], [1] * len(numbers), [False], [[torch.full((4,), float(n)) for n in numbers]]
    )


def read(entry: Entry, *numbers: int) -> list[float | None]:
    found = entry.find([digest(n) for n in numbers])
    features = entry.read(found, 0)
    return [float(value[0]) if there else None for there, value in zip(features.there, features.values[0], strict=True)]


def test_what_one_writes_another_finds(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**9)
    one, other = store.entry("a", ABOUT_IT), store.entry("a", ABOUT_IT)
    written(one, 1, 2, 3)
    written(other, 3, 4)  # the same row twice
    one.refresh()
    assert read(one, 4, 9, 1, 3) == [4.0, None, 1.0, 3.0]
    assert (one.find([None]).shard == -1).all()


@pytest.mark.parametrize("length", [0, 30])
def test_a_damaged_shard_is_deleted(length: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path, 10**9)
    written(store.entry("a", ABOUT_IT), 1)
    (shard,) = (tmp_path / "a").glob("*.shard")
    shard.write_bytes(shard.read_bytes()[:length])
    entry = store.entry("a", ABOUT_IT)
    assert (entry.find([digest(1)]).shard == -1).all()
    assert f"{shard} was damaged and is computed again; the file is deleted" in caplog.text
    assert not shard.exists()


def test_a_file_with_a_damaged_row_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path, 10**9)
    written(store.entry("a", ABOUT_IT), 1, 2)
    (shard,) = (tmp_path / "a").glob("*.shard")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
    entry = store.entry("a", ABOUT_IT)
    found = entry.find([digest(1), digest(2)])
    assert [entry.is_sound(int(at), int(row)) for at, row in zip(*found, strict=True)] == [True, False]
    assert f"a row of {shard} was damaged and is computed again; the file is deleted" in caplog.text
    assert read(entry, 1) == [1.0]  # it stays open
    again = store.entry("a", ABOUT_IT)
    assert (again.find([digest(1), digest(2)]).shard == -1).all()
    written(again, 1, 2)
    again.refresh()
    assert read(again, 1, 2) == [1.0, 2.0]


def test_entries_used_longest_ago_make_room(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**9)
    for number, name in enumerate("abc"):
        written(store.entry(name, ABOUT_IT), number)
        os.utime(tmp_path / name / ABOUT, (number, number))
    each = size_of(tmp_path / "a")
    store.limit = 3 * each
    store.entry("a", ABOUT_IT)  # now the latest
    assert store.make_room(each, keep=[])
    assert {path.name for path in entries(tmp_path)} == {"a", "c"}
    assert not store.make_room(3 * each, keep=[tmp_path / "a"])
    assert {path.name for path in entries(tmp_path)} == {"a", "c"}  # nothing would have been gained


def test_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "mmft"
    assert cache_folder("~/mine") == Path("~/mine").expanduser()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(None) == Path("~/.cache/mmft").expanduser()


def test_nothing_is_removed_in_vain(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**9)
    for name in "ab":
        written(store.entry(name, ABOUT_IT), 1)
    each = size_of(tmp_path / "a")
    store.limit = 2 * each
    assert not store.make_room(2 * each, keep=[tmp_path / "a"])
    assert not store.make_room(3 * each, keep=[])
    assert {path.name for path in entries(tmp_path)} == {"a", "b"}
    assert store.make_room(2 * each, keep=[])
    assert entries(tmp_path) == []


def test_processes_that_write_a_file_at_once_are_not_in_each_others_way(tmp_path: Path) -> None:
    with written_aside(tmp_path / "about", shared=True) as one, written_aside(tmp_path / "about", shared=True) as two:
        one.write_text("a")
        two.write_text("b")
    assert (tmp_path / "about").read_text() == "a"  # the outer one is renamed last
    assert [path.name for path in tmp_path.iterdir()] == ["about"]


def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmft.cache import store as module

    store = Store(tmp_path, 10**9)
    written(store.entry("a", ABOUT_IT), 1)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "a"))

    monkeypatch.setattr(module.shutil, "rmtree", refused)
    with pytest.raises(UserError, match="a: cannot be removed: Permission denied"):
        cache(compose("cache", [f"paths.cache={tmp_path}", "clear=all"]))
