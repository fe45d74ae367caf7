"""Splits rows by fractions: by the hash of their id or group, stratified by label."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmft.data.hashing import unit_hashes
from mmft.data.table import Table
from mmft.errors import UserError

Names = npt.NDArray[np.str_]


def fraction_splits(
    table: Table,
    shares: Mapping[str, float],
    seed: int,
    rows: npt.NDArray[np.int64] | None = None,
    purpose: str = "split",
) -> Names:
    """The name of the share that each row falls into.

    Units (groups, or single rows) of each label are sorted by hash, and this sequence is cut at the shares. The result
    does not depend on the row order, and adding rows moves only units next to a cut.

    Args:
        table: provides ids or groups as unit names, and labels as strata.
        shares: by name, adding up to 1.
        seed: of the run.
        rows: to split; None for all.
        purpose: another purpose gives another draw. With `split`, the first unit of every label falls into the first
            share, so that training has every label.

    Returns:
        (rows,) str.

    Raises:
        UserError: the shares do not add up to 1, or ids are not unique.
    """
    if abs(sum(shares.values()) - 1) > 1e-6:
        given = ", ".join(f"{name}={share}" for name, share in shares.items())
        raise UserError(f"data.fractions: {given} add up to {sum(shares.values()):g}, not to 1")
    rows = np.arange(len(table)) if rows is None else rows
    names, unit_of_row = np.unique(np.array(_unit_names(table))[rows], return_inverse=True)
    sizes = np.bincount(unit_of_row)
    strata = _strata(_labels_of_units(table.labels(rows), unit_of_row, len(names)))
    hashes = unit_hashes(names.tolist(), seed, purpose)
    cuts = np.cumsum([*shares.values()])[:-1]
    split_of_unit = np.zeros(len(names), dtype=np.int64)
    for label, units in strata.items():
        line = np.array(units)[np.argsort(hashes[units], kind="stable")]
        split_of_unit[line] = np.searchsorted(cuts, _places(sizes[line], label, seed, purpose), side="right")
    return np.array(list(shares))[split_of_unit[unit_of_row]]


def _places(sizes: npt.NDArray[np.int64], label: str, seed: int, purpose: str) -> npt.NDArray[np.float64]:
    """The position in [0, 1) of each unit in its label's sequence.

    The position is a random point within the unit, the same fraction for all units of a label, so that over many small
    labels every split gets its share. To split, the first unit is at 0, so that training has every label.
    """
    point = unit_hashes([label], seed, purpose="stratum")[0]
    places: npt.NDArray[np.float64] = (np.cumsum(sizes) - sizes + point * sizes) / sizes.sum()
    if purpose == "split":
        places[0] = 0.0
    return places


def _unit_names(table: Table) -> list[str]:
    """The unit name of each row: its group, or its id without a group; in separate name spaces.

    Raises:
        UserError: two rows without a group have the same id.
    """
    ids, groups = table.ids(), table.groups() or [None] * len(table)
    counts = Counter(i for i, g in zip(ids, groups, strict=True) if g is None)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        shown = ", ".join(map(repr, twice[:3]))
        raise UserError(
            f"data.columns.id={table.columns.id}: {len(twice)} ids of {table.where} occur twice ({shown}), "
            "so rows cannot be split by id; make them unique, or set data.columns.group"
        )
    return [f"id {i}" if g is None else f"group {g}" for i, g in zip(ids, groups, strict=True)]


def _labels_of_units(of_rows: Sequence[Any], unit_of_row: npt.NDArray[np.int64], units: int) -> list[str]:
    """The most common label of each unit's rows; ties go to the first by name."""
    labels = [_name(label) for label in of_rows]
    counts: list[Counter[str]] = [Counter() for _ in range(units)]
    for unit, label in zip(unit_of_row.tolist(), labels, strict=True):
        counts[unit][label] += 1
    return [min(count, key=lambda label, c=count: (-c[label], label)) for count in counts]  # type: ignore[misc]


def _name(label: Any) -> str:
    return f"{type(label).__name__} {label}"


def _strata(labels: Sequence[str]) -> dict[str, list[int]]:
    """Units by label; a single stratum if most labels occur once, so are not classes (regression, retrieval)."""
    strata: dict[str, list[int]] = defaultdict(list)
    for unit, label in enumerate(labels):
        strata[label].append(unit)
    return {"": list(range(len(labels)))} if len(strata) > len(labels) / 2 else dict(strata)
