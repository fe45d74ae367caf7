"""An environment of its own for each peer, made with uv, whose cache keeps what several need once on the disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from peers.setting import CHECKOUT, requirements

_VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


def make(folder: Path, environment: str) -> Path:
    """Makes an environment, unless it is complete; gives its Python."""
    own, done = folder / environment, folder / environment / "complete"
    python = own / "bin" / "python"
    if not done.exists():
        uv = [shutil.which("uv")] if shutil.which("uv") else [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(own)], check=True)
        install = [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
        # Some requirements name the checkout as `-e .`.
        subprocess.run([*install, "-r", str(requirements(environment))], check=True, cwd=CHECKOUT)
        done.touch()
    return python


def versions(python: Path, environment: str) -> dict[str, str]:
    """The versions of the packages that the peer's requirements name, by name."""
    lines = [line.split("#")[0].strip() for line in requirements(environment).read_text().splitlines()]
    names = ["mmft" if line.startswith("-e") else line.partition("==")[0].partition("[")[0] for line in lines if line]
    done = subprocess.run([str(python), "-c", _VERSIONS, *names], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
