"""Tab completion: `eval "$(mmft -sc install=bash)"`, best in ~/.bashrc.

The shell function calls `mmft -sc query=SHELL` with the line so far in `COMP_LINE`. Answers come from the schemas and
the folders of conf/ only, so they are immediate; Hydra's own completion does not support sub-commands, takes half a
second, and changes `COMP_WORDBREAKS` for every program. Options of a module that `plugins` names are known once both
it and --allow-code stand before the cursor; importing it takes as long as it takes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mmft.cli.flags import CFG, INFO, SWITCHES
from mmft.config.plugins import FLAG, allow_code
from mmft.config.registry import options
from mmft.config.schema.root import COMMANDS, TrainConfig
from mmft.config.schema.sweep import GROUPS, MultirunConfig
from mmft.config.sources import Groups
from mmft.config.walk import key_names, types_of
from mmft.config.wording import listed
from mmft.errors import ExitCode, UserError

LINE = "COMP_LINE"  # the line up to the cursor, passed by the shell function

# readline replaces only the text after the last word break, so everything before it is stripped from the answers.
_BASH = r"""_mmft_complete()
{
    local IFS=$'\n' line="${COMP_LINE:0:$COMP_POINT}" answer mark
    local word="${line##*[[:space:]]}"
    local rest="$word"
    for mark in = : @; do
        [[ "$COMP_WORDBREAKS" == *"$mark"* ]] && rest="${rest##*"$mark"}"
    done
    local before="${word%"$rest"}"
    COMPREPLY=()
    for answer in $(COMP_LINE="$line" "${COMP_WORDS[0]/#\~/$HOME}" -sc query=bash 2>/dev/null); do
        case "$answer" in
            *[=./]) ;;
            *) answer="$answer " ;;
        esac
        COMPREPLY+=("${answer#"$before"}")
    done
}
complete -o nospace -F _mmft_complete mmft"""
_SCRIPTS = {"bash": (_BASH, "complete -r mmft; unset -f _mmft_complete")}
"""Maps a shell to the scripts that install and remove the completion; lists only shells that are tested."""
_DIR_FLAGS = ("--config-dir", "-cd")
_RUNS = ("run", "resume", "init", "compare")  # keys whose value is a run folder or `last`


def complete(words: Sequence[str]) -> int:
    """Answers `mmft -sc install=SHELL`, `uninstall=SHELL` and `query=SHELL`.

    Raises:
        UserError: the request is not one of these.
    """
    what, _, shell = words[0].partition("=") if len(words) == 1 else ("", "", "")
    if what not in ("install", "uninstall", "query") or shell not in _SCRIPTS:
        raise UserError(f"-sc {' '.join(words)}: type mmft -sc install=SHELL, where SHELL is one of {listed(_SCRIPTS)}")
    if what == "query":
        print("\n".join(candidates(os.environ.get(LINE, ""))))
    else:
        print(_SCRIPTS[shell][what == "uninstall"])
    return ExitCode.DONE


def candidates(line: str) -> list[str]:
    """Completions of the last word of a line, sorted; one that ends in `=`, `.` or `/` can be completed further.

    Args:
        line: up to the cursor, including the program's name.
    """
    before = line.split()
    word = "" if line[-1:].isspace() or not before else before.pop()
    if len(before) < 2:
        return _beginning(word, [*COMMANDS, "--help", "--version"]) if before else []
    if before[1] not in COMMANDS:
        return []
    if word.startswith("-"):
        unfit = before if before[1] == "train" else [*before, "--multirun"]
        return _beginning(word, {*SWITCHES, "--config-dir", "--cfg", "--info"}.difference(unfit))
    values = {"--cfg": CFG, "-c": CFG, "--info": INFO, "-i": INFO}.get(before[-1])
    if values is not None:
        return _beginning(word, values)
    if before[-1] in _DIR_FLAGS:
        return _paths(word)
    if FLAG in before:
        _import_plugins(before)
    roots, groups = _roots(before), Groups(_config_dirs(before))
    key, given, value = word.partition("=")
    if not given:
        return _names(roots, groups, word)
    *done, last = value.split(",")  # each value of a list
    head = ",".join([*done, ""]) if done else ""
    return [f"{key}={head}{found}" for found in _values(roots, groups, key, last)]


def _beginning(word: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(word))


def _config_dirs(words: Sequence[str]) -> list[Path]:
    """The config folders named on the line so far."""
    split = [(word.partition("="), after) for word, after in zip(words, [*words[1:], ""], strict=True)]
    named = [Path(value or after) for (flag, _, value), after in split if flag in _DIR_FLAGS]
    return [folder for folder in named if folder.is_dir()]


def _import_plugins(words: Sequence[str]) -> None:
    """Registers the options of typed `plugins`; what is wrong with these is reported when the command is run."""
    from mmft.config.compose import import_typed_plugins

    allow_code()
    overrides = [text for word in words if "=" in (text := word.strip("'\""))]
    with suppress(UserError), redirect_stdout(sys.stderr):
        import_typed_plugins(overrides, _config_dirs(words))


def _roots(words: Sequence[str]) -> list[type]:
    """The schemas whose keys the line accepts; `mmft runs` also accepts those of a run as filters."""
    roots = [COMMANDS[words[1]].config]
    roots += [TrainConfig] if words[1] == "runs" else []
    roots += [MultirunConfig] if {"-m", "--multirun"}.intersection(words) else []
    return roots


def _has_groups(roots: Sequence[type]) -> bool:
    return any(issubclass(root, TrainConfig) for root in roots)


def _names(roots: Sequence[type], groups: Groups, word: str) -> list[str]:
    """Keys and groups that start with a word, up to the next dot or slash."""
    names = [name for root in roots for name in key_names(root)]
    names += groups.names() if _has_groups(roots) else []
    names += GROUPS if MultirunConfig in roots else []
    found = set()
    for name in names:
        if name.startswith(word):
            step = re.match(r"[^./]*[./]?", name[len(word) :])
            part = word + (step[0] if step else "")
            found.add(part if part.endswith((".", "/")) else f"{part}=")
    return sorted(found)


def _values(roots: Sequence[type], groups: Groups, key: str, word: str) -> list[str]:
    """Values of a key, or options of a group, that start with a word."""
    if key in GROUPS and MultirunConfig in roots:
        return _beginning(word, options(key))
    group = key.replace(".", "/")
    if _has_groups(roots) and groups.exists(group) and not any(key in key_names(root) for root in roots):
        return _beginning(word, groups.options(group))
    allowed = [hint for root in roots for hint in types_of(root, key)]
    words = {text for hint in allowed for text in _words(hint)} | ({"last"} if key in _RUNS else set())
    paths = _paths(word) if str in allowed else []
    return _beginning(word, words) + [path for path in paths if key not in _RUNS or path.endswith("/")]


def _words(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    return {bool: ["true", "false"], type(None): ["null"]}.get(hint, [])


def _paths(word: str) -> list[str]:
    """Files and folders that start with a word, except those that would need shell quoting."""
    head, slash, name = word.rpartition("/")
    folder = Path(head + slash).expanduser() if slash else Path()
    try:
        found = [child for child in folder.iterdir() if child.name.startswith(name)]
    except OSError:
        return []
    shown = [child for child in found if name or not child.name.startswith(".")]
    paths = [f"{head}{slash}{child.name}{'/' if child.is_dir() else ''}" for child in shown]
    return sorted(path for path in paths if re.fullmatch(r"[\w./~+:@%-]+", path))
