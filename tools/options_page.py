"""Writes docs/options.md, the page of every option, from the schemas; `mmft COMMAND --help` has the same texts.

    python tools/options_page.py            # writes it
    python tools/options_page.py --check    # exits with 1 if it is not current

`make docs` checks it, and so does a test.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import mmft.config.schema  # noqa: F401 - the options register
from mmft.cli.help import Entry, entries
from mmft.config.registry import choices
from mmft.config.schema.root import COMMANDS, trains
from mmft.config.schema.sweep import GROUPS as SWEEP_GROUPS
from mmft.config.schema.sweep import MultirunConfig
from mmft.config.sources import Groups, conf_dir
from mmft.config.walk import keys

PAGE = Path(__file__).parents[1] / "docs" / "options.md"

_OPENING = """# Every option

Made from the schemas by `tools/options_page.py`; `mmft COMMAND --help` shows the same in the shell. A key is typed as
`key=value`, a group as `group=option`. `null` is what is written for none.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_OPENING, *_groups(), *_train(), *_others()])


def _groups() -> Iterator[str]:
    yield "## Groups\n"
    yield "An option of a group brings keys of its own, which are listed below with its name.\n"
    groups = Groups([])
    for group in [*groups.names(), *SWEEP_GROUPS]:
        named = groups.options(group)
        if len(named) > 1:
            yield f"### {group}\n"
            yield "| option | what it is |\n|---|---|"
            yield from (f"| `{name}` | {_cell(_summary(group, name))} |" for name in named)
            yield ""


def _summary(group: str, name: str) -> str:
    """What an option is: the first sentences of its YAML file's comment, or its schema's docstring."""
    file = conf_dir() / group / f"{name}.yaml"
    if file.is_file():
        lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
        said = [line.lstrip("# ") for line in lines if not line.startswith(("# @package", "#   "))]
        if said:
            return " ".join(said)
    schema = choices()["tune/image_encoder" if group == "tune" else group][name]
    return " ".join((schema.__doc__ or "").split("\n\n")[0].split())


def _train() -> Iterator[str]:
    yield "## mmft train\n"
    sections: dict[str, list[Entry]] = {}
    for entry in entries(keys(COMMANDS["train"].config)):
        sections.setdefault(entry.key.partition(".")[0] if "." in entry.key else "", []).append(entry)
    for section, listed in sections.items():
        yield f"### {section or 'the run'}\n"
        yield from _table(listed)
    yield "### with `-m`\n"
    yield from _table(entries(keys(MultirunConfig)))


def _others() -> Iterator[str]:
    known = {entry.key for entry in entries(keys(COMMANDS["train"].config))}
    for command, (schema, summary) in COMMANDS.items():
        if command == "train":
            continue
        yield f"## mmft {command}\n"
        yield f"{summary[0].upper()}{summary[1:]}.\n"
        if trains(command):
            yield "All keys of `mmft train`, and:\n"
        yield from _table([one for one in entries(keys(schema)) if not (trains(command) and one.key in known)])


def _table(listed: Iterable[Entry]) -> Iterator[str]:
    yield "| key | value and meaning |\n|---|---|"
    for entry in listed:
        only = f" *({entry.only})*" if entry.only else ""
        default = entry.default if entry.default == "required" else f"default `{entry.default}`"
        yield f"| `{entry.key}`{only} | {_cell(f'{entry.values}; {default}. {entry.doc}')} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """The command."""
    if "--check" in sys.argv:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        if not current:
            print("docs/options.md is not current. Type python tools/options_page.py", file=sys.stderr)
        return int(not current)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
