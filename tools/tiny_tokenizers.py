"""Small tokenizers of the usual families, their vocabularies laid out by rule from a few captions.

Not trained: the trainers of `tokenizers` break ties in another order in every process, and the samples
must come out the same. A word of the captions is one token as a rule (in byte-level BPE, a word may be
split where another word's merges come first); everything else falls apart into letters or bytes.
Used by `tiny_encoders.make_text_encoder`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable
from typing import Any

import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHARACTERS = [*string.ascii_lowercase, *string.digits, *string.punctuation]


def make_tokenizer(kind: str, captions: Iterable[str]) -> Any:
    """A tokenizer of the family `kind` (see `FAMILIES`) that knows the words of `captions`."""
    words = sorted({word for text in captions for word in re.findall("[a-z]{2,}", text.lower())})
    return FAMILIES[kind](words)


def _wordpiece(words: list[str]) -> Any:
    pieces = [*BERT_SPECIALS, *CHARACTERS, *(f"##{c}" for c in CHARACTERS), *words]
    return hf.BertTokenizer(vocab=_numbered(pieces))


def _unigram(words: list[str]) -> Any:
    # the more a piece covers, the better its score, so that whole words win over letters
    letters = [(c, -10.0) for c in ["▁", *CHARACTERS]]
    return hf.DebertaV2Tokenizer(
        vocab=[*((s, 0.0) for s in BERT_SPECIALS), *letters, *((f"▁{w}", -1.0) for w in words)]
    )


def _roberta(words: list[str]) -> Any:
    vocab, merges = _byte_pairs(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], [*(f"Ġ{w}" for w in words), *words])
    return hf.RobertaTokenizer(vocab=vocab, merges=merges)


def _clip(words: list[str]) -> Any:
    vocab, merges = _byte_pairs(["<|startoftext|>", "<|endoftext|>"], words, end="</w>")
    return hf.CLIPTokenizer(vocab=vocab, merges=merges)


def _modernbert(words: list[str]) -> Any:
    """ModernBERT has no tokenizer class of its own: byte-level BPE with BERT's special tokens."""
    vocab, merges = _byte_pairs(BERT_SPECIALS, [*(f"Ġ{w}" for w in words), *words])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(name, vocab[name]) for name in ("[CLS]", "[SEP]")],
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in BERT_SPECIALS}
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], **names
    )


def _byte_pairs(specials: list[str], words: list[str], end: str = "") -> tuple[dict[str, int], Any]:
    """A vocabulary of all bytes and the merges that build each word from left to right.

    `end` marks a word's last letter, as CLIP does it. The merges are pairs, whatever transformers annotates.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        left, *rest = [*word[:-1], word[-1] + end]
        for right in rest:
            merges[left, right] = None
            left += right
    pieces = [*specials, *alphabet, *(c + end for c in alphabet), *(a + b for a, b in merges)]
    return _numbered(pieces), list(merges)


def _numbered(pieces: list[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


FAMILIES: dict[str, Callable[[list[str]], Any]] = {
    "bert": _wordpiece,
    "roberta": _roberta,
    "deberta_v2": _unigram,
    "modernbert": _modernbert,
    "clip": _clip,
}
