"""`BagOfWords`, the baseline of a trained reward model: a Bradley–Terry model on the words of the response alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from judges.scorer import Scorer, softmax_preference
from judges.types import REAL_LINE, Item, Judgment, Scorecard


class BagOfWords(Scorer):
    """A linear reward over words and word pairs: logistic regression on the tf-idf difference of chosen and rejected.

    It is fitted on pairs whose first response is the chosen one. With 20 pairs or more, the regularisation is selected
    by cross-validation on them.
    """

    name = "bag of words"
    scale = REAL_LINE

    def __init__(self, pairs: Sequence[Item], seed: int = 0) -> None:
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV

        chosen, rejected = ([item.responses[side] for item in pairs] for side in (0, 1))
        # Each Chinese character is a word.
        word = r"[一-鿿]|[^\W一-鿿]+|[?!]"
        self._vectorizer = TfidfVectorizer(
            sublinear_tf=True, ngram_range=(1, 2), min_df=min(2, len(pairs)), token_pattern=word
        )
        self._vectorizer.fit(chosen + rejected)
        difference = self._vectorizer.transform(chosen) - self._vectorizer.transform(rejected)
        # Logistic regression needs two classes, so half of the pairs are swapped.
        labels = np.where(np.random.default_rng(seed).permutation(len(pairs)) % 2 == 0, 1.0, -1.0)
        regression = LogisticRegression(fit_intercept=False, max_iter=2000)
        search = GridSearchCV(regression, {"C": [1e-3, 1e-2, 1e-1, 1.0]}, cv=5, scoring="neg_log_loss")
        self._model: Any = search if len(pairs) >= 20 else regression
        self._model.fit(difference.multiply(labels[:, None]).tocsr(), labels)

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        for item in items:
            rewards = self._model.decision_function(self._vectorizer.transform(list(item.responses)))
            judgments = tuple(Judgment(score=float(reward), votes=(float(reward),)) for reward in rewards)
            yield Scorecard(id=item.id, judgments=judgments, preference=softmax_preference(judgments))
