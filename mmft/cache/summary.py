"""What an entry of the store holds and what it saved, for people; and whether it is sound."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mmft.cache.entry import ABOUT, USES
from mmft.cache.shard import SUFFIX, DamagedError, Shard
from mmft.cache.store import last_used, size_of


class Summary(NamedTuple):
    """An entry, for people.

    Attributes:
        folder: of the entry.
        about: what computed it.
        rows: that it holds, without repetitions.
        bytes: of its shards.
        used: when it was last used, in seconds since 1970.
        saved: seconds of computing that its uses have saved, by what a row took to compute.
    """

    folder: Path
    about: dict[str, Any]
    rows: int
    bytes: int
    used: float
    saved: float


def summary_of(entry: Path) -> Summary:
    """What there is to say about an entry."""
    try:
        about = json.loads((entry / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        about = {}
    keys: set[bytes] = set()
    for shard, _ in _opened(entry):
        keys |= set() if shard is None else set(shard.keys.tolist())
    return Summary(entry, about, len(keys), size_of(entry), last_used(entry), _saved(entry))


def _saved(entry: Path) -> float:
    """Seconds that reading has saved."""
    total = {"computed": 0.0, "seconds": 0.0, "read": 0.0}
    with suppress(OSError):
        for line in (entry / USES).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, AttributeError, TypeError):
                total = {name: value + json.loads(line).get(name, 0.0) for name, value in total.items()}
    return total["read"] * total["seconds"] / total["computed"] if total["computed"] else 0.0


def damaged_shards(entry: Path) -> list[Path]:
    """Reads all of an entry; the shards that are damaged.

    Raises:
        OSError: one cannot be read.
    """
    found = []
    for shard, path in _opened(entry):
        if shard is None:
            path.open("rb").close()
        if shard is None or not all(shard.is_sound(row) for row in range(len(shard.keys))):
            found.append(path)
    return found


def _opened(entry: Path) -> Iterator[tuple[Shard | None, Path]]:
    """The shards of an entry, None for one that cannot be opened."""
    for path in sorted(entry.glob(f"*{SUFFIX}")):
        try:
            yield Shard(path), path
        except (DamagedError, OSError, ValueError):
            yield None, path
