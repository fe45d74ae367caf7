"""The interface of tasks whose answers are written by a language model."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from mmft.models.prompt_tokenizer import PromptTokenizer
from mmft.tasks.base import Task


class GenerativeTask(Task):
    """A task whose targets and answers are tokens of a language model, which it learns from `start_generation`."""

    @property
    @abstractmethod
    def longest_answer(self) -> int:
        """Tokens of the longest text to learn or to write."""

    @property
    @abstractmethod
    def max_new_tokens(self) -> int:
        """Tokens of the longest text to write."""

    @abstractmethod
    def start_generation(self, tokenizer: Any) -> PromptTokenizer:
        """Receives the language model's tokenizer, and returns that of its prompts. Raises UserError."""
