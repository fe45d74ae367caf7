"""The names of timm's models, read from its source: importing timm takes seconds, and a typo should not."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_MODEL = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)


@cache
def timm_models() -> frozenset[str]:
    """Every architecture of the installed timm; empty if it is not installed."""
    found = find_spec("timm")
    folders = (found.submodule_search_locations if found else None) or []
    files = (file for folder in folders for file in (Path(folder) / "models").glob("*.py"))
    return frozenset(name for file in files for name in _MODEL.findall(file.read_text(encoding="utf-8")))


def unknown_timm_model(name: str) -> str | None:
    """What is wrong with the name of an image encoder; None if timm has it, or if another library may.

    `timm/NAME` is timm's; a name without an owner is taken for a misspelt one of timm's if one is spelt alike.
    """
    from mmft.config.wording import listed

    architecture = name.removeprefix("timm/").partition(".")[0]
    if "/" in name.removeprefix("timm/") or not timm_models() or architecture in timm_models():
        return None
    from difflib import get_close_matches

    near = get_close_matches(architecture, sorted(timm_models()), n=3, cutoff=0.6 if name.startswith("timm/") else 0.85)
    if not near and not name.startswith("timm/"):
        return None
    return f"timm has no model {architecture}; nearest: {listed(near)}"
