"""docs/options.md is what tools/options_page.py makes of the schemas now, and has every key and every option."""

from __future__ import annotations

import options_page

from mmft.config.schema.root import COMMANDS
from mmft.config.sources import Groups
from mmft.config.walk import key_names

PAGE = options_page.PAGE.read_text(encoding="utf-8")


def test_it_is_current() -> None:
    assert options_page.page() == PAGE, "type python tools/options_page.py"


def test_every_key_of_every_command_is_there() -> None:
    for schema, _ in COMMANDS.values():
        assert not [key for key in key_names(schema) if f"| `{key}`" not in PAGE]


def test_every_option_of_a_group_says_what_it_is() -> None:
    groups = Groups([])
    for group in groups.names():
        for name in groups.options(group) if len(groups.options(group)) > 1 else ():
            line = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
            assert len(line) > len(f"| `{name}` |  |"), (group, name)
