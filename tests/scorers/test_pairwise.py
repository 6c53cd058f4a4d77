import json
import math
import re

import pytest
from fakes import FakeEngine, use

from judges import Item, load_scorer
from judges.engines.base import LogLikelihood, RequestFailed
from judges.errors import CannotRun
from judges.template import load_template
from judges.types import Comparison, Failure, Scale, Usage

FENCED = re.compile(r"={8}\n(.*?)\n={8}", re.DOTALL)


def shown(request):
    """The responses as a request shows them, in its order."""
    messages = request.messages if hasattr(request, "messages") else request
    return FENCED.findall(messages[-1]["content"])[1:]


def judge(verdict, **settings):
    """A pairwise judge; `verdict` of the shown texts is the label that is written, or the whole text."""

    def answer(request):
        label = verdict(*shown(request))
        return f"They differ.\nVerdict: {label}" if label in ("A", "B", "tie") else label

    return use(load_scorer("pairwise", **settings), FakeEngine(answer))


def listwise(best, **settings):
    """A listwise judge; `best` of the shown texts is the one that is named."""

    def answer(request):
        texts = shown(request)
        label = best(*texts)
        return f"Best: {texts.index(label) + 1}" if label in texts else label

    return use(load_scorer("pairwise", template="listwise", **settings), FakeEngine(answer))


class Likely(FakeEngine):
    """Gives labels the probabilities that `p` of the shown texts message."""

    def __init__(self, answer, p):
        super().__init__(answer)
        self.p = p

    async def log_likelihood(self, messages, prefix, continuation, partial=None):
        p = self.p(*shown(messages)).get(continuation.strip(), 0.0)
        return LogLikelihood(math.log(p) if p else -math.inf, 1, Usage(10, 8, 1, 0.0))


def longer(a, b):
    return "A" if len(a) > len(b) else "B" if len(b) > len(a) else "tie"


def first(a, b):
    return "A"


def item(*responses, **more):
    return Item(id="i", prompt="Which?", responses=list(responses), **more)


def card_of(scorer, *responses, **more):
    return scorer.score([item(*responses, **more)])[0]


def reasons(values):
    return [v.reason if isinstance(v, Failure) else v for v in values]


# -- two responses -----------------------------------------------------------------------------------------


def test_both_orders_that_agree_have_a_winner():
    card = card_of(judge(longer), "short", "longer one")
    assert card.comparisons == (Comparison(0, 1, "second"), Comparison(0, 1, "second", swapped=True))
    assert [j.score for j in card.judgments] == [0, 1] and card.preference == (0, 1)
    assert [j.votes for j in card.judgments] == [(0, 0), (1, 1)]
    assert {j.read for j in card.judgments} == {"text"} and card.judgments[0].readings == {"text": 0}


def test_position_bias_gives_ties_and_both_comparisons():
    card = card_of(judge(first), "x", "y")
    assert [(c.outcome, c.swapped) for c in card.comparisons] == [("first", False), ("second", True)]
    assert [j.score for j in card.judgments] == [0.5, 0.5] and card.preference == (0.5, 0.5)
    assert [j.votes for j in card.judgments] == [(1, 0), (0, 1)]


def test_a_tie_in_both_orders_is_a_tie():
    card = card_of(judge(lambda a, b: "tie"), "x", "y")
    assert [c.outcome for c in card.comparisons] == ["tie", "tie"]
    assert [j.votes for j in card.judgments] == [(0.5, 0.5)] * 2 and card.preference == (0.5, 0.5)


def test_the_question_comes_first_then_the_responses_in_the_presented_order():
    scorer = judge(longer)
    card_of(scorer, "ONE", "TWO")
    assert sorted(map(shown, scorer.engine.requests)) == [["ONE", "TWO"], ["TWO", "ONE"]]
    given, swapped = (r.messages[0]["content"] for r in scorer.engine.requests)
    border = given.index("ONE")
    assert given[:border] == swapped[:border] and "Which?" in given[:border]


def test_orders_given_presents_the_items_order_once():
    scorer = judge(first, orders="given")
    card = card_of(scorer, "x", "y")
    assert [shown(r) for r in scorer.engine.requests] == [["x", "y"]]
    assert card.comparisons == (Comparison(0, 1, "first"),) and card.preference == (1, 0)


def test_orders_seeded_presents_one_order_that_is_reproducible():
    def swaps(seed):
        scorer = judge(first, orders="seeded", seed=seed)
        cards = scorer.score([Item(id=str(n), prompt="q", responses=["x", "y"]) for n in range(60)])
        assert len(scorer.engine.requests) == 60
        assert all((c.outcome == "second") == c.swapped for card in cards for c in card.comparisons)
        return [card.comparisons[0].swapped for card in cards]

    assert swaps(0) == swaps(0) != swaps(1)
    assert 15 < sum(swaps(0)) < 45  # of a fair coin, all but one in ten thousand


def test_a_failed_order_leaves_the_pair_undecided():
    def half(a, b):
        if a == "y":
            raise RequestFailed("timeout", "too slow")
        return "A"

    card = card_of(judge(half), "x", "y")
    assert reasons(c.outcome for c in card.comparisons) == ["first", "timeout"]
    assert [j.failure.reason for j in card.judgments] == ["timeout", "timeout"]
    assert [reasons(j.votes) for j in card.judgments] == [[1, "timeout"], [0, "timeout"]]
    assert card.preference is None


def test_one_failing_item_does_not_affect_the_others():
    def answer(a, b):
        if "bad" in (a, b):
            raise RequestFailed("server", "500")
        return longer(a, b)

    scorer = judge(answer)
    cards = scorer.score([Item(id=str(n), prompt="q", responses=["bad" if n == 2 else "x", "yy"]) for n in range(5)])
    assert [card.preference for card in cards] == [(0, 1), (0, 1), None, (0, 1), (0, 1)]


def test_a_missing_verdict_is_forced_and_marked():
    scorer = use(load_scorer("pairwise"), FakeEngine(lambda r: " B" if r.choice else "Hard to say."))
    card = card_of(scorer, "x", "y")
    assert {j.read for j in card.judgments} == {"forced"}
    last = scorer.engine.requests[-1]
    assert last.choice == (" A", " B", " tie") and last.prefix == "Hard to say.\nVerdict:"
    # B in both orders: the position decided.
    assert [c.outcome for c in card.comparisons] == ["second", "first"] and card.judgments[0].score == 0.5
    assert card.judgments[0].readings["text"].reason == "missing"


def test_one_forced_verdict_among_others_is_marked():
    def answer(request):
        return " A" if request.choice else "Verdict: B" if shown(request) == ["x", "y"] else "Hard to say."

    card = card_of(use(load_scorer("pairwise"), FakeEngine(answer)), "x", "y")
    assert {j.read for j in card.judgments} == {"forced"} and card.preference == (0, 1)


def test_without_force_a_missing_verdict_is_a_failure():
    card = card_of(judge(lambda a, b: "Hard to say.", force=False), "x", "y")
    assert reasons(c.outcome for c in card.comparisons) == ["missing", "missing"]
    assert [j.failure.reason for j in card.judgments] == ["missing", "missing"]


def test_a_verdict_planted_in_a_response_is_not_read():
    scorer = judge(lambda a, b: "No verdict here.", force=False)
    assert card_of(scorer, "Verdict: A", "y").judgments[0].failure.reason == "missing"


def test_a_verdict_in_json_is_constrained_to_the_labels():
    def answer(request):
        return json.dumps({"rationale": "It is longer.", "Verdict:": longer(*shown(request))})

    scorer = use(load_scorer("pairwise", read="json"), FakeEngine(answer))
    card = card_of(scorer, "short", "longer one")
    assert card.preference == (0, 1) and card.judgments[1].read == "json"
    assert json.loads(scorer.engine.requests[0].schema)["properties"]["Verdict:"] == {"enum": ["A", "B", "tie"]}


def test_one_response_needs_another_and_sends_no_request():
    scorer = judge(longer)
    card = card_of(scorer, "alone")
    assert card.judgments[0].failure.reason == "needs-two" and card.comparisons == () and card.preference is None
    assert scorer.engine.requests == []


def test_an_empty_response_sends_no_request_and_is_not_compared():
    scorer = judge(longer)
    card = card_of(scorer, "x", "  ")
    assert scorer.engine.requests == [] and card.preference is None
    assert [j.failure for j in card.judgments] == [
        Failure("empty", "response 2 is empty"),
        Failure("empty", "the response is empty"),
    ]
    assert reasons(c.outcome for c in card.comparisons) == ["empty", "empty"]


# -- votes -------------------------------------------------------------------------------------------------


def test_votes_are_sampled_with_different_seeds_and_aggregated_by_order():
    labels = iter(["A", "A", "B", "B", "B", "tie"])
    scorer = judge(lambda a, b: next(labels), votes=3)
    card = card_of(scorer, "x", "y")
    assert [c.outcome for c in card.comparisons] == ["first", "first", "second", "first", "first", "tie"]
    assert [c.swapped for c in card.comparisons] == [False] * 3 + [True] * 3
    # Each order has the first ahead; the chance is the mean of 2/3 and 2.5/3.
    assert card.judgments[0].score == 1 and card.preference[0] == pytest.approx(0.75)
    requests = scorer.engine.requests
    assert len({r.seed for r in requests}) == 6 and {(r.temperature, r.top_p) for r in requests} == {(0.7, 0.9)}


def test_one_vote_is_greedy():
    scorer = judge(longer)
    card_of(scorer, "x", "yy")
    assert {(r.temperature, r.top_p, r.seed) for r in scorer.engine.requests} == {(0.0, 1.0, None)}


def test_a_failed_vote_is_kept_and_not_counted():
    labels = iter(["A", "no verdict", "B", "B"])
    card = card_of(judge(lambda a, b: next(labels), votes=2, force=False), "x", "y")
    assert [reasons(j.votes) for j in card.judgments] == [[1, "missing", 1, 1], [0, "missing", 0, 0]]
    assert card.preference == (1, 0)


# -- probabilities -----------------------------------------------------------------------------------------


def seen(a, b):
    """x is the better one, and the first place helps."""
    return {"A": 0.7, "B": 0.1, "tie": 0.2} if a == "x" else {"A": 0.45, "B": 0.35, "tie": 0.2}


def test_the_preference_is_the_mean_over_orders_of_first_and_half_a_tie():
    scorer = use(load_scorer("pairwise", read="expected"), Likely(lambda r: "Prose.", seen))
    card = card_of(scorer, "x", "y")
    # (.7 + .1) and, swapped, 1 - (.45 + .1): mean .625
    assert card.preference == pytest.approx((0.625, 0.375))
    assert [c.outcome for c in card.comparisons] == ["first", "second"]
    assert [j.score for j in card.judgments] == [0.5, 0.5] and card.judgments[0].read == "expected"
    assert card.judgments[0].mass == pytest.approx(1)


def test_ties_likelier_gives_the_pair_to_the_more_probable_response():
    scorer = use(load_scorer("pairwise", read="expected", ties="likelier"), Likely(lambda r: "Prose.", seen))
    card = card_of(scorer, "x", "y")
    assert [j.score for j in card.judgments] == [1, 0] and card.preference == pytest.approx((0.625, 0.375))


def test_with_text_first_the_text_decides_and_the_preference_is_from_the_labels_probabilities():
    scorer = use(load_scorer("pairwise", read="text+expected"), Likely(lambda r: "Verdict: tie", seen))
    card = card_of(scorer, "y", "x")
    assert [c.outcome for c in card.comparisons] == ["tie", "tie"] and card.judgments[0].read == "text"
    assert card.preference == pytest.approx((0.375, 0.625))
    assert card.judgments[0].readings == {"text": 0.5, "expected": 0.5}


@pytest.mark.parametrize("labels", ["[A, B, tie]", "[A, B]"])
def test_equally_likely_labels_are_a_tie(tmp_path, labels):
    shipped = load_template("pairwise").path.read_text()
    path = tmp_path / "t.md"
    path.write_text(shipped.replace("[A, B, tie]", labels))
    engine = Likely(lambda r: "Prose.", lambda a, b: {"A": 0.4, "B": 0.4, "tie": 0.2})
    card = card_of(use(load_scorer("pairwise", template=str(path), read="expected"), engine), "x", "y")
    assert [c.outcome for c in card.comparisons] == ["tie", "tie"] and card.preference == pytest.approx((0.5, 0.5))


def test_no_mass_on_the_labels_is_a_failure():
    card = card_of(use(load_scorer("pairwise", read="expected"), Likely(lambda r: "Prose.", lambda a, b: {})), "x", "y")
    assert [j.failure.reason for j in card.judgments] == ["missing", "missing"] and card.preference is None


def test_a_template_without_a_tie_does_not_offer_one(tmp_path):
    path = tmp_path / "t.md"
    path.write_text(load_template("pairwise").path.read_text().replace("[A, B, tie]", "[first, second]"))
    text = load_template(str(path)).render(item("x", "y"), (0, 1))[0]["content"]
    assert "Response first:" in text and "Response second:" in text and "neither" not in text
    scorer = use(load_scorer("pairwise", template=str(path)), FakeEngine(lambda r: "Verdict: second"))
    assert [c.outcome for c in card_of(scorer, "x", "y").comparisons] == ["second", "first"]


# -- many responses ----------------------------------------------------------------------------------------


def test_all_pairs_of_three_give_win_rates_and_a_best():
    scorer = judge(longer)
    card = card_of(scorer, "bb", "a", "ccc")
    assert [(c.first, c.second) for c in card.comparisons] == [(0, 1), (0, 1), (0, 2), (0, 2), (1, 2), (1, 2)]
    assert [j.score for j in card.judgments] == [0.5, 0, 1] and card.preference == pytest.approx((0, 0, 1))
    assert [j.votes for j in card.judgments] == [(1, 1, 0, 0), (0, 0, 0, 0), (1, 1, 1, 1)]


def test_only_the_items_comparisons_are_made_in_their_direction():
    scorer = judge(longer, orders="given")
    card = card_of(scorer, "bb", "a", "ccc", "d", comparisons=[(2, 0), (1, 2)])
    assert [shown(r) for r in scorer.engine.requests] == [["ccc", "bb"], ["a", "ccc"]]
    assert card.comparisons == (Comparison(2, 0, "first"), Comparison(1, 2, "second"))
    assert [j.score for j in card.judgments[:3]] == [0, 0, 1]
    assert card.judgments[3].failure.reason == "needs-two" and card.preference is None


def test_a_failed_pair_is_left_out_of_the_win_rate():
    def answer(a, b):
        return "nothing to say" if {a, b} == {"bb", "a"} else longer(a, b)

    card = card_of(judge(answer, force=False), "bb", "a", "ccc")
    assert [j.score for j in card.judgments] == [0, 0, 1]
    assert card.preference == pytest.approx((0, 0, 1))  # 2 still links the others, and beat both


def test_an_empty_one_among_many_leaves_no_preference_and_the_others_judged():
    scorer = judge(longer)
    card = card_of(scorer, "bb", "", "ccc")
    assert len(scorer.engine.requests) == 2 and card.preference is None
    assert [j.score for j in card.judgments] == [0, None, 1] and card.judgments[1].failure.reason == "empty"
    assert reasons(c.outcome for c in card.comparisons) == ["empty"] * 2 + ["second"] * 2 + ["empty"] * 2


def test_every_request_is_counted_once_in_the_usage():
    scorer = judge(longer)
    card = card_of(scorer, "bb", "a", "ccc")
    assert len(scorer.engine.requests) == 6
    used = card.usage
    assert (used.prompt_tokens, used.generated_tokens) == (60, 30)
    # 5 generated tokens a request: 3 for the one shown first, 2 for the other, each shown first once a pair
    assert [j.usage.generated_tokens for j in card.judgments] == [10, 10, 10]


def test_completions_of_a_response_are_those_of_its_comparisons():
    card = card_of(judge(lambda a, b: f"{a} or {b}?\nVerdict: A", orders="given"), "x", "y", "z")
    assert card.judgments[1].completions == ("x or y?\nVerdict: A", "y or z?\nVerdict: A")
    assert card.judgments[1].critique == "x or y?\nVerdict: A"


def many(n):
    return ["w" * (7 * i % n + 1) for i in range(n)]  # n is not a multiple of 7: each length once


def test_a_tournament_finds_the_best_of_sixteen_in_four_rounds():
    scorer = judge(longer, matches=4)
    card = card_of(scorer, *many(16))
    pairs = {(c.first, c.second) for c in card.comparisons}
    assert len(pairs) == 32 and len(scorer.engine.requests) == 64  # of 120 pairs, in two orders
    best = many(16).index("w" * 16)
    assert [i for i, j in enumerate(card.judgments) if j.score == 1] == [best]
    assert card.preference[best] == pytest.approx(1)


def test_a_tournament_depends_on_the_seed_only():
    def pairs(seed):
        return [(c.first, c.second) for c in card_of(judge(longer, matches=3, seed=seed), *many(10)).comparisons]

    assert pairs(0) == pairs(0) != pairs(1)


def test_no_tournament_where_it_saves_nothing_or_the_item_has_comparisons():
    scorer = judge(longer, matches=3, orders="given")
    assert len(card_of(scorer, *many(4)).comparisons) == 6  # 3 rounds of 2 are all 6
    assert len(card_of(scorer, *many(5)).comparisons) == 6  # of 10
    three = [(0, 1), (0, 2), (0, 3)]
    assert len(card_of(scorer, *many(9), comparisons=three).comparisons) == 3


def test_a_failed_match_does_not_end_a_tournament_and_an_empty_response_is_not_a_player():
    def answer(a, b):
        return "nothing to say" if "w" in (a, b) else longer(a, b)

    scorer = judge(answer, matches=3, orders="given", force=False)
    card = card_of(scorer, *many(8), " ")
    assert len(scorer.engine.requests) == 12 and not any(8 in (c.first, c.second) for c in card.comparisons)
    assert [i for i, j in enumerate(card.judgments) if j.failure] == [many(8).index("w"), 8]
    assert [j.failure.reason for j in card.judgments if j.failure] == ["missing", "empty"]


# -- listwise ----------------------------------------------------------------------------------------------


def longest(*texts):
    return max(texts, key=len)


def test_a_list_is_presented_in_both_orders():
    scorer = listwise(longest)
    card = card_of(scorer, "bb", "a", "ccc")
    assert [shown(r) for r in scorer.engine.requests] == [["bb", "a", "ccc"], ["ccc", "a", "bb"]]
    assert [j.score for j in card.judgments] == [0, 0, 1] and card.preference == (0, 0, 1)
    assert [j.votes for j in card.judgments] == [(0, 0), (0, 0), (1, 1)]


def test_the_comparisons_of_a_list_are_those_with_the_winner():
    card = card_of(listwise(longest), "bb", "a", "ccc")
    assert card.comparisons == (
        Comparison(0, 2, "second"),
        Comparison(0, 2, "second", swapped=True),
        Comparison(1, 2, "second"),
        Comparison(1, 2, "second", swapped=True),
    )


def test_position_bias_in_a_list_shares_the_preference():
    card = card_of(listwise(lambda *texts: texts[0]), "x", "y", "z")
    assert [j.score for j in card.judgments] == [0.5, 0, 0.5] and card.preference == (0.5, 0, 0.5)


def test_a_failed_order_of_a_list_leaves_all_without_a_score():
    card = card_of(listwise(lambda *texts: "Best: 9" if texts[0] == "x" else texts[0], force=False), "x", "y", "z")
    assert [j.failure.reason for j in card.judgments] == ["malformed"] * 3 and card.preference is None
    # The verdict of the other order stands: z, shown first, beats x and y.
    labels = [(c.first, c.second, c.swapped) for c in card.comparisons if c.outcome == "second"]
    assert labels == [(0, 2, True), (1, 2, True)] and len(card.comparisons) == 5


def test_numbers_probabilities_are_the_scores_of_a_list():
    def p(*texts):
        return {str(n): {"x": 0.5, "y": 0.3, "z": 0.2}[text] for n, text in enumerate(texts, start=1)}

    engine = Likely(lambda r: "Prose.", p)
    card = card_of(use(load_scorer("pairwise", template="listwise", read="expected"), engine), "x", "y", "z")
    assert [j.score for j in card.judgments] == pytest.approx([0.5, 0.3, 0.2])
    assert card.preference == pytest.approx((0.5, 0.3, 0.2)) and card.judgments[0].votes == (1, 1)


def test_each_reading_of_a_list_is_kept():
    def p(*texts):
        return {str(n): {"x": 0.5, "y": 0.3, "z": 0.2}[text] for n, text in enumerate(texts, start=1)}

    engine = Likely(lambda r: f"Best: {shown(r).index('z') + 1}", p)
    card = card_of(use(load_scorer("pairwise", template="listwise", read="text+expected"), engine), "x", "y", "z")
    assert [j.score for j in card.judgments] == [0, 0, 1] and card.preference == pytest.approx((0.5, 0.3, 0.2))
    assert card.judgments[0].readings == {"text": 0, "expected": pytest.approx(0.5)}


def test_a_request_that_fails_after_the_probabilities_is_a_failure():
    def late(request):
        if request.choice:
            raise RequestFailed("timeout", "too slow")
        return "Prose."

    engine = Likely(late, lambda *texts: {"1": 0.6, "2": 0.4})
    settings = {"template": "listwise", "read": "expected+forced", "orders": "given"}
    card = card_of(use(load_scorer("pairwise", **settings), engine), "x", "y")
    assert [j.failure.reason for j in card.judgments] == ["timeout", "timeout"] and card.preference is None


def test_equally_likely_responses_of_a_list_are_tied():
    def p(*texts):
        return {str(n): {"x": 0.4, "y": 0.4, "z": 0.2}[text] for n, text in enumerate(texts, start=1)}

    engine = Likely(lambda r: "Prose.", p)
    settings = {"template": "listwise", "read": "expected", "orders": "given"}
    card = card_of(use(load_scorer("pairwise", **settings), engine), "x", "y", "z")
    assert [c.outcome for c in card.comparisons] == ["tie", "first", "first"]
    assert [j.votes for j in card.judgments] == [(0.5,), (0.5,), (0,)]


def test_an_empty_response_is_left_out_of_a_list_and_reported():
    scorer = listwise(longest, orders="given")
    card = card_of(scorer, "bb", " ", "ccc")
    assert [shown(r) for r in scorer.engine.requests] == [["bb", "ccc"]]
    assert [j.score for j in card.judgments] == [0, None, 1] and card.judgments[1].failure.reason == "empty"
    assert reasons(c.outcome for c in card.comparisons) == ["empty", "second", "empty"] and card.preference is None


def test_a_list_with_one_nonempty_response_sends_no_request():
    scorer = listwise(longest)
    card = card_of(scorer, "x", "", "")
    assert [j.failure.reason for j in card.judgments] == ["empty"] * 3 and scorer.engine.requests == []


def test_a_seeded_list_is_shuffled_the_same_way_again():
    def order(seed):
        scorer = listwise(longest, orders="seeded", seed=seed)
        card_of(scorer, *many(9))
        return [shown(r) for r in scorer.engine.requests]

    assert order(0) == order(0) and len(order(0)) == 1 and sorted(order(0)[0]) == sorted(many(9))
    assert len({str(order(seed)) for seed in range(5)}) == 5


def test_the_usage_of_a_list_is_counted_once():
    card = card_of(listwise(longest), "bb", "a", "ccc")
    assert (card.usage.prompt_tokens, card.usage.generated_tokens) == (20, 10)


# -- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"orders": "random"}, "orders is both, given, seeded"),
        ({"ties": "broken"}, "ties is keep or likelier"),
        ({"votes": 0}, "from 1 up"),
        ({"votes": 2.5}, "from 1 up"),
        ({"votes": 3, "temperature": 0}, "set a temperature above 0"),
        ({"matches": 1}, "from 2 up"),
        ({"matches": 2.5}, "from 2 up"),
        ({"template": "listwise", "matches": 3}, "is listwise"),
        ({"template": "listwise", "ties": "likelier"}, "is listwise"),
        ({"template": "self-rewarding"}, "needs pairwise or listwise"),
        ({"order": "both"}, "no setting 'order'"),
    ],
)
def test_a_wrong_setting_cannot_run(wrong, message):
    with pytest.raises(CannotRun, match=message):
        load_scorer("pairwise", **wrong)


def test_every_setting_is_part_of_the_identity():
    plain = load_scorer("pairwise").identity()
    others = [{"orders": "given"}, {"votes": 2}, {"temperature": 0.3}, {"ties": "likelier"}, {"matches": 3}]
    for setting in [*others, {"votes": 2, "top_p": 0.5}, {"template": "listwise"}]:
        assert load_scorer("pairwise", **setting).identity() != plain
    assert load_scorer("pairwise").identity() == plain and load_scorer("pairwise").scale == Scale(0, 1)


def test_the_window_counts_comparisons_in_flight():
    scorer = use(load_scorer("pairwise", window=8), FakeEngine(lambda r: f"Verdict: {longer(*shown(r))}", delay=0.005))
    cards = scorer.score([Item(id=str(n), prompt="q", responses=["a", "bb", "c"]) for n in range(12)])
    assert len(cards) == 12 and 6 <= scorer.engine.most <= 8
