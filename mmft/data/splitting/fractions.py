"""Splits rows by fractions: by the hash of their unit's name, stratified by label."""

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
    units: Sequence[str],
    rows: npt.NDArray[np.int64] | None = None,
    purpose: str = "split",
) -> Names:
    """The name of the share that each row falls into.

    Units of each label are sorted by hash, and this sequence is cut at the shares. The result
    does not depend on the row order, and adding rows moves only units next to a cut.

    Args:
        table: provides labels as strata.
        shares: by name, adding up to 1.
        seed: of the run.
        units: the name of the unit of every row of the table; see `mmft.data.splitting.units`.
        rows: to split; None for all.
        purpose: another purpose gives another draw. With `split`, the first unit of every label falls into the first
            share, so that training has every label.

    Returns:
        (rows,) str.

    Raises:
        UserError: the shares do not add up to 1.
    """
    if abs(sum(shares.values()) - 1) > 1e-6:
        given = ", ".join(f"{name}={share}" for name, share in shares.items())
        raise UserError(f"data.fractions: {given} add up to {sum(shares.values()):g}, not to 1")
    rows = np.arange(len(table)) if rows is None else rows
    names, unit_of_row = np.unique(np.array(units)[rows], return_inverse=True)
    sizes = np.bincount(unit_of_row)
    strata = _strata(_labels_of_units(table.labels(rows), unit_of_row, len(names)))
    hashes = unit_hashes(names.tolist(), seed, purpose)
    cuts = np.cumsum([*shares.values()])[:-1]
    split_of_unit = np.zeros(len(names), dtype=np.int64)
    for label, members in strata.items():
        line = np.array(members)[np.argsort(hashes[members], kind="stable")]
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


def _labels_of_units(of_rows: Sequence[Any], unit_of_row: npt.NDArray[np.int64], units: int) -> list[str]:
    """The most common label of each unit's rows; ties go to the first by name."""
    labels = [_name(label) for label in of_rows]
    counts: list[Counter[str]] = [Counter() for _ in range(units)]
    for unit, label in zip(unit_of_row.tolist(), labels, strict=True):
        counts[unit][label] += 1
    return [min(count, key=lambda label, c=count: (-c[label], label)) for count in counts]  # type: ignore[misc]


def _name(label: Any) -> str:
    return f"{type(label).__name__} {label}"


def strata_of(labels: Sequence[Any]) -> dict[str, list[int]]:
    """Indices by label; a single stratum if most labels occur once, so are not classes (regression, retrieval)."""
    return _strata([_name(label) for label in labels])


def _strata(labels: Sequence[str]) -> dict[str, list[int]]:
    """Units by label; a single stratum if most labels occur once, so are not classes (regression, retrieval)."""
    strata: dict[str, list[int]] = defaultdict(list)
    for unit, label in enumerate(labels):
        strata[label].append(unit)
    return {"": list(range(len(labels)))} if len(strata) > len(labels) / 2 else dict(strata)
