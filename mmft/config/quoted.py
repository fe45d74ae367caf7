"""What Hydra's grammar cannot read and has to be quoted: how that is typed, and how a quoted mapping is read.

It knows no names but ASCII outside of quotes, and no quotes around the keys of a mapping. So the elements of a list are
quoted, and a mapping is quoted as a whole: `"task.tasks='{größe:regression,kind:classification}'"`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_COLON = re.compile(r"('[^']*'|\"[^\"]*\")|:(?=\S)")  # a quoted text, or a colon inside a word for YAML
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+", re.ASCII)


def mapping_in(text: str) -> Any:
    """The mapping that stands in a text as YAML, blanks after its colons or not; the text itself where there is none.

    Anchors, aliases and tags make it none: a few lines of them would expand to gigabytes.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not text.lstrip().startswith("{"):
        return text
    spaced = _COLON.sub(lambda found: found[1] or ": ", text)
    refused = (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken)
    try:
        if any(isinstance(token, refused) for token in yaml.scan(spaced, Loader=yaml.SafeLoader)):
            return text
        found = OmegaConf.to_container(OmegaConf.create(spaced))  # by a safe loader for which 1e-3 is a number
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError):
        return text
    return found if isinstance(found, dict) else text


def quoted(text: str) -> str:
    """A text in quotes, as Hydra reads it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def list_of(texts: Iterable[str]) -> str:
    """A list of texts as it is typed: those in quotes that have to be."""
    return f"[{','.join(text if _PLAIN.fullmatch(text) else quoted(text) for text in texts)}]"


def requoted(value: str) -> str:
    """What to type for a value that could not be read: of a plain list the elements in quotes, else all of it."""
    inner = value.strip()[1:-1]
    if not value.strip().startswith("[") or not value.strip().endswith("]") or set(inner) & set("'\"[]:"):
        return quoted(value)
    return list_of(part.strip() for part in inner.split(","))
