"""`BadRows`: unusable rows and the reasons, counted once each and listed in `bad_rows.csv`."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmft.batch import BadRow
from mmft.config.schema.data import ColumnsConfig
from mmft.data.roles import roles
from mmft.errors import UserError

SHOWN = 5
"""Number of bad rows shown in the error; the file lists all."""


_UNLIKE = re.compile(r"'[^']*'|\"[^\"]*\"|(?<!\S)/\S+|(?<![\w.])-?\d+(?:[.,]\d+)*")
"""What differs between reasons that are alike: quoted values, paths and numbers."""
_MORE = re.compile(r" \([^)]*\)|[:;].*")
"""What explains a reason further."""


class BadRows:
    """Collects bad rows over a run and its resumptions.

    Args:
        total: number of rows checked.
        max_fraction: `data.max_bad_fraction`.
        path: the run's `bad_rows.csv`, whose existing entries count; None for no file.
        where: starts the error, if these are not all rows of the command.
    """

    def __init__(self, total: int, max_fraction: float, path: Path | None = None, where: str = "") -> None:
        self.total, self.max_fraction, self.path, self.where = total, max_fraction, path, where
        # With one file per split, row numbers repeat, and so may ids.
        self._seen: dict[tuple[int, str, str], BadRow] = {}
        if path is not None and path.exists():
            self._read(path)

    @property
    def count(self) -> int:
        """Number of bad rows."""
        return len(self._seen)

    @property
    def rows(self) -> list[BadRow]:
        """All bad rows, in the order in which they were found."""
        return list(self._seen.values())

    def add(self, rows: Iterable[BadRow]) -> None:
        """Counts and lists rows that are not known yet."""
        new: dict[tuple[int, str, str], BadRow] = {}
        for row in rows:
            clean = BadRow(row.row, _one_line(row.id), _one_line(row.column), _one_line(row.reason), row.split)
            key, unsplit = (clean.row, clean.id, clean.split), (clean.row, clean.id, "")
            if key not in self._seen and unsplit not in self._seen:  # files of earlier versions name no split
                new.setdefault(key, clean)
        self._seen.update(new)
        if new and self.path is not None:
            self._append(self.path, list(new.values()))

    def check(self) -> None:
        """Stops the run if there are too many bad rows.

        Raises:
            UserError: more than `max_fraction` of all rows are bad.
        """
        if self.count <= self.max_fraction * self.total:
            return
        where = f"{self.where}: " if self.where else ""
        lines = [
            f"{where}{self.count} of {self.total} rows are known to be bad ({self.count / max(self.total, 1):.1%}), "
            f"more than data.max_bad_fraction={self.max_fraction} allows: {self._reasons()}"
        ]
        lines += [_describe(row) for row in self.rows[:SHOWN]]
        if self.count > SHOWN:
            lines.append(f"  and {self.count - SHOWN} more" + (f", in {self.path}" if self.path else ""))
        raise UserError("\n".join(lines))

    def _reasons(self) -> str:
        """The reasons by frequency, where equal but for names and numbers."""
        columns: dict[str, list[str]] = {}  # of the rows by what is alike in their reasons
        for row in self.rows:
            columns.setdefault(_MORE.sub("", _UNLIKE.sub("…", row.reason)), []).append(row.column)
        told = []
        for alike, every in sorted(columns.items(), key=lambda item: -len(item[1]))[:SHOWN]:
            named = ", ".join(sorted({*every} - {""}))
            told.append(f"{len(every):,} x {named}{': ' if named else ''}{alike}")
        return "; ".join(told)

    def _read(self, path: Path) -> None:
        """Loads the entries of a stopped run; drops a last line that a kill truncated."""
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            path.write_bytes(whole)
        lines = csv.DictReader(io.StringIO(whole.decode()))
        for line in lines:
            row = BadRow(int(line["row"]), line["id"], line["column"], line["reason"], line.get("split") or "")
            self._seen[row.row, row.id, row.split] = row
        if "split" not in (lines.fieldnames or BadRow._fields):  # of an earlier version
            path.unlink()
            self._append(path, self.rows)

    def _append(self, path: Path, rows: list[BadRow]) -> None:
        new = not path.exists() or path.stat().st_size == 0
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([BadRow._fields, *rows] if new else rows)


def why_unusable(name: str, columns: ColumnsConfig, bad: Sequence[BadRow]) -> str:
    """Why no row of a split can be used; names the column that makes most rows bad.

    Args:
        name: of the split.
        columns: of its table.
        bad: its rows.
    """
    fields = roles(columns)
    named = Counter(fields[one.column][0] for one in bad if one.column in fields).most_common(1)
    field = named[0][0] if named else "label"
    given = getattr(columns, field)
    key = "data.columns" if given is None else f"data.columns.{field}={given}"
    reasons = {_UNLIKE.sub("", one.reason): one.reason for one in reversed(bad)}  # the first of those that are alike
    return f"{key}: no row of {name} is usable: {'; '.join(sorted(reasons.values())[:3])}"


def _one_line(text: str) -> str:
    """The text on one line, so that each row is one line and a truncated line is recognisable."""
    return " ".join(text.encode(errors="replace").decode().split())


def _describe(row: BadRow) -> str:
    return f"  {row_named(row.row, row.id)}: {row.why}"


def row_named(row: int, name: str) -> str:
    """A row by its number and, if it is another, its id: `row 3 (id a17)`."""
    return f"row {row}" + ("" if name in ("", str(row)) else f" (id {name})")
