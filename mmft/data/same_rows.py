"""Whether rows are still those that a run was started with: a digest of all that a table says of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any

from mmft.data.splitting.splits import Split

_AT_ONCE = 4096  # values as one text, which is ten times as fast
Digests = dict[str, dict[str, Any]]
"""By split: `rows`, their number, and for each role of a column the digest of its values, in order."""


def digests_of_rows(splits: Mapping[str, Split]) -> Digests:
    """Digests of the rows of each split. Images count by their names, those within a table by their sizes."""
    return {name: {"rows": len(split)} | dict(_digests(split)) for name, split in splits.items()}


def differences(before: Digests, now: Digests) -> list[str]:
    """What differs between two, in words, split by split."""
    found = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name, {}), now.get(name, {})
        if old.get("rows") != new.get("rows"):
            found.append(f"{name} has {new.get('rows', 0):,} rows, and had {old.get('rows', 0):,}")
        elif roles := [role for role in new if new[role] != old.get(role)]:
            found.append(f"{name} has other {' and '.join(roles)}, or another order of rows")
    return found


def _digests(split: Split) -> Iterator[tuple[str, str]]:
    table, rows = split.table, split.rows
    yield "texts", _digest(table.texts(rows))
    yield "labels", _digest(table.labels(rows))
    yield "images", _digest(table.image_names(rows))
    yield "weights", _digest(table.weight(row) for row in rows.tolist())


def _digest(values: Iterable[Any]) -> str:
    digest, left = blake2b(digest_size=16), iter(values)
    while some := list(islice(left, _AT_ONCE)):
        digest.update(json.dumps(some, default=str).encode())
    return digest.hexdigest()
