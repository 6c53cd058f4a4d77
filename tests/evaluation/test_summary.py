from judges.evaluation.results import Contrast, MetricValue
from judges.evaluation.summary import summarize


def contrast(first, second, difference, p, more=None):
    edges = difference - 0.04, difference + 0.04
    return Contrast("b", first, second, difference, *edges, p, p, p, "", more)


def values(**found):
    return {label: MetricValue("accuracy", "", value) for label, value in found.items()}


def test_the_leader_is_named_with_the_scorers_it_beats_and_those_without_a_significant_difference():
    contrasts = [contrast("a", "b", -0.1, 0.001), contrast("c", "b", -0.02, 0.4, 900), contrast("a", "c", -0.08, 0.01)]
    text = summarize("Chat", values(a=0.6, b=0.7, c=0.68), {"a": 1, "b": 10, "c": 5}, contrasts)
    assert text == (
        "Chat: b leads with 70.0 and beats a by 10.0 ± 4.0 points. No significant difference from"
        " c (significant with about 900 more rows). The cheapest scorer without a significant difference"
        " from the best (b) is c, at 50 % of its cost."
    )


def test_a_scorer_ahead_on_the_common_rows_is_not_reported_as_beaten():
    text = summarize("Chat", values(a=0.6, b=0.7), {}, [contrast("a", "b", 0.05, 0.01)])
    assert "beats" not in text and "On the rows that both have, a is better by 5.0 points." in text


def test_the_summary_is_empty_with_fewer_than_two_values():
    assert summarize("Chat", values(a=0.6), {}, []) == summarize("Chat", values(a=0.6, b=None), {}, []) == ""
