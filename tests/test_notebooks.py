"""The notebooks of docs/notebooks run from top to bottom on a few rows of the sample, and are kept without outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))

SMALL = """
import functools
import mmft
for name in ("train", "sweep"):
    def small(*given, name=name, genuine=getattr(mmft, name), **more):
        at = 1 if name == "train" else 2
        overrides = [*given[at], "data.limit=16", "data.max_bad_fraction=1", "callbacks.progress=none"]
        if "trainer" in more:
            more["trainer"] = {"max_epochs": 1}
        return genuine(*given[:at], overrides, *given[at + 1 :], **more)
    setattr(mmft, name, small)
"""
"""Run before the notebook's own cells: sixteen rows of each split."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_without_outputs(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{path.parents[2]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SMALL))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert not [out for cell in notebook.cells for out in cell.get("outputs", ()) if out["output_type"] == "error"]
    assert list((tmp_path / "runs").rglob("summary.json"))
