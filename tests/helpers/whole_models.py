"""Tiny vision-language models with random weights, each with a processor, as folders of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from language_models import POSITIONS, _without_special_tokens
from tiny_tokenizers import make_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers.models.smolvlm import processing_smolvlm

processing_smolvlm.num2words = processing_smolvlm.num2words or str  # its processor asks for it, for videos alone
SIDE = 32
_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "max_position_embeddings": 4 * POSITIONS,
    "tie_word_embeddings": False,
}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIDE,
    "patch_size": 8,
}
_QWEN_VISION = {"depth": 3, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
_ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}:{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %} {{ c['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)


class Tiny:
    """What one architecture is built of: its tokens, its config and its processor."""

    def __init__(
        self,
        config: Callable[[Any], Any],
        processor: Callable[[Any], Any],
        image: str | None = "<image>",
        tokens: tuple[str, ...] = (),
        named: dict[str, str] | None = None,
    ) -> None:
        self.config, self.processor, self.image, self.tokens, self.named = config, processor, image, tokens, named or {}


def _clip(**more: Any) -> Any:
    return hf.CLIPVisionConfig(**_VISION, **more)


def _siglip(**more: Any) -> Any:
    return hf.SiglipVisionConfig(**_VISION, **more)


def _llama(tokenizer: Any, **more: Any) -> Any:
    return hf.LlamaConfig(**_TEXT, **_ids(tokenizer), **more)


def _ids(tokenizer: Any) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}


def _size(tokenizer: Any, name: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(name))


def _square(kind: str, **more: Any) -> Any:
    return getattr(hf, kind)(size={"height": SIDE, "width": SIDE}, **more)


def _clip_images(kind: str = "CLIPImageProcessor", **more: Any) -> Any:
    return getattr(hf, kind)(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_center_crop=True, **more
    )


def _idefics(kind: str) -> Tiny:
    return Tiny(
        lambda t: getattr(hf, f"{kind}Config")(
            text_config=_llama(t).to_dict() | {"model_type": "llama"},
            vision_config=dict(_VISION),
            image_token_id=_size(t, "<image>"),
            scale_factor=2,
            tie_word_embeddings=False,
            pad_token_id=t.pad_token_id,
        ),
        lambda t: getattr(hf, f"{kind}Processor")(
            **({"video_processor": hf.SmolVLMVideoProcessor()} if kind == "SmolVLM" else {}),
            image_processor=getattr(hf, f"{kind}ImageProcessor")(
                size={"longest_edge": 4 * SIDE}, max_image_size={"longest_edge": SIDE}
            ),
            tokenizer=t,
            image_seq_len=4,
            chat_template=_CHAT.replace("IMAGE", "<image>"),
        ),
        tokens=("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"),
    )


def _llava(kind: str, vision: Any, images: Callable[[], Any], strategy: str, more: dict[str, Any]) -> Tiny:
    return Tiny(
        lambda t: getattr(hf, f"{kind}Config")(
            vision_config=vision(),
            text_config=_llama(t),
            image_token_id=_size(t, "<image>"),
            image_token_index=_size(t, "<image>"),
            vision_feature_select_strategy=strategy,
            tie_word_embeddings=False,
            **more,
        ),
        lambda t: getattr(hf, f"{kind}Processor")(
            image_processor=images(),
            tokenizer=t,
            **({"num_image_tokens": 16, "video_processor": hf.LlavaOnevisionVideoProcessor()} if "One" in kind else {}),
            **({} if "One" in kind else {"patch_size": 8, "num_additional_image_tokens": int(strategy == "default")}),
            vision_feature_select_strategy=strategy,
            chat_template=_CHAT.replace("IMAGE", "<image>\n"),
        ),
        tokens=("<image>", "<video>"),
    )


def _qwen(kind: str) -> Tiny:
    vision: dict[str, Any] = dict(_QWEN_VISION)
    if kind == "Qwen2VL":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32}
    if kind == "Qwen2_5_VL":
        vision |= {"fullatt_block_indexes": [1], "window_size": 32}
    if kind == "Qwen3VL":  # many blocks: the largest list is to be theirs, not that of the deepstack's mergers
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16, "depth": 8}
    names = {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    names |= {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    older = kind == "Qwen2VL"
    return Tiny(
        lambda t: getattr(hf, f"{kind}Config")(
            text_config={**_TEXT, **_ids(t), "rope_parameters": dict(_ROPE), "head_dim": 16},
            vision_config=vision,
            tie_word_embeddings=False,
            **{name: _size(t, token) for name, token in names.items()},
        ),
        lambda t: getattr(hf, "Qwen2VLProcessor" if older else f"{kind}Processor")(
            image_processor=hf.Qwen2VLImageProcessor(
                patch_size=8, merge_size=2, temporal_patch_size=2, min_pixels=16 * 16, max_pixels=64 * 64
            ),
            video_processor=hf.Qwen3VLVideoProcessor() if kind == "Qwen3VL" else hf.Qwen2VLVideoProcessor(),
            tokenizer=t,
            chat_template=_CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
        ),
        tokens=tuple(names.values()),
        named={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
        | {"vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"},
    )


def _paligemma_images() -> Any:
    images = _square("SiglipImageProcessor")
    images.image_seq_length = 16
    return images


_GEMMA = {**_TEXT, "head_dim": 16, "tie_word_embeddings": True}

WHOLE_MODELS: dict[str, Tiny] = {
    "smolvlm": _idefics("SmolVLM"),
    "idefics3": _idefics("Idefics3"),
    "llava": _llava("Llava", _clip, _clip_images, "default", {}),
    "llava_next": _llava(
        "LlavaNext",
        _clip,
        lambda: _clip_images("LlavaNextImageProcessor", image_grid_pinpoints=[[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]),
        "default",
        {"image_grid_pinpoints": [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]},
    ),
    "llava_onevision": _llava(
        "LlavaOnevision",
        _siglip,
        lambda: _square("LlavaOnevisionImageProcessor", image_grid_pinpoints=[[SIDE, SIDE], [2 * SIDE, 2 * SIDE]]),
        "full",
        {
            "image_grid_pinpoints": [[SIDE, SIDE], [2 * SIDE, 2 * SIDE]],
            "vision_feature_layer": -1,
            "vision_aspect_ratio": "anyres_max_9",
        },
    ),
    "qwen2_vl": _qwen("Qwen2VL"),
    "qwen2_5_vl": _qwen("Qwen2_5_VL"),
    "qwen3_vl": _qwen("Qwen3VL"),
    "paligemma": Tiny(
        lambda t: hf.PaliGemmaConfig(
            vision_config=_siglip(vision_use_head=False),
            text_config=hf.GemmaConfig(**_GEMMA, **_ids(t)),
            image_token_id=_size(t, "<image>"),
            image_token_index=_size(t, "<image>"),
            projection_dim=32,
        ),
        lambda t: hf.PaliGemmaProcessor(image_processor=_paligemma_images(), tokenizer=t),
        tokens=("<image>", *(f"<loc{i:0>4}>" for i in range(1024)), *(f"<seg{i:0>3}>" for i in range(128))),
    ),
    "gemma3": Tiny(
        lambda t: hf.Gemma3Config(
            vision_config=_siglip(),
            text_config=hf.Gemma3TextConfig(**_GEMMA, **_ids(t), sliding_window=16),
            image_token_id=_size(t, "<image_soft_token>"),
            image_token_index=_size(t, "<image_soft_token>"),
            boi_token_index=_size(t, "<start_of_image>"),
            eoi_token_index=_size(t, "<end_of_image>"),
            mm_tokens_per_image=4,
        ),
        lambda t: hf.Gemma3Processor(
            image_processor=_square("Gemma3ImageProcessor"),
            tokenizer=t,
            image_seq_length=4,
            chat_template="{{ bos_token }}"
            + _CHAT.replace("IMAGE", "<start_of_image>").replace("'] }}", "'] | trim }}"),
        ),
        tokens=("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
        named={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    ),
    "internvl": Tiny(
        lambda t: hf.InternVLConfig(
            vision_config=hf.InternVLVisionConfig(
                **{**_VISION, "image_size": [SIDE, SIDE], "patch_size": [8, 8]}, use_mean_pooling=True
            ),
            text_config=hf.Qwen2Config(**_TEXT, **_ids(t)),
            image_token_id=_size(t, "<IMG_CONTEXT>"),
            image_seq_length=4,
            downsample_ratio=0.5,
            tie_word_embeddings=False,
        ),
        lambda t: hf.InternVLProcessor(
            image_processor=_square("GotOcr2ImageProcessor", crop_to_patches=False),
            video_processor=hf.InternVLVideoProcessor(),
            tokenizer=t,
            image_seq_length=4,
            chat_template=_CHAT.replace("IMAGE", "<IMG_CONTEXT>\n"),
        ),
        tokens=("<IMG_CONTEXT>", "<img>", "</img>", "<video>"),
        named={"start_image_token": "<img>", "end_image_token": "</img>"}
        | {"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"},
    ),
    "blip_2": Tiny(
        lambda t: hf.Blip2Config(
            vision_config=hf.Blip2VisionConfig(**_VISION).to_dict(),
            qformer_config=_VISION | {"num_hidden_layers": 2, "encoder_hidden_size": 32, "vocab_size": len(t)},
            text_config=hf.OPTConfig(**_TEXT, ffn_dim=64, word_embed_proj_dim=32, **_ids(t)).to_dict(),
            num_query_tokens=4,
            image_token_index=_size(t, "<image>"),
            image_token_id=_size(t, "<image>"),
        ),
        lambda t: hf.Blip2Processor(_square("BlipImageProcessor"), t, num_query_tokens=4),
        tokens=("<image>",),
    ),
}


def write_whole(kind: str, texts: Iterable[str], out: Path) -> Path:
    """Writes one of `WHOLE_MODELS` to the folder `out`, with a tokenizer that knows the words of `texts`."""
    tiny = WHOLE_MODELS[kind]
    base = make_tokenizer("roberta", texts)
    tokenizer: Any = hf.PreTrainedTokenizerFast(
        tokenizer_object=_without_special_tokens(base),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=tiny.named,
    )
    tokenizer.model_max_length = 4 * POSITIONS
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", *tiny.tokens], special_tokens=True)
    if kind.startswith(("llava", "blip")):
        start = [("<s>", tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=start)
    processor = tiny.processor(tokenizer)
    config = tiny.config(tokenizer)
    torch.manual_seed(0)
    model = hf.AutoModelForImageTextToText.from_config(config)
    for name, parameter in model.named_parameters():  # so that all matters: some start as zeros or ones
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out
