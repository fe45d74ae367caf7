"""One section of `run.py`, in a process of its own: `python -m gpu.section NAME SETTING`."""

from __future__ import annotations

import importlib
import json
import sys

from gpu.setting import Setting


def main() -> None:
    """The section's `measure`."""
    name, setting = sys.argv[1:]
    importlib.import_module(f"gpu.{name}").measure(Setting(**json.loads(setting)))


if __name__ == "__main__":
    main()
