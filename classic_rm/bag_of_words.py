"""What a reward model must beat: Bradley–Terry on the words of the response alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from judges.scorer import Scorer, softmax_preference
from judges.types import REAL_LINE, Item, Judgment, Scorecard


class BagOfWords(Scorer):
    """A linear reward over words and pairs of words: logistic regression on chosen less rejected.

    Fitted on pairs, the chosen response first; its regularisation by cross-validation on those pairs.
    """

    name = "bag of words"
    scale = REAL_LINE

    def __init__(self, pairs: Sequence[Item], seed: int = 0) -> None:
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV

        chosen, rejected = ([item.responses[side] for item in pairs] for side in (0, 1))
        # A Chinese character is a word of its own.
        words = r"[一-鿿]|[^\W一-鿿]+|[?!]"
        self._words = TfidfVectorizer(
            sublinear_tf=True, ngram_range=(1, 2), min_df=min(2, len(pairs)), token_pattern=words
        )
        self._words.fit(chosen + rejected)
        difference = self._words.transform(chosen) - self._words.transform(rejected)
        # Logistic regression wants two classes: half of the pairs are turned round.
        sides = np.where(np.random.default_rng(seed).permutation(len(pairs)) % 2 == 0, 1.0, -1.0)
        plain = LogisticRegression(fit_intercept=False, max_iter=2000)
        search = GridSearchCV(plain, {"C": [1e-3, 1e-2, 1e-1, 1.0]}, cv=5, scoring="neg_log_loss")
        self._model: Any = search if len(pairs) >= 20 else plain
        self._model.fit(difference.multiply(sides[:, None]).tocsr(), sides)

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        for item in items:
            rewards = self._model.decision_function(self._words.transform(list(item.responses)))
            judgments = tuple(Judgment(score=float(reward), votes=(float(reward),)) for reward in rewards)
            yield Scorecard(id=item.id, judgments=judgments, preference=softmax_preference(judgments))
