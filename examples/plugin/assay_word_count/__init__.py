"""A scorer in a package of its own: `pip install .`, then `assay score FILE --scorer word-count,target=50`."""

from collections.abc import Iterable, Iterator

from judges import Item, Judgment, Scale, Scorecard, Scorer


class WordCount(Scorer):
    """Prefers responses whose number of words is close to `target`; a score is minus the difference."""

    name = "word-count"
    scale = Scale(float("-inf"), 0)

    def __init__(self, target: int = 50) -> None:
        self.target = target

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        for item in items:
            scores = [-abs(len(response.split()) - self.target) for response in item.responses]
            yield Scorecard(item.id, tuple(Judgment(score=score) for score in scores))

    def identity(self) -> dict[str, object]:
        return {"scorer": self.name, "target": self.target}
