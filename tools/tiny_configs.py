"""Tiny configs of transformers' architectures, made by rule: what a config calls width or layers becomes small."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from mmft.errors import first_line

MOST_PARAMETERS = 30_000_000


class NoTinyConfig(Exception):
    """The rule gives no small config that the architecture can be built from."""


# What a config may call it, and the value; a list keeps its length and gets the value (or, of widths, rising ones).
_SIZES = {
    8: ("embedding_size", "attention_window", "position_buckets", "num_buckets", "block_size", "kv_lora_rank"),
    16: (
        "d_kv",
        "head_dim",
        "d_head",
        "attention_head_size",
        "qk_nope_head_dim",
        "v_head_dim",
        "q_lora_rank",
        "state_size",
    ),
    32: (
        "hidden_size",
        "d_model",
        "n_embd",
        "dim",
        "embed_dim",
        "embedding_dim",
        "encoder_hidden_size",
        "neck_hidden_sizes",
    ),
    64: (
        *(
            "intermediate_size",
            "d_ff",
            "d_inner",
            "n_inner",
            "hidden_dim",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
            "ffn_dim",
        ),
        *("moe_intermediate_size", "shared_expert_intermediate_size", "ffn_hidden_size", "mlp_dim"),
    ),
    1: ("n_group", "topk_group", "num_experts_per_tok", "n_shared_experts", "first_k_dense_replace", "decoder_layers"),
    2: (
        *(
            "num_hidden_layers",
            "n_layer",
            "n_layers",
            "num_layers",
            "encoder_layers",
            "num_decoder_layers",
            "num_heads",
        ),
        *("num_attention_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads"),
        *("window_size", "num_key_value_heads", "n_routed_experts", "num_experts", "num_local_experts", "n_experts"),
    ),
    128: ("max_position_embeddings", "n_positions", "max_encoder_position_embeddings", "max_sequence_length"),
}
_VALUES = {name: value for value, names in _SIZES.items() for name in names}
_OF_LISTS = {
    "hidden_sizes": 8,
    "depths": 1,
    "num_heads": 2,
    "num_attention_heads": 1,
    "embed_dims": 8,
    "layer_types": None,
}

_OWN: dict[str, dict[str, Any]] = {  # where the rule is not enough
    "bit": {"num_groups": 4},
    "codegen": {"rotary_dim": 8},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    "gpt_neo": {"attention_types": [[["global"], 2]]},
    "gptj": {"rotary_dim": 8},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16]},
}


def tiny_config(config_class: Any, **own: Any) -> Any:
    """A small config of a class.

    Raises:
        NoTinyConfig: it cannot be made by rule.
    """
    try:
        default = config_class()
        known = default.to_dict()
        values = {name: _small(name, known[name]) for name in known if name in _VALUES or name in _OF_LISTS}
        if isinstance(known.get("layer_types"), list):
            values["layer_types"] = known["layer_types"][: values.get("num_hidden_layers", 2)]
        sizes = {"image_size": 64} if isinstance(known.get("image_size"), int | list | tuple) else {}
        known_own = {name: value for name, value in own.items() if name in known}
        return config_class(**(values | sizes | known_own | _OWN.get(config_class.model_type, {})))
    except Exception as error:
        raise NoTinyConfig(first_line(error)) from error


def _small(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple) and all(isinstance(one, int) for one in value):
        if name == "hidden_sizes":
            return [8 * 2 ** (place // 2) for place in range(len(value))]
        return [_OF_LISTS.get(name) or _VALUES[name]] * len(value)
    return _VALUES.get(name, value) if isinstance(value, int) and not isinstance(value, bool) else value


def write_transformers(config: Any, model_class: Any, reads: str, folder: Path) -> None:
    """Writes a model with random weights.

    Raises:
        NoTinyConfig: it cannot be built, is not small, or does not run.
    """
    given = {
        "text": {"input_ids": torch.ones(1, 8, dtype=torch.long)},
        "image": {"pixel_values": torch.ones(2, 3, 64, 64)},
    }
    try:
        with torch.device("meta"):
            numbers = sum(p.numel() for p in model_class._from_config(config).parameters())
        if numbers > MOST_PARAMETERS:
            raise NoTinyConfig(f"{numbers / 1e6:.0f} million parameters")
        torch.manual_seed(0)
        model = model_class._from_config(config).eval()
        plain = model.get_encoder() if config.is_encoder_decoder and reads == "text" else model
        parameters = inspect.signature(plain.forward).parameters.values()
        if len([p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]) < 2:
            with torch.no_grad():
                plain(**given[reads])
        model.save_pretrained(folder)
    except NoTinyConfig:
        raise
    except Exception as error:
        raise NoTinyConfig(first_line(error)) from error
