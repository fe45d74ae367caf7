"""Models that an earlier mmft (commit b6f3d02) saved load still, and predict what they predicted there.

`of_before/` holds two `model/` folders as they were written, with encoders of width 16, and what
`mmft.load(...).predict` gave then. Since then encoders are options with a `type`, and configs have `plugins`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmft.run.loaded_model import load

FOLDERS = sorted(path for path in Path(__file__).with_name("of_before").iterdir() if path.is_dir())
NOISE = np.arange(40 * 40 * 3).reshape(40, 40, 3)
ROWS = [
    {"image": (NOISE % 251).astype(np.uint8), "text": "mostly red, they say"},
    {"image": (NOISE * 7 % 251).astype(np.uint8), "text": "something blue here"},
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_model_of_before(folder: Path, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    found = load(folder).predict(ROWS)
    expected = json.loads((folder / "expected.json").read_text())
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for row, before in zip(found, expected, strict=True):
        for name, value in before.items():
            assert _plain(row[name]) == _near(_plain(value)), name


def _plain(value: Any) -> Any:
    """Several tasks' predictions are a JSON object."""
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


def _near(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _near(one) for name, one in value.items()}
    return pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
