"""Build hook of the wheel: puts `conf/` inside the package as `mmft/conf`.

Hatchling's own `force-include` would do so in an editable install too, as a frozen copy in
site-packages that no longer follows the checkout. So a wheel for distribution gets the folder and an
editable one does not; there `mmft` finds `conf/` beside the package. Run by hatchling, never by hand.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfHook(BuildHookInterface[Any]):
    """Adds `conf/` to the `standard` wheel and to no other."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the build; `version` is the wheel's kind, `standard` or `editable`."""
        if version == "standard":
            build_data["force_include"]["conf"] = "mmft/conf"
