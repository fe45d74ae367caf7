"""Pairs in open_clip's format, as modules of transformers and timm: the package open_clip is not needed."""

from __future__ import annotations

import logging
import math
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmft.clock import importing
from mmft.errors import UserError, first_line
from mmft.models.loading.source import Source, read_json, resolve
from mmft.models.loading.trust import check_folder
from mmft.models.pairs.facts import FAMILIES
from mmft.models.pairs.open_clip_config import model_config, text_kind
from mmft.models.pairs.open_clip_names import to_ours

log = logging.getLogger(__name__)
# By preference, as open_clip has it.
_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "model.pth",
)


class OpenClipPair(nn.Module):
    """The parts of a pair, whose names in the state dict `to_open_clip` translates.

    Args:
        source: a folder of open_clip, checked by `refusal`.
        key: the config key of the name, for messages.

    Raises:
        UserError: timm or transformers cannot build an encoder.
    """

    def __init__(self, source: Source, key: str) -> None:
        super().__init__()
        model = model_config(source)
        image, text, width = model["vision_cfg"], model["text_cfg"], model["embed_dim"]
        quick = bool(model.get("quick_gelu"))
        try:
            if image.get("timm_model_name"):
                self.image, self.image_projection = _timm_encoder(image, width)
            else:
                self.image = _vision_transformer(image, quick)
                self.image_projection = nn.Linear(self.image.config.hidden_size, width, bias=False)
            self.text, self.text_projection = _text_encoder(source, text, width, quick, key)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{key}={source.name}: its encoders cannot be built: {first_line(error)}") from error
        self.log_scale = nn.Parameter(torch.tensor(float(model.get("init_logit_scale", math.log(1 / 0.07)))))
        bias = model.get("init_logit_bias")
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))


def load_whole(source: Source, pretrained: bool, key: str) -> OpenClipPair:
    """The pair in float32, on the CPU, in eval mode.

    Args:
        source: a folder of open_clip, checked by `refusal`; without weights only if not `pretrained`.
        pretrained: False for random weights.
        key: the config key of the name, for messages.

    Raises:
        UserError: loading it would run code, it cannot be built, or its weights do not fit.
    """
    check_folder(source, key)
    pair = OpenClipPair(source, key)
    image = model_config(source)["vision_cfg"]
    if (rate := image.get("patch_dropout")) and not image.get("timm_model_name"):
        log.warning("%s=%s: vision_cfg.patch_dropout=%s is not applied in training", key, source.name, rate)
    if pretrained:
        _fill(pair, source, f"{key}={source.name}")
    return pair.eval()


def _fill(pair: OpenClipPair, source: Source, where: str) -> None:
    file = next((source.folder / name for name in _FILES if (source.folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{where}: its folder has no weights. Add open_clip_model.safetensors.")
    try:
        state = to_ours(_read(file), model_config(source))
    except KeyError as error:
        raise UserError(
            f"{where}: its {file.name} has a weight that open_clip_config.json does not: {error}."
        ) from None
    except Exception as error:
        raise UserError(f"{where}: its {file.name} cannot be read: {first_line(error)}") from error
    state = {name: value.float() for name, value in state.items()}
    for name in ("log_scale", "bias"):
        if name in state:
            state[name] = state[name].reshape(())
    if pair.bias is not None:
        state.setdefault("bias", torch.zeros(()))  # so does open_clip
    own = pair.state_dict()
    if missing := sorted(own.keys() - state.keys()):
        raise UserError(f"{where}: {len(missing)} weights are not in its files, first {missing[0]}.")
    for name, value in state.items():
        if name not in own:
            raise UserError(f"{where}: its {file.name} has a weight that open_clip_config.json does not: {name}.")
        if own[name].shape != value.shape:
            shapes = f"{tuple(value.shape)}, but open_clip_config.json says {tuple(own[name].shape)}"
            raise UserError(f"{where}: in its {file.name}, {name} has the shape {shapes}.")
    pair.load_state_dict(state)


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors in a file, without the prefix `module.` that training on several devices leaves."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(file)
    else:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(file, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    return {name.removeprefix("module."): value for name, value in state.items()}


def _vision_transformer(image: dict[str, Any], quick: bool) -> Any:
    """open_clip's own vision transformer, which is CLIP's."""
    with importing():
        import transformers
    size, width = image.get("image_size", 224), image.get("width", 768)
    config = transformers.CLIPVisionConfig(
        image_size=size[0] if isinstance(size, list) else size,
        patch_size=image.get("patch_size", 16),
        **_blocks(image, width, width // image.get("head_width", 64), quick),
    )
    model = transformers.CLIPVisionModel(config)
    return getattr(model, "vision_model", model)


def _blocks(part: dict[str, Any], width: int, heads: int, quick: bool) -> dict[str, Any]:
    approximate = (part.get("act_kwargs") or {}).get("approximate", "none")
    gelu = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}[approximate]
    return {
        "hidden_size": width,
        "num_hidden_layers": part.get("layers", 12),
        "num_attention_heads": heads,
        "intermediate_size": int(width * part.get("mlp_ratio", 4.0)),
        "hidden_act": "quick_gelu" if quick else gelu,
        "layer_norm_eps": (part.get("norm_kwargs") or {}).get("eps", 1e-5),
    }


def _timm_encoder(image: dict[str, Any], width: int) -> tuple[Any, nn.Module]:
    """A timm model with its own pooling, and what follows it: both as open_clip makes them."""
    import timm
    from timm.layers.mlp import Mlp

    name, pool, projection = image["timm_model_name"], image.get("timm_pool", "avg"), image.get("timm_proj", "linear")
    if not timm.is_model(name.split(".")[0]):
        raise UserError(f"vision_cfg.timm_model_name={name} is not an architecture of timm.")
    given = {"drop_path_rate": image.get("timm_drop_path"), "patch_drop_rate": image.get("patch_dropout") or None}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if projection in (None, "", "none"):  # a classifier of the architecture's is the projection, if there is one
        classes = 0 if projection == "none" else width
        return timm.create_model(name, num_classes=classes, global_pool=pool, **options), nn.Identity()
    trunk: Any = timm.create_model(name, **options)
    trunk.reset_classifier(0, **({"global_pool": pool} if pool else {}))
    drop, bias = image.get("timm_drop", 0.0), bool(image.get("timm_proj_bias"))
    if projection == "linear":
        layers = {"drop": nn.Dropout(drop), "proj": nn.Linear(trunk.num_features, width, bias=bias)}
    else:
        layers = {"mlp": Mlp(trunk.num_features, 2 * width, width, drop=(drop, 0), bias=(True, bias))}
    return trunk, nn.Sequential(OrderedDict(layers))


def _text_encoder(source: Source, text: dict[str, Any], width: int, quick: bool, key: str) -> tuple[Any, nn.Module]:
    with importing():
        import transformers
    kind = text_kind(text)
    if kind == "transformers":
        return _transformers_text(source, text, width, key)
    own = text.get("width", 512)
    common = {
        **_blocks(text, own, text.get("heads", 8), quick),
        "vocab_size": text.get("vocab_size", 49408),
        "max_position_embeddings": text.get("context_length", 77),
        "bos_token_id": None,
        "pad_token_id": None,
    }
    ends = text.get("proj_type", "linear") != "none"
    projection = nn.Linear(own, width, bias=bool(text.get("proj_bias"))) if ends else nn.Identity()
    if kind == "bidirectional":
        model: Any = transformers.SiglipTextModel(
            transformers.SiglipTextConfig(**common, eos_token_id=None, projection_size=width)
        )
        model = getattr(model, "text_model", model)
        model.head = projection
        return model, nn.Identity()
    if kind == "eos":  # MetaCLIP 2's differs from CLIP's in that it pools at this token even if it is number 2
        config = transformers.MetaClip2TextConfig(**common, eos_token_id=text.get("eos_id", 2))
        model = transformers.MetaClip2TextModel(config)
    else:
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**common, eos_token_id=2))  # 2: at the highest
    return getattr(model, "text_model", model), projection


def _transformers_text(source: Source, text: dict[str, Any], width: int, key: str) -> tuple[Any, nn.Module]:
    """A text transformer of the library, and its projection."""
    import transformers

    folder = text_folder(source, text["hf_model_name"], key)
    config: Any = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config.use_cache = False
    if config.is_encoder_decoder:
        model = transformers.AutoModel.from_config(config, dtype=torch.float32).encoder
    else:
        pooled = text.get("hf_pooler_type", "mean_pooler") == "cls_pooler"
        model = transformers.AutoModel.from_config(config, dtype=torch.float32, add_pooling_layer=pooled)
    own, kind = config.hidden_size, text.get("hf_proj_type", "mlp")
    if kind == "mlp":
        between = (own + width) // 2
        layers = (nn.Linear(own, between, bias=False), nn.GELU(), nn.Linear(between, width, bias=False))
        return model, nn.Sequential(*layers)
    if kind is None and own != width:
        raise UserError(f"{key}={source.name}: text_cfg.hf_proj_type=null, but {own} is not embed_dim={width}.")
    return model, nn.Linear(own, width, bias=False) if kind == "linear" else nn.Identity()


def text_folder(source: Source, name: str, key: str) -> Path:
    """The folder with the config.json of `text_cfg.hf_model_name`: the pair's own if it has one.

    Raises:
        UserError: it can be found nowhere, or loading it would run code.
    """
    if read_json(source.folder / "config.json").get("model_type") not in (None, *FAMILIES):
        folder = source.folder
    elif Path(name).is_dir():
        folder = resolve(name, key).folder
    else:
        from huggingface_hub import hf_hub_download

        try:
            folder = Path(hf_hub_download(name, "config.json")).parent
        except Exception as error:  # noqa: BLE001 - the hub's errors have no common base: network, name, permission
            raise UserError(
                f"{key}={source.name}: its text encoder is {name} (text_cfg.hf_model_name), whose config.json the hub "
                f"did not provide ({type(error).__name__}). Copy that file into {source.folder}."
            ) from None
    check_folder(Source(name, folder, "transformers"), key)
    return folder


def save_missing_files(source: Source, backbone: Any, tokenizer: Any, folder: Path) -> None:
    """Adds to copies of the small files what they need to be loaded without the hub and the package open_clip.

    Args:
        source: the pair.
        backbone: of its text encoder.
        tokenizer: of its text encoder.
        folder: with copies of the pair's small files.
    """
    if text_kind(model_config(source)["text_cfg"]) == "transformers" and not (folder / "config.json").is_file():
        backbone.config.save_pretrained(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "merges.txt")):
        tokenizer.save_pretrained(folder)
