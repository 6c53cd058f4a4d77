"""Rows and Scorecards that the tests of several benchmarks make."""

import json

from judges import Failure, Judgment, Scorecard

NO_VERDICT = Failure("missing", "no verdict")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def scored(name, *scores, comparisons=(), written=False):
    """A card of scores, None for one that failed; `written` by a judge that generates text."""
    text = ("…",) if written else ()
    judgments = (
        Judgment(failure=NO_VERDICT, completions=text) if s is None else Judgment(score=float(s), completions=text)
        for s in scores
    )
    return Scorecard(name, tuple(judgments), tuple(comparisons))
