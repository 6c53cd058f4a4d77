"""Near-duplicate detection: indexes of texts by ROUGE-L over words, or by the cosine of embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from judges.data.quality import lcs_length, split_units
from judges.engines.embedded import resolve_model
from judges.errors import CannotRun

_BATCH = 32  # texts per batch of the encoder


def rouge_l(first: str, second: str) -> float:
    """The ROUGE-L F1 (Lin 2004) of two texts over case-folded words, 0 to 1; 0 without words.

    A Chinese or Japanese character counts as a word.


    >>> round(rouge_l("The cat sat.", "the cat sits"), 3)
    0.667
    """
    return _f1(split_units(first.casefold()), split_units(second.casefold()))


def _f1(first: Sequence[str], second: Sequence[str]) -> float:
    total = len(first) + len(second)
    return 2 * lcs_length(first, second) / total if total else 0.0


class SimilarityIndex(ABC):
    """A growing set of texts that recognises a text similar to one of them.

    Subclasses define the representation in which two texts are compared.
    """

    def add(self, texts: Sequence[str]) -> None:
        """Add texts without comparing them."""
        for encoded in self._encode(texts):
            self._insert(encoded)

    def add_new(self, texts: Sequence[str]) -> list[bool]:
        """Add, one after the other, the texts that are similar to none; for each text, whether it was added."""
        added = []
        for encoded in self._encode(texts):
            added.append(not self._has_similar(encoded))
            if added[-1]:
                self._insert(encoded)
        return added

    @abstractmethod
    def _encode(self, texts: Sequence[str]) -> Sequence[Any]: ...

    @abstractmethod
    def _has_similar(self, encoded: Any) -> bool: ...

    @abstractmethod
    def _insert(self, encoded: Any) -> None: ...


class RougeIndex(SimilarityIndex):
    """Compares texts by ROUGE-L, which is computed only where two texts share enough words in any order.

    An inverted index from the n-th occurrence of a word to the texts that have it counts the shared words of a text
    with all others at once.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: list[list[str]] = []
        self._lengths = array("i")
        self._postings: dict[tuple[str, int], array[int]] = {}

    def _encode(self, texts: Sequence[str]) -> list[list[str]]:
        return [split_units(text.casefold()) for text in texts]

    def _insert(self, encoded: list[str]) -> None:
        for occurrence in _occurrences(encoded):
            self._postings.setdefault(occurrence, array("i")).append(len(self._texts))
        self._texts.append(encoded)
        self._lengths.append(len(encoded))

    def _has_similar(self, encoded: list[str]) -> bool:
        import numpy as np

        shared = np.zeros(len(self._texts), np.intc)
        for occurrence in _occurrences(encoded):
            if occurrence in self._postings:
                shared[np.frombuffer(self._postings[occurrence], np.intc)] += 1
        # The longest common subsequence has at most as many words as two texts share.
        least = self._threshold * (np.frombuffer(self._lengths, np.intc) + len(encoded)) / 2
        near = np.flatnonzero(shared >= least - 1e-9)
        return any(_f1(encoded, self._texts[index]) >= self._threshold for index in near)


def _occurrences(words: Sequence[str]) -> list[tuple[str, int]]:
    """Each word with the number of its earlier occurrences."""
    counts: Counter[str] = Counter()
    occurrences = []
    for word in words:
        occurrences.append((word, counts[word]))
        counts[word] += 1
    return occurrences


class EmbeddingIndex(SimilarityIndex):
    """Compares texts by the cosine of their embeddings."""

    def __init__(self, threshold: float, encoder: str) -> None:
        self._threshold = threshold - 1e-6  # rounding: the cosine of a text and its copy may be just below 1
        self._embed = load_encoder(encoder)
        self._count, self._rows = 0, self._embed(["a"])  # the first row is overwritten

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        return [row for start in range(0, len(texts), _BATCH) for row in self._embed(texts[start : start + _BATCH])]

    def _insert(self, encoded: Any) -> None:
        import numpy as np

        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[self._count] = encoded
        self._count += 1

    def _has_similar(self, encoded: Any) -> bool:
        return bool((self._rows[: self._count] @ encoded >= self._threshold).any())


def load_encoder(encoder: str) -> Callable[[Sequence[str]], Any]:
    """Load an encoder as a function from texts to unit vectors, the mean of the last layer over unmasked tokens.

    `encoder` is a model on the Hugging Face Hub, a folder or an `embedded:` name. Raises CannotRun where it cannot be
    loaded.
    """
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
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # any token will do, because padding is masked
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 512)

    def embed(texts: Sequence[str]) -> Any:
        # Control tokens in a text are encoded as ordinary text.
        encoded = tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=longest,
            split_special_tokens=True,
            return_tensors="pt",
        )
        mask = encoded["attention_mask"].unsqueeze(-1)
        with torch.inference_mode():
            states = model(**encoded).last_hidden_state
            return normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()

    return embed
