"""What the values of a frozen part depend on, but for the rows: the name of its entry in the store."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmft.models.encoder import Encoder
from mmft.models.frozen_part import FrozenPart
from mmft.models.layers import module_layers
from mmft.models.text_encoder import TextEncoder

_PACKAGES = ("torch", "torchvision", "pillow", "timm", "transformers")
_LIBRARIES = {"mmft", "torch", "torchvision", "timm", "transformers", "peft", "bitsandbytes", "huggingface_hub"}
_VOLATILE = ("_name_or_path", "transformers_version")  # of a transformers config


def identity(part: FrozenPart, precision: str, reading: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the entry, a hash, and the facts it is made of beside the encoder's name.

    Args:
        part: on the device where it computes.
        precision: of the computation, `32-true`.
        reading: how an image is read; empty for texts.
    """
    encoder = part.encoder
    backbone: Any = encoder.backbone
    like = next(encoder.parameters())
    facts = {
        "layers": "all" if part.layer is None else part.layer - 1,
        "kept": list(part.names),
        "form": part.form,
        "class": f"{type(backbone).__module__}.{type(backbone).__qualname__}",
        "weights": _digest_of_weights(part),
        "modules": _digest_of_modules(part),
        "config": _config_of(backbone),
        "code": [*map(_digest_of_code, (type(backbone), type(encoder), *of_users(encoder))), _digest_of_own_code()],
        "reads": encoder.reads,
        "pool": encoder.pool,
        "input": dict(reading) if reading else _text_input(encoder),
        "precision": precision,
        "dtype": str(like.dtype),
        "exact": part.exact,
        "device": torch.cuda.get_device_name(like.device) if like.is_cuda else torch.backends.cpu.get_cpu_capability(),
        "matmul": torch.get_float32_matmul_precision(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }
    told = json.dumps(facts, sort_keys=True, default=str)
    return blake2b(told.encode(), digest_size=16).hexdigest(), {"encoder": encoder.source.name, **facts}


def of_users(encoder: Encoder) -> list[type]:
    """The classes of an encoder that neither mmft nor a library has, whose code may change under the same versions."""
    every = {kind for module in encoder.modules() for kind in type(module).__mro__}
    found = (kind for kind in every if kind.__module__.partition(".")[0] not in _LIBRARIES | sys.stdlib_module_names)
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


def says_what_it_reads(encoder: Encoder) -> bool:
    """Whether it is known what an encoder's output depends on: it has no code of a user, or says so by its `reads`."""
    own = of_users(encoder)
    return not own or any("reads" in vars(kind) for kind in own)


def _digest_of_weights(part: FrozenPart) -> str:
    digest = blake2b(digest_size=16)
    for name, tensor in _frozen_tensors(part.encoder, part.layer):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        if values.numel():
            digest.update(values.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _frozen_tensors(encoder: Encoder, layer: int | None) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of the frozen part, also those that no file holds, by name."""
    layers = encoder.layers()
    modules = module_layers(encoder.backbone)
    for name, parameter in encoder.named_parameters():
        if layer is None or layers[name] < layer:
            yield name, parameter
    for name, buffer in encoder.named_buffers():
        module = name.removeprefix("backbone.").rpartition(".")[0]
        if layer is None or modules.get(module, 0) < layer:
            yield name, buffer


def _digest_of_modules(part: FrozenPart) -> str:
    """Of the classes of the frozen modules and their plain settings: rates, numbers of heads, which kernel they use."""
    modules = module_layers(part.encoder.backbone)
    lines = []
    for name, module in part.encoder.backbone.named_modules():
        if part.layer is None or modules.get(name, part.layer) < part.layer:
            lines.append(f"{name} {type(module).__module__}.{type(module).__qualname__} {_settings(module)}")
    return blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def _settings(module: nn.Module) -> list[tuple[str, Any]]:
    plain = (bool, int, float, str, tuple)
    return sorted((k, repr(v)) for k, v in vars(module).items() if isinstance(v, plain) and k != "training")


def _config_of(backbone: Any) -> dict[str, Any]:
    """The library's own config of the architecture, and the implementation of attention."""
    config = getattr(backbone, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return {"default_cfg": str(getattr(backbone, "default_cfg", ""))}
    found = {name: value for name, value in config.to_dict().items() if name not in _VOLATILE}
    return found | {"attention": getattr(config, "_attn_implementation", None)}


def _text_input(encoder: Encoder) -> dict[str, Any]:
    assert isinstance(encoder, TextEncoder)
    padding = encoder.tokenizer.pad_token_id if encoder.fixed_length else None
    return {"longest": encoder.tokenizer.model_max_length, "positions": encoder.positions, "padding": padding}


def _digest_of_code(kind: type) -> str:
    """Of the source file of a class; its name where there is none."""
    try:
        return blake2b(Path(inspect.getfile(kind)).read_bytes(), digest_size=16).hexdigest()
    except (OSError, TypeError):
        return kind.__qualname__


@cache
def _digest_of_own_code() -> str:
    """Of what reads images and texts and computes encoders here."""
    root, digest = Path(__file__).parents[1], blake2b(digest_size=16)
    for file in sorted(path for folder in ("models", "data/images") for path in (root / folder).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
