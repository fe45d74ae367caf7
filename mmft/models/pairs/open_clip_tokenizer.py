"""The tokenizer of a pair in open_clip's format, which cleans texts as open_clip does before it."""

from __future__ import annotations

import importlib.util
import string
from typing import Any

from mmft.errors import UserError
from mmft.models.loading.source import Source
from mmft.models.pairs.open_clip_config import model_config
from mmft.models.tokenizer import load_tokenizer

_SPECIAL = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
"""open_clip's names of two tokens, and transformers'."""
_FILES = ("tokenizer.json", "tokenizer_config.json", "merges.txt", "tokenizer.model", "spiece.model")


def open_clip_tokenizer(source: Source, embeddings: int | None, key: str) -> Any:
    """The tokenizer in the pair's folder, or the vocabulary inside the package open_clip.

    Mojibake and HTML entities, which open_clip replaces, are left as they are.

    Args:
        source: of the pair.
        embeddings: as for `load_tokenizer`.
        key: the config key of the encoder, for messages.

    Raises:
        UserError: there is neither, or it does not fit.
    """
    text = model_config(source)["text_cfg"]
    if any((source.folder / name).is_file() for name in _FILES):
        tokenizer = load_tokenizer(source, embeddings, key)
    else:
        tokenizer = _of_package(source, text, key)
    own = "whitespace" if text.get("hf_tokenizer_name") else "lower"
    if not hasattr(tokenizer, "backend_tokenizer"):
        kind = type(tokenizer).__name__
        raise UserError(
            f"{key}: {source.name} has a {kind}, which cannot clean texts as open_clip does. Add tokenizer.json."
        )
    _clean(tokenizer, (text.get("tokenizer_kwargs") or {}).get("clean", own))
    tokenizer.model_max_length = min(tokenizer.model_max_length, text.get("context_length", 77))
    return tokenizer


def with_cleaning(tokenizer: Any) -> Any:
    """The same tokenizer in a class that keeps its cleaning when it is saved; others make their normalizer anew."""
    from transformers import PreTrainedTokenizerFast

    longest, special = tokenizer.model_max_length, tokenizer.special_tokens_map
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, model_max_length=longest, **special)


def _of_package(source: Source, text: dict[str, Any], key: str) -> Any:
    """CLIP's tokenizer from open_clip's own vocabulary.

    Raises:
        UserError: the pair has another tokenizer, or the package is not installed.
    """
    name = text.get("hf_tokenizer_name") or text.get("hf_model_name")
    where = f"{key}: {source.name} has no tokenizer.json."
    if name:
        raise UserError(f"{where} Copy the tokenizer's files of {name} into the folder.")
    if importlib.util.find_spec("open_clip") is None:
        raise UserError(
            f"{where} Copy the tokenizer's files of openai/clip-vit-base-patch32 into the folder, or install "
            "open_clip_torch, which has them inside."
        )
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    own = SimpleTokenizer()
    vocabulary = {_SPECIAL.get(token, token): number for token, number in own.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(own.bpe_ranks))


def _clean(tokenizer: Any, how: str) -> None:
    """Puts open_clip's cleaning before the tokenizer's own normalization.

    Args:
        tokenizer: changed in place.
        how: `whitespace`; `lower`; or `canonicalize`, which also drops punctuation.
    """
    from tokenizers import Regex, normalizers

    punctuation = "".join(f"\\{c}" for c in string.punctuation)
    steps: list[Any] = []
    if how == "canonicalize":
        steps = [normalizers.Replace("_", " "), normalizers.Replace(Regex(f"[{punctuation}]"), "")]
    if how != "whitespace":
        steps.append(normalizers.Lowercase())
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    backend = tokenizer.backend_tokenizer
    before = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([*steps, *before])
