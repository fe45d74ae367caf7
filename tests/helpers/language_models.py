"""Tiny causal language models with random weights, and a tokenizer whose vocabulary is laid out by rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tiny_tokenizers import make_tokenizer

POSITIONS = 160
_BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_HEADS = {"num_key_value_heads": 1, "max_position_embeddings": POSITIONS}
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}: {{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)

LANGUAGE_MODELS: dict[str, Callable[..., Any]] = {
    "llama": lambda **own: hf.LlamaConfig(tie_word_embeddings=False, **_BLOCKS, **_HEADS, **own),
    "gpt2": lambda **own: hf.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=POSITIONS, **own),
    "qwen3": lambda **own: hf.Qwen3Config(head_dim=16, tie_word_embeddings=True, **_BLOCKS, **_HEADS, **own),
}
"""Whose tests are run for all of them."""

_OPT = {"word_embed_proj_dim": 32, "ffn_dim": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
OTHERS: dict[str, Callable[..., Any]] = {
    "gemma2": lambda **own: hf.Gemma2Config(head_dim=16, final_logit_softcapping=0.5, **_BLOCKS, **_HEADS, **own),
    "cohere": lambda **own: hf.CohereConfig(logit_scale=0.25, **_BLOCKS, **_HEADS, **own),
    "granite": lambda **own: hf.GraniteConfig(logits_scaling=8.0, **_BLOCKS, **_HEADS, **own),
    "opt": lambda **own: hf.OPTConfig(max_position_embeddings=POSITIONS, **_OPT, **own),
    "gpt_neox": lambda **own: hf.GPTNeoXConfig(max_position_embeddings=POSITIONS, **_BLOCKS, **own),
    "phi": lambda **own: hf.PhiConfig(**_BLOCKS, **_HEADS, **own),
    "gemma3": lambda **own: hf.Gemma3TextConfig(
        head_dim=16, sliding_window=4, layer_types=["sliding_attention", "full_attention"], **_BLOCKS, **_HEADS, **own
    ),
    "smollm3": lambda **own: hf.SmolLM3Config(**_BLOCKS, **_HEADS, **own),
}
"""Some that change their logits after the head, have a bias there, or compute positions and attention otherwise."""

UNPACKABLE: dict[str, Callable[..., Any]] = {
    "bloom": lambda **own: hf.BloomConfig(hidden_size=32, n_layer=2, n_head=2, **own),
    "mamba": lambda **own: hf.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, **own),
}
"""Some that cannot keep the rows of one sequence apart, as OPT."""


def write_language_model(kind: str, texts: Iterable[str], out: Path, chat: bool = False) -> Path:
    """Writes one of these language models to `out`, with a tokenizer that knows the words of `texts`."""
    base = make_tokenizer("roberta", texts)
    tokenizer: Any = hf.PreTrainedTokenizerFast(
        tokenizer_object=_without_special_tokens(base), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.model_max_length = POSITIONS
    if chat:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = _CHAT
    tokenizer.save_pretrained(out)
    torch.manual_seed(0)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = (LANGUAGE_MODELS | OTHERS | UNPACKABLE)[kind](vocab_size=len(tokenizer), **ids)
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(out)
    return out


def _without_special_tokens(tokenizer: Any) -> Any:
    """The tokenizer as causal language models have it: a text's tokens alone."""
    from tokenizers import processors

    rules = tokenizer.backend_tokenizer
    rules.post_processor = processors.ByteLevel(trim_offsets=False)
    return rules


def in_16_bits(folder: Path, out: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A copy of a language model's folder with weights in 16 bits."""
    model: Any = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    hf.AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    model.save_pretrained(out)
    return out
