"""Probabilities of labels from the most likely tokens that a server lists at the position of a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

from judges.types import Failure

Positions = Sequence[tuple[str, Sequence[tuple[str, float]]]]
# Above this probability it matters whether "1" is the label, or the first token of "10".
_AMBIGUOUS = 0.02


def listed_probabilities(
    positions: Positions, start: int, labels: Sequence[str], whole_numbers: bool = False
) -> tuple[dict[str, float], float] | Failure:
    """(P of each label, mass) at the character `start` of a text whose tokens are `positions`, or a Failure.

    Each position has a token of the text and the most likely tokens there with their log-probabilities. Labels are
    compared without the spaces around them. A label that is not listed is less likely than every listed token and
    counts as 0; `mass` is the sum of the listed labels before they are renormalised. "missing" where none is listed.

    A label of two tokens ("10" as "1", "0") is resolved by the next position where the text has it; where it is not,
    and it could matter, the Failure is "malformed". `whole_numbers` says that each number is one token.

    >>> listed_probabilities([("4", [("4", math.log(0.6)), ("5", math.log(0.2)), ("A", math.log(0.1))])], 0, ["4", "5"])
    ({'4': 0.75, '5': 0.25}, 0.8)
    """
    index = _index_at(positions, start)
    if index is None:
        return Failure("missing", "no log-probabilities came back at the verdict's position")
    listed = _shares(positions[index][1])
    found = {label: listed.get(label, 0.0) for label in labels}
    for label, longer in [(a, b) for a in labels for b in labels if b != a and b.startswith(a)]:
        if whole_numbers or longer in listed or not found[label]:
            continue
        rest = longer[len(label) :]
        following = positions[index + 1][1] if index + 1 < len(positions) else ()
        if positions[index][0].strip() == label and following:
            found[longer] = found[label] * _shares(following).get(rest, 0.0)
            found[label] -= found[longer]
        elif found[label] > _AMBIGUOUS:
            return Failure("malformed", f"the listed token {label!r} may begin {longer!r}; use labels of one token")
    mass = sum(found.values())
    if mass < 1e-6:
        return Failure("missing", "none of the labels is among the tokens that the server lists")
    return {label: round(share / mass, 12) for label, share in found.items()}, round(mass, 12)


def _shares(listed: Sequence[tuple[str, float]]) -> dict[str, float]:
    """P of each listed token without spaces around it: " 4" and "4" are one label."""
    shares: dict[str, float] = {}
    for token, logprob in listed:
        shares[token.strip()] = shares.get(token.strip(), 0.0) + math.exp(logprob)
    return shares


def _index_at(positions: Positions, start: int) -> int | None:
    """The index of the token that holds the character at `start`."""
    end = 0
    for index, (token, _) in enumerate(positions):
        end += len(token)
        if start < end:
            # "**4" is a token that holds more than the label: its alternatives are not labels.
            return index
    return None
