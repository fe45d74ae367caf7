"""Loads an encoder's tokenizer and checks it: transformers makes up an empty one where files are missing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmft.config.plugins import allowed
from mmft.errors import UserError, first_line
from mmft.models.loading.source import Source

log = logging.getLogger(__name__)
_WHOLE = ("tokenizer.json", "tokenizer.model", "tekken.json")  # each of them is a whole tokenizer
_TOKENIZERS = {"umt5": "t5", "siglip_text_model": "siglip", "clip_text_model": "clip"}
_COPY = "Copy the tokenizer's files from the original model into the folder."
_SMALL = 0.5  # share of the embedding below which a vocabulary looks like another encoder's


def load_tokenizer(source: Source, embeddings: int | None, key: str) -> Any:
    """The tokenizer in the encoder's folder.

    Args:
        source: of the encoder.
        embeddings: number of tokens that the encoder has an embedding for; None if it has no table of them.
        key: the config key of the encoder, for messages.

    Raises:
        UserError: the folder has no tokenizer, or one that does not fit the encoder.
    """
    import transformers

    where = f"{key}.name={source.name}"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=allowed(), **_options(source)
        )
    except Exception as error:
        raise UserError(f"{where}: cannot load a tokenizer from its folder: {first_line(error)} {_COPY}") from error
    _check_files(tokenizer, source.folder, where)
    if embeddings is not None:
        _check_size(tokenizer, embeddings, where)
    return tokenizer


def _options(source: Source) -> dict[str, str]:
    """Names the tokenizer of a folder with only a SentencePiece file of it, where transformers does not know."""
    if any((source.folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return {}
    if source.library == "open_clip":
        return {"tokenizer_type": "clip"}
    kind = _TOKENIZERS.get(source.config.get("model_type", ""))
    return {} if kind is None else {"tokenizer_type": kind}


def _check_files(tokenizer: Any, folder: Path, where: str) -> None:
    """Checks that the vocabulary comes from the folder; a tokenizer of bytes or characters has no file of one."""
    own = getattr(tokenizer, "vocab_files_names", None)
    if not own or any((folder / name).is_file() for name in _WHOLE):
        return
    missing = [name for name in own.values() if not (folder / name).is_file()]
    if len(missing) == len(own):
        files = ", ".join(dict.fromkeys([_WHOLE[0], *missing]))
        raise UserError(
            f"{where}: the folder lacks the files of its tokenizer ({files}), so no word could be read. {_COPY}"
        )


def _check_size(tokenizer: Any, embeddings: int, where: str) -> None:
    """Compares the vocabulary with the encoder's embedding."""
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if tokens > embeddings:
        raise UserError(
            f"{where}: its tokenizer has {tokens:,} tokens, but its embedding only {embeddings:,}, so the tokenizer is "
            f"not this encoder's. {_COPY}"
        )
    if tokens < _SMALL * embeddings:
        log.warning(
            "%s: its tokenizer has only %s tokens, but its embedding %s: is it this encoder's?",
            where,
            f"{tokens:,}",
            f"{embeddings:,}",
        )
