"""Trains one step with a tiny random encoder of each architecture, and lists what came of it: docs/architectures.md.

    python tools/architectures.py                        all (about half an hour on two cores)
    python tools/architectures.py bert swin timm/levit   these, printed

Every text and image model that transformers' `AutoModel` maps, and the smallest model of every family of timm. A config
is made tiny by rule: what it calls width, layers or heads becomes small. An architecture for which the rule gives no
small, working config is listed as not tried. The step is `mmft train` itself, in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import logging
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import timm
import torch
import transformers as hf
from make_shapes import captions, make_shapes
from tiny_tokenizers import make_tokenizer
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import MmftError

TABLE = Path(__file__).parents[1] / "docs" / "architectures.md"
MOST_PARAMETERS, SECONDS = 30_000_000, 120
TRAINS, REFUSED, NOT_TRIED, FAILS = "trains", "refused", "not tried", "FAILS"


class Outcome(NamedTuple):
    """What came of one architecture: the model's class, one of the words above, and the sentence that explains it."""

    kind: str
    model: str
    what: str
    why: str = ""


class NoTinyConfig(Exception):
    """The rule gives no small config that the architecture can be built from."""


# ---------------------------------------------------------------- tiny configs

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
        return config_class(**(values | sizes | {name: value for name, value in own.items() if name in known}))
    except Exception as error:
        raise NoTinyConfig(f"{type(error).__name__}: {error}") from error


def _small(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple) and all(isinstance(one, int) for one in value):
        if name == "hidden_sizes":
            return [8 * 2 ** (place // 2) for place in range(len(value))]
        return [_OF_LISTS.get(name) or _VALUES[name]] * len(value)
    return _VALUES.get(name, value) if isinstance(value, int) and not isinstance(value, bool) else value


def write_transformers(config: Any, model_class: Any, folder: Path) -> None:
    """Writes a model with random weights.

    Raises:
        NoTinyConfig: it cannot be built, or is not small.
    """
    try:
        with torch.device("meta"):
            parameters = sum(p.numel() for p in model_class._from_config(config).parameters())
    except Exception as error:
        raise NoTinyConfig(f"{type(error).__name__}: {error}") from error
    if parameters > MOST_PARAMETERS:
        raise NoTinyConfig(f"{parameters / 1e6:.0f} million parameters")
    try:
        torch.manual_seed(0)
        model_class._from_config(config).save_pretrained(folder)
    except Exception as error:
        raise NoTinyConfig(f"{type(error).__name__}: {error}") from error


# ---------------------------------------------------------------- the architectures


def transformers_kind(model_type: str) -> tuple[str, Any, Any] | None:
    """`text` or `image`, config class and model class of a model type; None if it reads both or something else."""
    try:
        config_class = hf.CONFIG_MAPPING[model_type]
        mapped: Any = hf.AutoModel._model_mapping[config_class]
        model_class = mapped[0] if isinstance(mapped, tuple) else mapped
        accepts = set(inspect.signature(model_class.forward).parameters)
    except (KeyError, ValueError, ImportError):  # mapped, but not in this version, or not without another package
        return None
    reads = [part for part, name in (("text", "input_ids"), ("image", "pixel_values")) if name in accepts]
    others = {"input_features", "input_values", "pixel_values_videos", "bbox", "visual_embeds"} & accepts
    return (reads[0], config_class, model_class) if len(reads) == 1 and not others else None


def timm_kinds(wanted: list[str] | None) -> dict[str, str]:
    """`timm/family` -> the family's smallest architecture; None for all families."""
    found = {}
    for family in timm.list_modules() if wanted is None else [name.removeprefix("timm/") for name in wanted]:
        sizes = {}
        for name in timm.list_models(module=family)[:40]:
            with contextlib.suppress(Exception), torch.device("meta"):
                sizes[name] = sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters())
        if sizes:
            found[f"timm/{family}"] = min(sizes, key=lambda name: (sizes[name], name))
    return found


class Bench:
    """A folder with rows and the usual encoders, in which architectures are tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes = make_shapes(folder / "shapes")
        self.tokenizer = make_tokenizer("bert", captions())
        self.tried = 0

    def transformers(self, kind: str, reads: str, config_class: Any, model_class: Any) -> Outcome:
        """Tries a model type of transformers."""
        name = model_class.__name__
        out = self._new()
        special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 0}
        own = {"vocab_size": len(self.tokenizer), **special} if reads == "text" else {}
        try:
            write_transformers(tiny_config(config_class, **own), model_class, out)
        except NoTinyConfig as error:
            return Outcome(kind, name, NOT_TRIED, str(error))
        if reads == "text":
            self.tokenizer.save_pretrained(out)
        return Outcome(kind, name, *self._train(out, reads, ()))

    def timm(self, family: str, architecture: str) -> Outcome:
        """Tries an architecture of timm, with images of 64 pixels where it takes them, else of its own size."""
        out = self._new()
        own = timm.get_pretrained_cfg(architecture)
        config = {
            "architecture": architecture,
            "pretrained_cfg": {"input_size": own.input_size if own else (3, 224, 224)},
        }
        (out / "config.json").write_text(json.dumps(config))
        what = self._train(out, "image", ("model.image_encoder.pretrained=false",))
        if what[0] == REFUSED:
            what = self._train(
                out, "image", ("model.image_encoder.pretrained=false", "model.image_encoder.image_size=null")
            )
        return Outcome(family, architecture, *what)

    def _new(self) -> Path:
        self.tried += 1
        out = self.folder / f"encoder_{self.tried}"
        out.mkdir()
        return out

    def _train(self, encoder: Path, reads: str, more: tuple[str, ...]) -> tuple[str, str]:
        self.tried += 1
        size = () if reads == "text" else ("model.image_encoder.image_size=64",)
        quick = ("data.limit=8", "data.batch_size=4", "data.max_bad_fraction=1", "trainer.max_steps=1")
        quiet = ("callbacks.progress=none", "modality_report=false", "optim.lr=1e-3")
        typed = [*self.shapes.overrides, f"model.{reads}_encoder.name={encoder}", *size, *quick, *quiet, *more]
        try:
            with _quiet(), _limited(SECONDS):
                train(compose("train", typed), self.folder / f"run_{self.tried}")
        except MmftError as error:
            return REFUSED, str(error).replace(str(encoder), "FOLDER").replace(
                f"model.{reads}_encoder.name=FOLDER: ", ""
            )
        except TimeoutError:
            return NOT_TRIED, f"takes more than {SECONDS} seconds"
        except Exception as error:  # noqa: BLE001 - what the table is for
            return FAILS, f"{type(error).__name__}: {error}"
        return TRAINS, ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcomes(wanted: list[str] | None = None) -> Iterator[Outcome]:
    """Tries architectures by name: model types of transformers, and `timm/FAMILY`; None for all."""
    logging.disable(logging.WARNING)
    types = list(MODEL_MAPPING_NAMES) if wanted is None else [name for name in wanted if "/" not in name]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name in sorted(types):
            if (kind := transformers_kind(name)) is not None:
                yield bench.transformers(name, *kind)
        families = timm_kinds(None if wanted is None else [name for name in wanted if "/" in name])
        for name, architecture in families.items():
            yield bench.timm(name, architecture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    for outcome in outcomes(parser.parse_args().names or None):
        print(*outcome, sep="\t", flush=True)


if __name__ == "__main__":
    main()
