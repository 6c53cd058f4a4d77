"""Whether a text is too like others that are known: by ROUGE-L over words, or by embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from judges.data.quality import common_subsequence, words
from judges.engines.embedded import resolve_model
from judges.errors import CannotRun

_BATCH = 32  # texts that are embedded at once


def rouge_l(first: str, second: str) -> float:
    """The F1 of ROUGE-L over words in any case (a Chinese or Japanese character is a word); 0 without words.

    >>> round(rouge_l("The cat sat.", "the cat sits"), 3)
    0.667
    """
    return _f1(words(first.casefold()), words(second.casefold()))


def _f1(first: Sequence[str], second: Sequence[str]) -> float:
    both = len(first) + len(second)
    return 2 * common_subsequence(first, second) / both if both else 0.0


class Known(ABC):
    """The texts that a new one must not be similar to, each in the form it is compared in."""

    def add(self, texts: Sequence[str]) -> None:
        for form in self._forms(texts):
            self._add(form)

    def take(self, texts: Sequence[str]) -> list[bool]:
        """Add those that are similar to none, one after the other; say of each whether it was."""
        new = []
        for form in self._forms(texts):
            new.append(not self._holds(form))
            if new[-1]:
                self._add(form)
        return new

    @abstractmethod
    def _forms(self, texts: Sequence[str]) -> Sequence[Any]: ...

    @abstractmethod
    def _holds(self, form: Any) -> bool: ...

    @abstractmethod
    def _add(self, form: Any) -> None: ...


class Words(Known):
    """Texts as their words, compared by ROUGE-L where they share enough words in any order.

    What a text shares with each is counted for all at once: a word leads to the texts that have it, its second
    occurrence to those that have it twice.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: list[list[str]] = []
        self._lengths = array("i")
        self._places: dict[tuple[str, int], array[int]] = {}

    def _forms(self, texts: Sequence[str]) -> list[list[str]]:
        return [words(text.casefold()) for text in texts]

    def _add(self, form: list[str]) -> None:
        for occurrence in _occurrences(form):
            self._places.setdefault(occurrence, array("i")).append(len(self._texts))
        self._texts.append(form)
        self._lengths.append(len(form))

    def _holds(self, form: list[str]) -> bool:
        import numpy as np

        shared = np.zeros(len(self._texts), np.intc)
        for occurrence in _occurrences(form):
            if occurrence in self._places:
                shared[np.frombuffer(self._places[occurrence], np.intc)] += 1
        # No common subsequence is longer than what two texts share.
        least = self._threshold * (np.frombuffer(self._lengths, np.intc) + len(form)) / 2
        near = np.flatnonzero(shared >= least - 1e-9)
        return any(_f1(form, self._texts[place]) >= self._threshold for place in near)


def _occurrences(words: Sequence[str]) -> list[tuple[str, int]]:
    """Each word with the number of times it stood before."""
    before: Counter[str] = Counter()
    found = []
    for word in words:
        found.append((word, before[word]))
        before[word] += 1
    return found


class Vectors(Known):
    """Texts as embeddings, compared by cosine."""

    def __init__(self, threshold: float, encoder: str) -> None:
        self._threshold = threshold - 1e-6  # what a text and its copy, or another padding, may lack of 1
        self._embed = embedding(encoder)
        self._count, self._rows = 0, self._embed(["a"])  # the first of them is written over

    def _forms(self, texts: Sequence[str]) -> list[Any]:
        return [row for start in range(0, len(texts), _BATCH) for row in self._embed(texts[start : start + _BATCH])]

    def _add(self, form: Any) -> None:
        import numpy as np

        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[self._count] = form
        self._count += 1

    def _holds(self, form: Any) -> bool:
        return bool((self._rows[: self._count] @ form >= self._threshold).any())


def embedding(encoder: str) -> Callable[[Sequence[str]], Any]:
    """Texts to rows of length 1: the mean of the last layer over the tokens that are attended to."""
    import torch
    from torch.nn.functional import normalize
    from transformers import AutoModel, AutoTokenizer

    path = resolve_model(encoder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="right", trust_remote_code=False)
        model = AutoModel.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        ).eval()
    except (OSError, ValueError, KeyError) as error:
        raise CannotRun(
            f"encoder {encoder}: {str(error).strip().splitlines()[0]};"
            " name a transformers encoder with weights in safetensors and no code of its own"
        ) from error
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # any will do: what is padded is not attended to
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 512)

    def embed(texts: Sequence[str]) -> Any:
        # What reads as a control token is the text's own.
        read = tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=longest,
            split_special_tokens=True,
            return_tensors="pt",
        )
        attended = read["attention_mask"].unsqueeze(-1)
        with torch.inference_mode():
            states = model(**read).last_hidden_state
            return normalize((states * attended).sum(1) / attended.sum(1), dim=-1).numpy()

    return embed
