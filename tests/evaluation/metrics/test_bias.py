import numpy as np
import pytest

from judges import Failure, Item, Judgment, Scorecard, load_scorer
from judges.evaluation.metrics.bias import bias_numbers, gold_pairs, length_controlled, same_model
from judges.types import Comparison, Gold

OPEN = Failure("missing", "no verdict")


def pair(name, right=0, lengths=(4, 4), **meta):
    return Item(id=name, prompt=name, responses=["x" * n for n in lengths], gold=Gold(chosen=(right,)), meta=meta)


def scored(name, *scores):
    made = [Judgment(failure=OPEN) if s is None else Judgment(score=float(s)) for s in scores]
    return Scorecard(name, tuple(made))


def both_orders(name, given, swapped):
    """Outcomes as winners of the pair (0, 1), the second with response 1 shown first."""
    comparisons = (Comparison(0, 1, given), Comparison(0, 1, swapped, swapped=True))
    return Scorecard(name, (Judgment(score=1.0), Judgment(score=0.0)), comparisons)


def found(items, cards, model=""):
    return {n.metric: n for n in bias_numbers(items, {card.id: card for card in cards}, model)}


def values(items, cards, model=""):
    return {metric: n.value for metric, n in found(items, cards, model).items()}


def test_position_by_hand():
    items = [pair("a"), pair("b"), pair("c", right=1), pair("d")]
    cards = [
        both_orders("a", "first", "first"),  # right in both
        both_orders("b", "first", "second"),  # whichever is shown first
        both_orders("c", "second", "tie"),  # right when shown second, a tie when shown first
        both_orders("d", "tie", "tie"),
    ]
    told = values(items, cards)
    assert told["position: consistency"] == 2 / 4  # a and d
    # Decided: a given (first slot), a swapped (second), b given (first), b swapped (first), c given (second).
    assert told["position: first slot preferred"] == pytest.approx(3 / 5)
    assert told["position: accuracy, right one shown first"] == (1 + 1 + 0.5 + 0.5) / 4
    assert told["position: accuracy, right one shown second"] == (1 + 0 + 1 + 0.5) / 4


def test_a_failure_in_one_order_leaves_the_pair_out_of_every_position_number():
    items = [pair("a"), pair("b")]
    told = found(items, [both_orders("a", "first", "first"), both_orders("b", "first", OPEN)])
    position = [n for metric, n in told.items() if metric.startswith("position")]
    assert len(position) == 4 and all(n.left_out for n in position)
    assert told["position: consistency"].value == 1 and told["position: first slot preferred"].value == 0.5
    assert told["position: accuracy, right one shown first"].rows == 1


def test_votes_of_one_order_are_one_verdict():
    votes = [Comparison(0, 1, o) for o in ("first", "second", "first")] + [Comparison(0, 1, "first", swapped=True)]
    card = Scorecard("a", (Judgment(score=1.0), Judgment(score=0.0)), tuple(votes))
    told = found([pair("a")], [card])
    assert told["position: consistency"].value == 1 and told["position: first slot preferred"].rows == 2


def test_a_comparison_told_the_other_way_round_is_the_same():
    turned = (Comparison(1, 0, "second", swapped=True), Comparison(1, 0, "second"))
    straight = (Comparison(0, 1, "first"), Comparison(0, 1, "first", swapped=True))
    made = [Scorecard("a", (Judgment(score=1.0), Judgment(score=0.0)), c) for c in (turned, straight)]
    one, other = (values([pair("a")], [card]) for card in made)
    assert one == other and one["position: consistency"] == 1


def test_every_share_has_the_interval_of_its_own_rows():
    """One pair a prompt: about Wilson's, whatever the other numbers hold fixed."""
    rng = np.random.default_rng(5)
    outcomes = ["first", "second", "tie"]
    items = [pair(str(i), int(rng.integers(2)), tuple(rng.integers(1, 99, 2).tolist())) for i in range(300)]
    cards = [both_orders(item.id, *rng.choice(outcomes, 2).tolist()) for item in items]
    cards = [Scorecard(c.id, (Judgment(score=float(s)), Judgment(score=1.0 - s)), c.comparisons)
             for c, s in zip(cards, rng.integers(2, size=300), strict=True)]  # fmt: skip
    told = found(items, cards)
    slot = told.pop("position: first slot preferred")  # two rows a prompt
    assert slot.high - slot.low > 0.05
    assert len(told) == 8
    for metric, number in told.items():
        spread = 1.96 * np.sqrt(number.value * (1 - number.value) / number.rows)
        # A tie as half has less spread than right or wrong.
        least = 0.7 if "position: accuracy" in metric else 0.9
        assert least < (number.high - number.low) / (2 * spread) < 1.4, metric


def test_scores_and_single_orders_tell_nothing_of_position():
    one_order = Scorecard("a", (Judgment(score=1.0), Judgment(score=0.0)), (Comparison(0, 1, "first"),))
    assert not values([pair("a")], [one_order]) and not values([pair("a")], [scored("a", 1, 0)])


def test_length_by_hand():
    items = [
        pair("longer right, said", lengths=(9, 4)),
        pair("longer right, not said", lengths=(9, 4)),
        pair("longer wrong, said", lengths=(4, 9)),
        pair("longer wrong, tie", lengths=(4, 9)),
        pair("longer wrong, failed", lengths=(4, 9)),
        pair("alike", lengths=(4, 4)),
    ]
    scores = [(1, 0), (0, 1), (0, 1), (1, 1), (None, 1), (1, 0)]
    told = found(items, [scored(item.id, *s) for item, s in zip(items, scores, strict=True)])
    assert told["length: longer is right"].value == 2 / 5
    assert told["length: longer preferred"].value == pytest.approx(2 / 3)
    assert told["length: longer preferred"].left_out == 1
    assert told["length: accuracy where the longer is right"].value == 1 / 2
    assert told["length: accuracy where the longer is wrong"].value == (0 + 0.5) / 2
    assert told["length: accuracy where the longer is wrong"].left_out == 1
    assert (told["length: controlled accuracy"].rows, told["length: controlled accuracy"].left_out) == (5, 1)


def test_a_scorer_that_goes_by_length_alone_is_a_coin_once_length_is_controlled():
    rng = np.random.default_rng(0)
    items = [pair(str(i), lengths=tuple(rng.integers(1, 200, 2).tolist())) for i in range(300)]
    with load_scorer("length") as scorer:
        told = found(items, scorer.score(items))
    assert told["length: longer preferred"].value == 1
    controlled = told["length: controlled accuracy"]
    assert controlled.low < 0.5 < controlled.high and abs(controlled.value - 0.5) < 0.15


def test_a_scorer_that_is_never_wrong_claims_no_certainty():
    items = [pair(str(i), lengths=(5 + i % 7, 8)) for i in range(40)]
    controlled = found(items, [scored(item.id, 1, 0) for item in items])["length: controlled accuracy"]
    assert 0.97 < controlled.value < 1 and 0.7 < controlled.low < 0.95


def simulated(rng, prompts, rows, theta, phi):
    """Pairs of which the longer is right more often, judged by θ + φ·tanh(length / s), correlated within prompts."""
    longer = rng.normal(120, 200, prompts * rows)
    right = rng.random(len(longer)) < 1 / (1 + np.exp(-theta - phi * np.tanh(longer / longer.std())))
    return right.astype(float), longer, [str(i // rows) for i in range(len(longer))]


def test_a_planted_bias_is_taken_out():
    right, longer, prompts = simulated(np.random.default_rng(1), 20_000, 1, np.log(0.7 / 0.3), 1.5)
    value, low, high = length_controlled(right, longer, prompts)
    assert np.mean(right) > 0.73 and value == pytest.approx(0.7, abs=0.015) and low < 0.7 < high


def test_controlled_accuracy_is_that_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    right, longer, prompts = simulated(np.random.default_rng(2), 200, 1, 0.5, 0.8)
    right[:10] = 0.5
    x = np.column_stack([np.ones_like(longer), np.tanh(longer / longer.std())])
    x = np.vstack([x, np.eye(2)])
    y = np.append(right, [0.5, 0.5])
    twice, weight = np.vstack([x, x]), np.concatenate([y, 1 - y])
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    fit.fit(twice, np.repeat([1, 0], len(y)), sample_weight=weight)
    expected = 1 / (1 + np.exp(-fit.coef_[0, 0]))
    assert length_controlled(right, longer, prompts)[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("copies", [1, 4])
def test_the_interval_of_controlled_accuracy_covers(copies):
    """Rows that only repeat their prompt's first one must not make it narrower."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        right, longer, _ = simulated(rng, 80, 1, 0.6, 0.7)
        prompts = [str(i) for i in range(80)] * copies
        _, low, high = length_controlled(np.tile(right, copies), np.tile(longer, copies), prompts)
        held += low <= 1 / (1 + np.exp(-0.6)) <= high
    assert 0.92 <= held / 300 <= 0.985


def test_style_by_hand():
    styles = ["concise", "detailed_plain", "detailed_markdown"] * 2
    crossed = [(i, 3 + j) for i in range(3) for j in range(3)]
    item = Item("a", "q", list("abcdef"), meta={"styles": styles}, comparisons=crossed, gold=Gold(chosen=(0, 1, 2)))
    # Easy: 1>3, 2>3, 2>4 of the right ones; hard: 0>4, 0>5, 1>5. Scores: right 1 3 5, wrong 2 3 4.
    told = found([item], [scored("a", 1, 3, 5, 2, 3, 4)])["style: easy minus hard"]
    assert told.value == (1 + 1 + 1) / 3 - 0 / 3
    # A tie is wrong: the right ones at 2 3 5 win easy 3 of 3; against 2 2 2 hard is 1 of 3 (3 > 2).
    told = found([item], [scored("a", 2, 3, 5, 2, 2, 2)])["style: easy minus hard"]
    assert told.value == pytest.approx(1 - 1 / 3)


def test_unknown_styles_are_not_measured():
    assert "style: easy minus hard" not in values([pair("a", styles=["x", "y"])], [scored("a", 1, 0)])


def test_self_preference_by_hand():
    items = [
        pair("own right", authors=["acme/Judge-7B", "other"]),
        pair("own wrong", right=1, authors=["judge_7b", "other"]),
        pair("own wrong too", authors=["other", "Judge 7B"]),
        pair("failed", authors=["other", "Judge 7B"]),
        pair("both own", authors=["judge-7b", "judge-7b"]),
        pair("neither", authors=["other", "third"]),
    ]
    scores = [(1, 0), (1, 0), (1, 1), (None, 1), (0, 1), (0, 1)]
    cards = [scored(item.id, *s) for item, s in zip(items, scores, strict=True)]
    told = found(items, cards, "Judge-7B")["self-preference"]
    assert told.value == pytest.approx((1 + 1 + 0.5) / 3 - 1 / 3) and (told.rows, told.left_out) == (3, 1)
    assert "self-preference" not in found(items, cards) and "self-preference" not in found(items, cards, "absent")


def test_an_author_is_measured_from_thirty_pairs_on_and_a_human_tie_is_half():
    tie = [
        Item(str(i), str(i), ["a", "b"], gold=Gold(tie=True), meta={"authors": ["Favourite", "rest"]})
        for i in range(30)
    ]
    cards = [scored(str(i), 1, 0) for i in range(30)]
    told = values(tie, cards)
    assert told["author: Favourite preferred minus right"] == 0.5
    assert told["author: rest preferred minus right"] == -0.5
    assert not values(tie[:29], cards)


def test_a_name_is_matched_without_owner_date_and_punctuation():
    assert same_model("openai/gpt-4o-2024-05-13") == same_model("GPT-4o") != same_model("gpt-4")
    assert same_model("claude-3-5-sonnet-20240620") == same_model("anthropic:Claude 3 5 Sonnet")
    assert same_model("llama-3.1-8b") != same_model("llama-3-18b")


def test_gold_pairs_by_hand():
    def told(gold, **more):
        item = Item("a", "q", ["x", "y", "z"][: 2 if gold.tie else 3], gold=gold, **more)
        return [(p.first, p.second, p.gold) for p in gold_pairs([item], {})]

    assert told(Gold(chosen=(1,))) == [(1, 0, 1), (1, 2, 1)]
    assert told(Gold(chosen=(0, 2))) == [(0, 1, 1), (2, 1, 1)]
    assert told(Gold(ranking=(2, 1, 2))) == [(1, 0, 1), (0, 2, 0.5), (1, 2, 1)]
    assert told(Gold(scores=(1, 5, 3)), comparisons=[(0, 1)]) == [(1, 0, 1)]
    assert told(Gold(tie=True)) == [(0, 1, 0.5)]


def test_of_three_responses_the_pair_s_own_comparisons_decide():
    item = Item("a", "q", ["x", "y", "z"], gold=Gold(ranking=(1, 2, 3)))
    card = Scorecard(
        "a",
        tuple(Judgment(score=s) for s in (0.0, 1.0, 0.5)),
        (
            Comparison(0, 1, "first"),
            Comparison(0, 1, "first", swapped=True),
            Comparison(0, 2, "first"),
            Comparison(0, 2, "second", swapped=True),
            Comparison(1, 2, OPEN),
        ),
    )
    assert [p.verdict for p in gold_pairs([item], {"a": card})] == [1.0, 0.5, None]


def test_nothing_of_which_nothing_can_be_said():
    rating = Item("a", "q", ["x"], gold=Gold(scores=(3,)))
    assert bias_numbers([], {}) == () == bias_numbers([rating], {"a": scored("a", 2)})


def test_real_judges_prefer_as_their_authors_files_say(shared_data):
    """Counted from the rows themselves: a decision A>B is for the response in the first place."""
    from judges.data.readers import read_records
    from judges.evaluation.benchmarks.judgebench import load
    from judges.evaluation.recorded_judgments import RecordedJudgments

    path = str(shared_data / "judgebench_outputs" / "arena_hard--o1-mini-2024-09-12.jsonl.gz")
    items = load(str(shared_data / "judgebench_gpt.jsonl")).items
    decisions = [[j["decision"] for j in row["judgments"]] for row in read_records(path)]
    flip = {"A>B": "B>A", "B>A": "A>B", "A=B": "A=B"}
    told = values(items, RecordedJudgments(path).score(items))
    assert told["position: consistency"] == pytest.approx(sum(a == flip[b] for a, b in decisions) / 350)
    flat = [d for two in decisions for d in two if d != "A=B"]
    assert told["position: first slot preferred"] == pytest.approx(flat.count("A>B") / len(flat))
