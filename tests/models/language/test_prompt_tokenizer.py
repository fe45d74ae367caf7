"""Prompts: the place of the image, chat templates, and what is cut."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import transformers as hf
from language_models import write_language_model
from make_shapes import captions
from tokenizers import Tokenizer, models, pre_tokenizers

from mmft.batch import Conversation, Turn
from mmft.data.text import empty_text, identity_of, tokenize
from mmft.errors import UserError
from mmft.models.language.chat_template import ChatTemplate, Shape
from mmft.models.language.prompt_tokenizer import IMAGE_MARK, PromptTokenizer, learned


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_language_model("llama", captions(), tmp_path_factory.mktemp("lm") / "plain")
    return hf.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_language_model("llama", captions(), tmp_path_factory.mktemp("lm") / "chat", chat=True)
    return hf.AutoTokenizer.from_pretrained(folder)


def ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def test_without_a_template_the_prompt_is_the_text(plain: Any) -> None:
    prompts = PromptTokenizer(plain)
    assert prompts(["red disc"])["input_ids"] == [[IMAGE_MARK, *ids(plain, "red disc")]]
    assert PromptTokenizer(plain, "{text} in ink")(["red"])["input_ids"] == [[IMAGE_MARK, *ids(plain, "red in ink")]]
    assert PromptTokenizer(plain, "what is it")(["not read"])["input_ids"] == [[IMAGE_MARK, *ids(plain, "what is it")]]


@pytest.mark.parametrize(
    ("prompt", "before", "after"),
    [
        ("{text} in {image} ink", "red in ", " ink"),
        ("in {image}{text} ink", "in ", "red ink"),
        ("{text}{image}", "red", ""),
        ("in {image} ink", "in ", " ink"),
    ],
)
def test_the_image_stands_where_the_prompt_says(chat: Any, prompt: str, before: str, after: str) -> None:
    found = PromptTokenizer(chat, prompt, "none")(["red"])["input_ids"][0]
    assert found == [*ids(chat, before), IMAGE_MARK, *ids(chat, after)]
    in_chat = PromptTokenizer(chat, prompt)
    found = in_chat(["red"])["input_ids"][0]
    ending = "<|im_end|><|im_start|>assistant: "
    assert found == [*ids(chat, "<|im_start|>user: " + before), IMAGE_MARK, *ids(chat, after + ending)]
    if "{text}" in prompt:
        cut = in_chat(["red disc " * 20], truncation=True, max_length=len(found) + 2)["input_ids"][0]
        assert len(cut) == len(found) + 3
        assert cut.count(IMAGE_MARK) == 1


def test_the_chat_template_stands_around_image_and_text(chat: Any) -> None:
    prompts = PromptTokenizer(chat, "{text} in ink")
    whole = chat.apply_chat_template(
        [{"role": "user", "content": "red in ink"}], tokenize=False, add_generation_prompt=True
    )
    assert prompts(["red"])["input_ids"] == [
        [*ids(chat, "<|im_start|>user: "), IMAGE_MARK, *ids(chat, "red in ink<|im_end|><|im_start|>assistant: ")]
    ]
    assert chat.decode([i for i in prompts(["red"])["input_ids"][0] if i != IMAGE_MARK]) == whole
    assert PromptTokenizer(chat, chat_template="none")(["red"])["input_ids"] == [[IMAGE_MARK, *ids(chat, "red")]]


def test_the_text_alone_is_cut(chat: Any) -> None:
    prompts = PromptTokenizer(chat)
    frame = len(prompts([""])["input_ids"][0]) - 1  # beside the image
    long = "red disc " * 20
    (cut,) = prompts([long], truncation=True, max_length=frame + 3)["input_ids"]
    end = ids(chat, "<|im_end|><|im_start|>assistant: ")
    assert cut == [*ids(chat, "<|im_start|>user: "), IMAGE_MARK, *ids(chat, long)[:3], *end]
    tokens = tokenize([long, "red", None], prompts, frame + 3)
    assert tokens.cut == 1
    assert empty_text(prompts, 64).tolist() == prompts([""])["input_ids"][0]


def test_a_template_longer_than_max_length_is_an_error(chat: Any) -> None:
    with pytest.raises(UserError, match=r"max_length=4: the prompt without any text has \d+ tokens\. Type"):
        PromptTokenizer(chat)(["red"], truncation=True, max_length=4)


def test_a_broken_template_is_an_error(chat: Any) -> None:
    broken = hf.AutoTokenizer.from_pretrained(chat.name_or_path)
    broken.chat_template = "{{ raise_exception('no users') }}"
    with pytest.raises(UserError, match=r"chat template cannot be applied: no users.*task\.chat_template=none"):
        PromptTokenizer(broken)


def test_other_prompts_are_other_tokens_to_the_cache(chat: Any) -> None:
    kinds = [PromptTokenizer(chat), PromptTokenizer(chat, "{text} in ink"), PromptTokenizer(chat, None, "none")]
    assert len({identity_of(one) for one in kinds}) == 3
    assert identity_of(PromptTokenizer(chat)) == identity_of(kinds[0])


def test_answers_end_and_read_back(chat: Any) -> None:
    prompts = PromptTokenizer(chat)
    found = prompts.answer("red disc")
    assert found[-1] == chat.convert_tokens_to_ids("<|im_end|>") == prompts.eos_token_id
    assert prompts.decode(found) == "red disc"
    without = PromptTokenizer(chat, chat_template="none")
    assert without.answer("red disc")[-1] == chat.eos_token_id == without.eos_token_id


TURNS = (
    Turn("system", "red ink"),
    Turn("user", "a red disc"),
    Turn("assistant", "red"),
    Turn("user", "drawn in blue"),
)


def told(tokenizer: Any, prompt: list[int]) -> tuple[str, list[str]]:
    """A prompt without its image, and its learned tokens."""
    every = [learned(token) if token < IMAGE_MARK else token for token in prompt if token != IMAGE_MARK]
    return tokenizer.decode(every), [tokenizer.decode([learned(token)]) for token in prompt if token < IMAGE_MARK]


@pytest.mark.parametrize("turns", [TURNS, TURNS[1:], TURNS[1:2]])
def test_a_conversation_reads_as_the_chat_template_writes_it(chat: Any, turns: Conversation) -> None:
    prompts = PromptTokenizer(chat)
    found = prompts([turns], truncation=True, max_length=64)
    (prompt,) = found["input_ids"]
    whole, own = told(chat, prompt)
    given = [{"role": role, "content": text} for role, text in turns]
    assert whole == chat.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
    assert "".join(own) == ("red<|im_end|>" if len(turns) > 1 else "")
    assert whole + chat.decode(prompts.answer("blue")) == chat.apply_chat_template(
        [*given, {"role": "assistant", "content": "blue"}], tokenize=False
    )
    first = prompt.index(IMAGE_MARK)
    assert told(chat, prompt[:first])[0].endswith("<|im_start|>user: ")
    assert not found["problems"]


def test_the_image_stands_where_a_turn_says(chat: Any) -> None:
    turns = (Turn("user", "a red disc"), Turn("assistant", "red"), Turn("user", "drawn in<image> blue"))
    (prompt,) = PromptTokenizer(chat)([turns])["input_ids"]
    at = prompt.index(IMAGE_MARK)
    assert told(chat, prompt[:at])[0].endswith("drawn in")
    assert told(chat, prompt[at:])[0].startswith(" blue")


def test_without_a_template_turns_are_lines(chat: Any) -> None:
    (prompt,) = PromptTokenizer(chat, chat_template="none")([TURNS])["input_ids"]
    assert told(chat, prompt) == ("red ink\na red disc\nred</s>\ndrawn in blue\n", ["red", "</s>"])


def test_a_conversation_is_never_cut(chat: Any) -> None:
    prompts = PromptTokenizer(chat)
    long = (Turn("user", "red disc " * 40),)
    tokens = tokenize([long, TURNS, None], prompts, 64)
    assert tokens.cut == 0
    assert not len(tokens.of(0))
    assert len(tokens.of(1))
    (reason,) = tokens.problems.values()
    assert re.fullmatch(r"the conversation has \d+ tokens beside the image, more than model.*max_length=64", reason)


def test_turns_that_the_template_refuses_are_a_problem_of_the_row(chat: Any) -> None:
    strict = hf.AutoTokenizer.from_pretrained(chat.name_or_path)
    strict.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
        + chat.chat_template
    )
    found = PromptTokenizer(strict)([TURNS, TURNS[1:]])
    assert found["problems"] == {0: "its chat template cannot be applied: no system turns."}
    assert not found["input_ids"][0]
    assert found["input_ids"][1]


@pytest.mark.parametrize("text", ["red <|im_end|> disc", "<|im_start|>", "a</s>"])
def test_special_tokens_in_a_text_are_plain_words(chat: Any, text: str) -> None:
    prompts = PromptTokenizer(chat)
    special = set(chat.all_special_ids)
    (prompt,) = prompts([text])["input_ids"]
    (empty,) = prompts([""])["input_ids"]
    assert [token for token in prompt if token in special] == [token for token in empty if token in special]
    assert told(chat, prompt)[0] == f"<|im_start|>user: {text}<|im_end|><|im_start|>assistant: "
    assert not special & set(prompts.answer(text)[:-1])
    assert chat.decode(prompts.answer(text)[:-1]) == text
    (cut,) = prompts([text * 9], truncation=True, max_length=len(empty) + 2)["input_ids"]
    assert [token for token in cut if token in special] == [token for token in empty if token in special]
    turns = (Turn("user", text), Turn("assistant", text), Turn("user", text))
    (prompt,) = prompts([turns])["input_ids"]
    plain, own = told(chat, prompt)
    assert plain.count(text) >= 3
    assert "".join(own) == text + "<|im_end|>"
    ends = [token for token in prompt if token in special or learned(token) in special]
    (usual,) = prompts([tuple(Turn(turn.role, "red") for turn in turns)])["input_ids"]
    assert ends == [token for token in usual if token in special or learned(token) in special]


def test_other_texts_are_tokenised_as_before(chat: Any) -> None:
    before, after = "<|im_start|>user: ", "<|im_end|><|im_start|>assistant: "
    for text in ["red disc", "  red  disc ", "drawn\nin blue", ""]:
        (prompt,) = PromptTokenizer(chat)([text])["input_ids"]
        assert prompt == [*ids(chat, before), IMAGE_MARK, *ids(chat, text + after)]


def test_an_answer_begins_with_the_space_of_the_template(chat: Any) -> None:
    """Which is missing where an answer is asked for."""
    spaced = hf.AutoTokenizer.from_pretrained(chat.name_or_path)
    spaced.chat_template = chat.chat_template.replace("assistant: {% endif %}", "assistant:{% endif %}")
    prompts = PromptTokenizer(spaced)
    turns = (Turn("user", "red"), Turn("assistant", "blue disc"), Turn("user", "it"))
    (prompt,) = prompts([turns])["input_ids"]
    text = spaced.apply_chat_template(
        [*({"role": turn.role, "content": turn.text} for turn in turns), {"role": "assistant", "content": "a disc"}],
        tokenize=False,
    )
    behind = [max(token, learned(token)) for token in prompt[prompt.index(IMAGE_MARK) + 1 :]]
    assert [*behind, *prompts.answer("a disc")] == ids(spaced, text.removeprefix("<|im_start|>user: "))
    assert spaced.decode(prompts.answer("a disc")) == " a disc<|im_end|>"
    assert "".join(told(spaced, prompt)[1]) == " blue disc<|im_end|>"
    assert PromptTokenizer(spaced, chat_template="none").answer("a") == [*ids(spaced, "a"), spaced.eos_token_id]


def test_a_tokenizer_that_puts_spaces_itself_needs_none() -> None:
    words = ["<unk>", "</s>", "▁user:", "▁assistant:", "▁a"]
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    own = hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    own.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    prompts = PromptTokenizer(own)
    assert prompts.answer("a") == [4, 1]
    (prompt,) = prompts([(Turn("user", "a"), Turn("assistant", "a"), Turn("user", "a"))])["input_ids"]
    behind = [max(token, learned(token)) for token in prompt[prompt.index(IMAGE_MARK) + 1 :]]
    assert behind == [4, 1, 3, 4, 1, 2, 4, 1, 3]


@pytest.mark.parametrize(
    ("written", "does"),
    [
        ("content", str),
        ("content | trim", str.strip),
        ("content.lstrip()", str.lstrip),
        ("content.rstrip()", str.rstrip),
    ],
)
def test_spaces_beside_a_text_are_dropped_as_the_template_drops_them(written: str, does: Any, chat: Any) -> None:
    """Of every text for itself; what stands around it stays."""
    tokenizer = copy.deepcopy(chat)
    tokenizer.chat_template = "{% for m in messages %}[ {{ m.role }} {{ m." + written + " }} ]{% endfor %}"
    template = ChatTemplate(tokenizer)
    shapes = [Shape("user"), Shape("assistant")]
    assert template.around(shapes) == ["[ user ", " ][ assistant ", " ]"]
    assert template.trims(shapes) == [does, does]
    words = PromptTokenizer(tokenizer)._of_conversation((Turn("user", " <image>red \n"), Turn("assistant", " blue ")))
    told = "".join(text for part in words if not isinstance(part, list) for text in part.texts)
    assert does("red \n") in told
    assert ("red \n" in told) == (does("red \n") == "red \n")
