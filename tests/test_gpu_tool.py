"""`tools/gpu/run.py` in its smallest form, without a GPU: that the one command for a borrowed GPU works at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_every_section_has_rows_and_none_failed(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOLS / "gpu" / "run.py"), str(tmp_path / "out"), "--device", "cpu", "--smallest"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=1950, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    sections = ["about", "runs", "steps", "caching", "memory", "quantized", "ranks"]
    assert list(dict.fromkeys(row["section"] for row in found["rows"])) == sections
    assert {row["verdict"] for row in found["rows"]} == {"ok"}
    assert "0 failed." in (tmp_path / "out" / "gpu.md").read_text()
    assert found["torch"]
    assert not (tmp_path / "out" / "errors.txt").exists()


def test_a_wheel_keeps_the_libraries_of_one_cuda(tmp_path: Path) -> None:
    """And is still whole: its RECORD names what is in it."""
    from gpu.pack import slim

    wheel = tmp_path / "bitsandbytes-1.0-py3-none-any.whl"
    parts = ["__init__.py", *(f"libbitsandbytes_{kind}.so" for kind in ("cpu", "cuda128", "cuda130", "rocm70"))]
    names = [*(f"bitsandbytes/{part}" for part in parts), "bitsandbytes-1.0.dist-info/RECORD"]
    with zipfile.ZipFile(wheel, "w") as made:
        for name in names[:-1]:
            made.writestr(name, name)
        made.writestr(names[-1], "".join(f"{name},sha256=x,1\n" for name in names[:-1]) + f"{names[-1]},,\n")
    slim(wheel, {"cpu", "cuda130"})
    kept = [name for name in names if "cuda128" not in name and "rocm" not in name]
    with zipfile.ZipFile(wheel) as small:
        assert small.namelist() == kept
        record = small.read(names[-1]).decode().splitlines()
    assert [line.partition(",")[0] for line in record] == kept
    with pytest.raises(SystemExit, match="no library for cuda999; it has cpu, cuda130"):
        slim(wheel, {"cpu", "cuda999"})
