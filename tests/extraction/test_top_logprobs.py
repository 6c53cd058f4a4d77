"""Probabilities of labels from listed tokens, by hand."""

from __future__ import annotations

import math

from judges.extraction.top_logprobs import listed_probabilities

LABELS = ["1", "2", "10"]


def listed(**shares):
    return [(token.strip("_"), math.log(p)) for token, p in shares.items()]


def test_listed_labels_are_renormalised_and_their_mass_is_kept():
    position = ("2", listed(_2=0.5, _10=0.3, _x=0.1))
    assert listed_probabilities([position], 0, LABELS) == ({"1": 0.0, "2": 0.625, "10": 0.375}, 0.8)


def test_spaces_around_a_token_do_not_make_another_label():
    position = ("2", [(" 2", math.log(0.4)), ("2", math.log(0.4))])
    assert listed_probabilities([position], 0, ["2", "3"]) == ({"2": 1.0, "3": 0.0}, 0.8)


def test_a_label_that_may_go_on_is_resolved_by_the_next_token():
    positions = [("1", listed(_1=0.8, _2=0.2)), ("0", listed(_0=0.75, _x=0.25))]
    probabilities, mass = listed_probabilities(positions, 0, LABELS)
    assert mass == 1.0 and probabilities == {"1": 0.2, "2": 0.2, "10": 0.6}


def test_where_it_is_not_resolved_there_is_no_number():
    assert listed_probabilities([("2", listed(_1=0.4, _2=0.6))], 0, LABELS).reason == "malformed"
    assert listed_probabilities([("2", listed(_1=0.4, _2=0.6))], 0, LABELS, whole_numbers=True)[0]["1"] == 0.4


def test_no_listed_label_is_missing():
    assert listed_probabilities([("x", listed(_x=0.9))], 0, LABELS).reason == "missing"
    assert listed_probabilities([], 0, LABELS).reason == "missing"
