"""What tests of sweeps share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event


@pytest.fixture(scope="session", autouse=True)
def _studies_without_flushing() -> Iterator[None]:
    """SQLite does not wait for the disk at the end of a transaction, 20 ms each: no test turns the power off."""

    def set_up(connection: sqlite3.Connection, *_: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", set_up)
    yield
    event.remove(Engine, "connect", set_up)
