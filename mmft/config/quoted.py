"""Quotes values that Hydra's grammar cannot parse, and parses quoted mappings.

The grammar allows only ASCII names outside quotes, and no quotes around the keys of a mapping. So list elements are
quoted one by one, and a mapping is quoted as a whole: `"task.tasks='{größe:regression,kind:classification}'"`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_COLON = re.compile(r"('[^']*'|\"[^\"]*\")|:(?=\S)")  # a quoted text, or a colon that YAML reads as part of a word
_ELEMENT = re.compile(r"""\s*(?:'[^']*'|"[^"]*"|[^'"\[\]:,]+)\s*""")
_LIST = re.compile(rf"\[((?:{_ELEMENT.pattern})(?:,(?:{_ELEMENT.pattern}))*)\]")
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+", re.ASCII)


def mapping_in(text: str) -> Any:
    """Parses a text as a YAML mapping, with or without spaces after colons; returns other texts unchanged.

    Texts with anchors, aliases or tags are not parsed, because a few lines of them can expand to gigabytes.
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
        found = OmegaConf.to_container(OmegaConf.create(spaced))  # a safe loader that reads 1e-3 as a number
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError):
        return text
    return found if isinstance(found, dict) else text


def quoted(text: str) -> str:
    """A text in quotes for Hydra's grammar."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def list_of(texts: Iterable[str]) -> str:
    """A list of texts as typed, with quotes where needed."""
    return f"[{','.join(text if _PLAIN.fullmatch(text) else quoted(text) for text in texts)}]"


def requoted(value: str) -> str:
    """How to type a value that could not be parsed: quotes around the elements of a plain list, or around it all."""
    found = _LIST.fullmatch(value.strip())
    if found is None:
        return quoted(value)
    return list_of(one[1:-1] if one[:1] in ("'", '"') else one for one in map(str.strip, _ELEMENT.findall(found[1])))
