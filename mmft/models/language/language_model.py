"""Causal language models of transformers as text encoders: the whole `...ForCausalLM`, with its head.

Legend: B batch, L text tokens, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmft.clock import importing
from mmft.config.plugins import allowed
from mmft.errors import UserError, first_line
from mmft.models.frozen_layers import FrozenLayers
from mmft.models.language.answer_loss import answer_log_probs
from mmft.models.language.packing import Packing, counted, plan_packing
from mmft.models.language.prompt_tokenizer import PromptTokenizer
from mmft.models.layers import evaluated
from mmft.models.loading.loaded import check_weights
from mmft.models.loading.source import Source, check_alone, resolve
from mmft.models.loading.trust import check_folder
from mmft.models.text_encoder import KEY, TextEncoder, embeddings
from mmft.models.tokenizer import load_tokenizer

_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


class LanguageModel(TextEncoder):
    """A causal language model with its head.

    As a text encoder it is the transformer without the head. `backbone` is the whole model, so that its layers, tuning
    methods and files include the head.

    Attributes:
        key: of the config, which names the model.
        tokenizer: turns a row's text into the tokens of its prompt.
        packs: whether rows are read side by side in few sequences; see `start_packing`.
        logit_scale: what the head's output is multiplied by; 1 for most models.
        logit_soft_cap: then x becomes soft_cap tanh(x / soft_cap); None for most models.
    """

    tokenizer: PromptTokenizer
    packs = False

    def __init__(
        self, backbone: Any, source: Source, tokenizer: Any, max_length: int | None, key: str = f"{KEY}.name"
    ) -> None:
        super().__init__(backbone, source, tokenizer, max_length, "last")
        self.tokenizer = PromptTokenizer(tokenizer)
        self.key = key
        self._find_changes_of_logits()
        if _tied(backbone):
            self.register_state_dict_post_hook(_without_tied)
            self.register_load_state_dict_pre_hook(_with_tied)

    @staticmethod
    def reader(backbone: Any) -> Any:
        """The transformer without its head."""
        return backbone.base_model

    @property
    def never_written(self) -> list[int]:
        """Ids that stand for something else than text, which no answer has."""
        backbone: Any = self.backbone
        image = getattr(backbone.config, "image_token_id", None)
        return [] if image is None else [int(image)]

    @property
    def head(self) -> Any:
        """The linear layer from hidden states (..., D) to logits (..., V), without scale and soft cap."""
        backbone: Any = self.backbone
        return backbone.get_output_embeddings()

    def embed(self, ids: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, D) as `inputs_embeds`."""
        backbone: Any = self.backbone
        found: Tensor = backbone.get_input_embeddings()(ids)
        return found

    def end_embedding(self) -> Tensor:
        """(D,) the embedding of the token that ends a text, where a vector that stands for nothing begins.

        Zeros are no input: an RMSNorm's gradient is 1 / sqrt(eps) there, in a sequence's first place in every layer.
        """
        with torch.no_grad():
            found: Tensor = self.embed(torch.tensor([self.tokenizer.eos_token_id]))[0].float()
        return found

    def hidden(self, inputs: Mapping[str, Any], mask: Tensor) -> Tensor:
        """Inputs of the model, `inputs_embeds` (B, T, D) or `input_ids` (B, T) -> (B, T, D) last hidden states.

        Args:
            inputs: padded on the right.
            mask: (B, T) bool, True = real token.
        """
        if self.packs:
            packing = plan_packing(mask, self.positions)
            return packing.unpack(self._read(self._packed(inputs, mask, packing)), like=mask)
        return self._read({**inputs, "attention_mask": mask.long()})

    def own_positions(self, inputs: Mapping[str, Any], mask: Tensor, behind: int = 0) -> Tensor:  # noqa: ARG002
        """(..., B, S + A) positions that the model has for tokens (B, S) and for A = `behind` of text behind them."""
        return counted(mask, behind)

    def _read(self, given: Mapping[str, Any]) -> Tensor:
        """Arguments of the transformer without its head -> (..., D) last hidden states."""
        backbone: Any = self.backbone
        found: Tensor = backbone.base_model(**given, use_cache=False).last_hidden_state
        return found

    def _packed(self, inputs: Mapping[str, Any], _: Tensor, packing: Packing) -> dict[str, Any]:
        """Arguments of `_read` for packed rows."""
        return {"inputs_embeds": packing.pack(inputs["inputs_embeds"]), "position_ids": packing.positions}

    def log_probs(self, hidden: Tensor, tokens: Tensor, smoothing: float = 0.0) -> Tensor:
        """(T,) log-probability of each token (T,) at the hidden state (T, D) that predicts it.

        `smoothing` is as in `answer_log_probs`.
        """
        head, scale, soft_cap = self.head, self.logit_scale, self.logit_soft_cap
        return answer_log_probs(
            hidden, head.weight, head.bias, tokens, smoothing=smoothing, scale=scale, soft_cap=soft_cap
        )

    @torch.no_grad()
    def start_packing(self, inputs: Mapping[str, Any], mask: Tensor) -> None:
        """From now on `hidden` reads rows side by side in few sequences, with the same result.

        Args:
            inputs: of several rows, to try it with.
            mask: of the same.

        Raises:
            UserError: this model lets rows of one sequence see each other, or counts their positions on.
        """
        backbone: Any = self.backbone
        self.packs, why = False, "it takes no positions"
        if "position_ids" in inspect.signature(backbone.base_model.forward).parameters:
            tokens = int(mask.sum())
            packing = plan_packing(mask, tokens, usual=tokens)  # one sequence
            with evaluated(self):
                padded = self.hidden(inputs, mask)[mask]
                packed = packing.unpack(self._read(self._packed(inputs, mask, packing)), like=mask)[mask]
            largest, error = float(padded.abs().max()), float((packed - padded).abs().max())
            self.packs = error <= 1e-4 * max(1.0, largest)
            why = f"hidden states of up to {largest:.2g} change by {error:.2g}"
        if not self.packs:
            raise UserError(
                f"task.packing=true: {type(self.backbone).__name__} ({self.key}={self.source.name}) does not keep "
                f"rows apart that are packed into one sequence: {why}. Type task.packing=false"
            )

    @torch.no_grad()
    def _find_changes_of_logits(self) -> None:
        """Sets factor and soft cap with which `log_probs` gives the model's log-probabilities.

        Those of its config; or none, where a whole model does not read what its language model's config says (LLaVA).

        Raises:
            UserError: neither does.
        """
        where, kind = f"{self.key}={self.source.name}", type(self.backbone).__name__
        if not isinstance(self.head, nn.Linear):
            raise UserError(f"{where}: {kind} has no linear head of words. Choose another")
        ids = torch.arange(4).unsqueeze(0)  # (1, 4)
        with evaluated(self.backbone):
            logits = self.backbone(input_ids=ids, use_cache=False).logits[0]  # (4, V)
            hidden = self.hidden({"input_ids": ids}, torch.ones_like(ids, dtype=torch.bool))[0]  # (4, D)
            wanted, tokens = logits.log_softmax(-1).max(-1)  # (4,) each; softmax depends on all logits
        for changes in (_changes_of_logits(self.backbone), (1.0, None)):
            self.logit_scale, self.logit_soft_cap = changes
            if torch.allclose(wanted, self.log_probs(hidden, tokens).to(wanted.dtype), rtol=1e-3, atol=1e-4):
                return
        raise UserError(
            f"{where}: {kind} changes its logits after its linear head in a way that task=generation does not know. "
            "Choose another model"
        )


def _changes_of_logits(backbone: Any) -> tuple[float, float | None]:
    """Factor and soft cap of the logits after the head, as the config of Cohere, Granite or Gemma 2 has them."""
    config = backbone.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    scale *= getattr(config, "lm_head_multiplier", None) or 1.0
    return float(scale), getattr(config, "final_logit_softcapping", None)


def build_language_model(
    name: str,
    max_length: int | None,
    pool: str,
    pretrained: bool,
    source: Source | None = None,
    frozen: FrozenLayers | None = None,
) -> LanguageModel:
    """Builds the causal language model named in the config as text encoder, with its tokenizer.

    Args:
        name: a folder or hub name.
        max_length: number of tokens to which prompts are truncated; None for the model's own maximum, at most 512.
        pool: `auto` or `last`.
        pretrained: False for random weights.
        source: the resolved source, if already known.
        frozen: how its linear layers are kept if they are never trained; None in float32.

    Raises:
        UserError: it cannot be found or built, is no causal language model, or its tokenizer does not fit.
    """
    source = source or resolve(name, KEY + ".name")
    check_alone(source, KEY)
    if pool not in ("auto", "last"):
        raise UserError(f"{KEY}.pool={pool} changes nothing with task=generation, which reads tokens. Leave it out")
    backbone = _load(source, pretrained, frozen)
    tokenizer = load_tokenizer(source, embeddings(backbone), KEY)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{KEY}.name={name}: its tokenizer has no end-of-text token (eos_token), which ends an answer. Name one in "
            "its tokenizer_config.json"
        )
    return LanguageModel(backbone, source, tokenizer, max_length)


def _load(source: Source, pretrained: bool, frozen: FrozenLayers | None) -> Any:
    """The whole causal language model, in float32 but for what is kept small."""
    where = f"{KEY}.name={source.name}"
    check_folder(source, KEY)
    with importing():
        import transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    named = source.config.get("architectures") or ()
    if source.library != "transformers" or (named and not any(name.endswith(_ENDINGS) for name in named)):
        what = named[0] if named else f"a {source.library} model"
        raise UserError(
            f"{where} is no causal language model but {what}; task=generation writes answers with one. Type the folder "
            "or name of one, such as HuggingFaceTB/SmolLM2-135M-Instruct, or another task"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(source.folder, trust_remote_code=allowed())
        models: Any = transformers.AutoModelForCausalLM
        if not pretrained:
            model = models.from_config(config, dtype=torch.float32, trust_remote_code=allowed())
        else:
            from mmft.models.loading.frozen_loading import load_model

            parts_of = None if frozen is None else partial(_parts, frozen)
            model, info = load_model(models, source.folder, config, parts_of, trust_remote_code=allowed())
            check_weights(info, where)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: transformers cannot load it: {first_line(error)}") from error
    return model


def _parts(frozen: FrozenLayers, model: Any) -> list[tuple[nn.Module, FrozenLayers]]:
    """The modules of which layers are kept small, and how; the head, often tied to the embedding, is not quantized."""
    return [(model, frozen), (model.get_output_embeddings(), FrozenLayers())]


def _tied(model: nn.Module) -> dict[str, str]:
    """The name of each parameter that is another one once more, and that one's name; of the head and the embedding."""
    names: dict[int, str] = {}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first for name, parameter in every if (first := names.setdefault(id(parameter), name)) != name}


def _without_tied(model: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """After `state_dict`: a tied weight is in it once, as safetensors requires."""
    for name in _tied(model):
        del state[prefix + name]


def _with_tied(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Before `load_state_dict`: a tied weight has both its names."""
    for name, first in _tied(model).items():
        if prefix + first in state:
            state[prefix + name] = state[prefix + first]
