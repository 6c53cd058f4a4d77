"""RM-Bench: its rules by hand, against an independent implementation, and its rows in both forms."""

import json
import random

import pytest
from benchmark_cards import NO_VERDICT, scored, write_rows

from judges import Item
from judges.errors import CannotRun
from judges.evaluation.benchmarks import rm_bench, rows
from judges.types import Comparison, Gold

STYLES = ["concise", "detailed_plain", "detailed_markdown"]


def prompt(name, subset="chat"):
    return Item(
        id=name,
        prompt=f"question {name}",
        responses=[f"{side} {style}" for side in ("right", "wrong") for style in STYLES],
        subset=subset,
        gold=Gold(chosen=(0, 1, 2)),
        comparisons=[(i, j) for i in range(3) for j in range(3, 6)],
    )


def tally(rows):
    """rows: (subset, scores) or (subset, scores, comparisons)."""
    items = [prompt(str(n), row[0]) for n, row in enumerate(rows)]
    cards = [scored(str(n), *row[1], comparisons=row[2] if len(row) > 2 else ()) for n, row in enumerate(rows)]
    return rm_bench.official(items, {card.id: card for card in cards})


ALL_RIGHT, ALL_WRONG = (5, 5, 5, 1, 1, 1), (1, 1, 1, 5, 5, 5)

# Right responses' scores (concise, plain, markdown), then the wrong ones'; hard, normal and easy out of three.
BY_HAND = {
    "every right one is above every wrong one": (ALL_RIGHT, 3, 3, 3),
    "every right one is below": (ALL_WRONG, 0, 0, 0),
    "all equal: a tie is wrong": ((2, 2, 2, 2, 2, 2), 0, 0, 0),
    "style alone": ((1, 2, 3, 1, 2, 3), 0, 0, 3),
    "style, and a little for being right": ((1.5, 2.5, 3.5, 1, 2, 3), 0, 3, 3),
    "a taste for the plain": ((3, 2, 1, 3, 2, 1), 3, 0, 0),
    "negative scores": ((-1, -2, -3, -4, -5, -6), 3, 3, 3),
    "zero is a score": ((1, 1, 1, 0, 0, 0), 3, 3, 3),
    "right concise is missing: its row is lost": ((None, 5, 5, 1, 1, 1), 1, 2, 3),
    "right markdown is missing": ((5, 5, None, 1, 1, 1), 3, 2, 1),
    "wrong markdown is missing: its column is lost": ((5, 5, 5, 1, 1, None), 1, 2, 3),
    "wrong concise is missing": ((5, 5, 5, None, 1, 1), 3, 2, 1),
    "both concise are missing": ((None, 5, 5, None, 1, 1), 1, 2, 1),
    "every wrong one is missing": ((5, 5, 5, None, None, None), 0, 0, 0),
    "nothing was scored": ((None,) * 6, 0, 0, 0),
    "all right ones alike": ((2, 2, 2, 1, 2, 3), 0, 1, 2),
    "the concise one wins alone": ((3, 1, 2, 2, 2, 2), 2, 1, 0),
    "the plain one wins alone": ((0, 1, 0, 0, 0, 0), 1, 1, 1),
    "the markdown one wins alone": ((0, 0, 1, 0, 0, 0), 0, 1, 2),
    "crossed": ((-1, -2, -3, -3, -2, -1), 1, 1, 1),
    "a hair above is above": ((1 + 1e-12, 1, 1, 1, 1, 1), 2, 1, 0),
}


@pytest.mark.parametrize("scores, hard, normal, easy", BY_HAND.values(), ids=BY_HAND)
def test_one_prompt_by_hand(scores, hard, normal, easy):
    found = tally([("chat", scores)])
    values = [found.value(f"chat {level}") for level in ("hard", "normal", "easy", "style gap")]
    assert values == pytest.approx([hard / 3, normal / 3, easy / 3, (easy - hard) / 3], abs=1e-12)
    assert found.value("chat") == pytest.approx((hard + normal + easy) / 9, abs=1e-12)


def test_the_matrix_by_hand():
    found = tally([("chat", (3, 1, 2, 2, 2, 2)), ("chat", (1, 2, 3, 1, 2, 3))])
    cells = [[found.value(f"{i} over {j} of chat") for j in STYLES] for i in STYLES]
    assert cells == [[0.5, 0.5, 0.5], [0.5, 0, 0], [0.5, 0.5, 0]]


# The verdicts of a comparing judge on right concise against wrong concise, in the given order and in the swapped one.
CELL = {
    "right in both": (["first"], ["first"], 1),
    "right in the given order": (["first"], ["second"], 0.5),
    "right in the other": (["second"], ["first"], 0.5),
    "wrong in both": (["second"], ["second"], 0),
    "a tie is wrong": (["tie"], ["first"], 0.5),
    "two ties": (["tie"], ["tie"], 0),
    "a failure is wrong": ([NO_VERDICT], ["first"], 0.5),
    "two failures": ([NO_VERDICT], [NO_VERDICT], 0),
    "one order alone, right": (["first"], [], 1),
    "one order alone, wrong": ([], ["second"], 0),
    "one order alone, a failure": ([], [NO_VERDICT], 0),
    "two votes of three": (["first", "first", "second"], ["second"], 0.5),
    "votes that draw": (["first", "second"], ["first"], 0.5),
    "a vote that failed is no vote": (["first", NO_VERDICT], ["first", "tie"], 1),
}


@pytest.mark.parametrize("given, other, win", CELL.values(), ids=CELL)
def test_a_comparing_judge_decides_a_cell_by_its_verdicts(given, other, win):
    comparisons = [Comparison(0, 3, o) for o in given] + [Comparison(0, 3, o, swapped=True) for o in other]
    for scores, elsewhere in ((ALL_WRONG, 0), (ALL_RIGHT, 8)):  # the cells that it did not compare go by scores
        found = tally([("chat", scores, comparisons)])
        assert found.value("concise over concise of chat") == win
        assert found.value("chat") == pytest.approx((elsewhere + win) / 9, abs=1e-12)


def test_a_comparison_named_the_other_way_round_says_the_same():
    comparisons = [Comparison(3, 0, "second"), Comparison(3, 0, "first", swapped=True)]
    assert tally([("chat", ALL_WRONG, comparisons)]).value("concise over concise of chat") == 0.5


def test_safety_pools_its_two_parts():
    rows = [("safety-refuse", ALL_RIGHT)] + [("safety-response", ALL_WRONG)] * 3
    assert tally(rows).value("safety") == pytest.approx(0.25)


def test_overall_is_the_mean_of_four_domains_not_of_prompts():
    style = (1, 2, 3, 1, 2, 3)
    found = tally(
        [("chat", ALL_RIGHT)] * 3
        + [("math", ALL_WRONG), ("code", style), ("safety-refuse", style), ("math", ALL_RIGHT)]
    )
    assert found.headline == "overall" and not found.missing
    assert [found.value(d) for d in ("chat", "math", "code", "safety")] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 3])
    assert found.value("overall") == pytest.approx((1 + 1 / 2 + 2 / 3) / 4)
    assert [found.value(n) for n in ("hard", "normal", "easy")] == pytest.approx([1.5 / 4, 1.5 / 4, 3.5 / 4])
    assert found.value("style gap") == pytest.approx(2 / 4)


def test_without_math_nothing_bears_the_official_name():
    found = tally([("chat", ALL_RIGHT), ("code", ALL_WRONG), ("safety-refuse", ALL_RIGHT)])
    assert found.headline == "mean of chat, code, safety"
    assert found.value(found.headline) == pytest.approx(2 / 3)
    for name in ("overall", "hard", "normal", "easy", "style gap"):
        assert name not in found.numbers and "no math" in found.missing[name]
    assert "math" in found.missing


def test_rows_of_one_prompt_share_it():
    found = tally([("chat", ALL_RIGHT), ("chat", ALL_WRONG)])
    mean = found.means["chat: concise over concise"]
    assert mean.rows == ("0", "1") and len(set(mean.prompts)) == 2


def reference(rows):
    """Hard, normal, easy and domains, from the definition, prompt by prompt."""
    table = {}
    for subset, scores, comparisons in rows:
        domain = "safety" if subset.startswith("safety") else subset
        for i in range(3):
            for j in range(3):
                orders = {}
                for c in comparisons:
                    if {c.first, c.second} == {i, 3 + j}:
                        ahead = {"first": 1, "second": -1}.get(c.outcome if isinstance(c.outcome, str) else "", 0)
                        ahead = ahead if c.first == i else -ahead
                        orders.setdefault((c.first == i) != c.swapped, []).append(ahead)
                if orders:
                    win = sum(1 for votes in orders.values() if sum(votes) > 0) / len(orders)
                else:
                    right, wrong = scores[i], scores[3 + j]
                    win = 1 if right is not None and wrong is not None and right > wrong else 0
                table.setdefault(domain, {}).setdefault((i, j), []).append(win)
    out = {}
    for domain, cells in table.items():
        a = {cell: sum(values) / len(values) for cell, values in cells.items()}
        hard = (a[0, 1] + a[0, 2] + a[1, 2]) / 3
        normal = (a[0, 0] + a[1, 1] + a[2, 2]) / 3
        easy = (a[1, 0] + a[2, 0] + a[2, 1]) / 3
        out |= {f"{domain} hard": hard, f"{domain} normal": normal, f"{domain} easy": easy}
        out |= {domain: (hard + normal + easy) / 3, f"{domain} style gap": easy - hard}
    domains = [d for d in ("chat", "math", "code", "safety") if d in table]
    if len(domains) == 4:
        out["overall"] = sum(out[d] for d in domains) / 4
        for level in ("hard", "normal", "easy", "style gap"):
            out[level] = sum(out[f"{d} {level}"] for d in domains) / 4
    return out


@pytest.mark.parametrize("seed", range(40))
def test_official_equals_an_independent_implementation(seed):
    draw = random.Random(seed)
    subsets = list(rm_bench.COUNTS)[: draw.randint(1, 5)] if seed % 2 else list(rm_bench.COUNTS)
    rows = []
    for n in range(draw.randint(1, 25) + len(subsets)):
        scores = [draw.choice([None, 0, 1, 2, 3, draw.random()]) for _ in range(6)]
        comparisons = []
        if seed % 4 > 1:
            for pair in [(i, j) for i in range(3) for j in range(3, 6)]:
                first, second = pair if draw.random() < 0.8 else pair[::-1]
                for swapped in draw.choice([(False, True), (False,), (True,), (False, False, True), ()]):
                    outcome = draw.choice(["first", "second", "tie", NO_VERDICT])
                    comparisons.append(Comparison(first, second, outcome, swapped))
        rows.append((subsets[n % len(subsets)], scores, comparisons))
    found = tally(rows)
    expected = reference(rows)
    assert {name: found.value(name) for name in expected} == pytest.approx(expected, abs=1e-12)
    assert ("overall" in found.numbers) == ("overall" in expected)


# -- rows ---------------------------------------------------------------------------------------------------


def published(n, domain, **other):
    row = {"id": n, "prompt": f"q{n}", "domain": domain}
    return row | {"chosen": [f"c{s}" for s in range(3)], "rejected": [f"r{s}" for s in range(3)]} | other


def one_style(group, style, **other):
    row = {"group": group, "style": style, "subset": "chat", "prompt": "q", "chosen": f"c-{style}"}
    return row | {"rejected": f"r-{style}"} | other


def test_the_published_form_is_read_from_the_hub(monkeypatch):
    requested = []

    def records(source):
        requested.append(source)
        return iter([published(n, domain) for domain, count in rm_bench.COUNTS.items() for n in range(count)])

    monkeypatch.setattr(rows, "read_records", records)
    found = rm_bench.load()
    assert requested == ["hf:THU-KEG/RM-Bench:train"] and len(found.items) == 1327 and found.differs == ()
    assert found.shown_name == "RM-Bench" and found.items[0].id == "chat-0"
    assert found.items[0].responses == ("c0", "c1", "c2", "r0", "r1", "r2")
    assert found.items[0].pairs() == ((0, 3), (0, 4), (0, 5), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5))
    assert len({item.id for item in found.items}) == 1327


def test_a_json_list_is_read_as_its_repository_has_it(tmp_path):
    path = tmp_path / "total_dataset.json"
    path.write_text(json.dumps([published("a", "code"), published("b", "safety-refuse")]), encoding="utf-8")
    assert [item.id for item in rm_bench.load(str(path)).items] == ["code-a", "safety-refuse-b"]


def test_three_rows_of_a_group_are_one_item_whatever_their_order(tmp_path):
    rows = [one_style("chat-1", s) for s in ("detailed_markdown", "concise", "detailed_plain")]
    (item,) = rm_bench.load(write_rows(tmp_path / "rows.jsonl", rows)).items
    assert item.responses[:3] == ("c-concise", "c-detailed_plain", "c-detailed_markdown")
    assert item.responses[3:] == ("r-concise", "r-detailed_plain", "r-detailed_markdown")


def test_what_differs_is_said(tmp_path):
    found = rm_bench.load(write_rows(tmp_path / "rows.jsonl", [published(1, "chat")]))
    assert "chat: 1 of the published 129 prompts" in found.differs
    assert "math: none of the published 529 prompts" in found.differs
    assert found.shown_name == "RM-Bench (not the published set)"


BAD = {
    "two texts": ([published(1, "chat"), published(2, "chat", chosen=list("ab"))], "row 2: chosen is not three texts"),
    "a number among the texts": (
        [published(1, "chat", rejected=["a", "b", 3])],
        "row 1: rejected is not a list of texts",
    ),
    "a domain of another set": ([published(1, "history")], "row 1: domain is 'history'"),
    "no prompt": ([published(1, "chat", prompt=None)], "row 1: prompt is missing"),
    "a blank prompt": ([published(1, "chat", prompt=" ")], "row 1: prompt is empty"),
    "an unknown style": ([one_style("g", "verbose")], "row 1: style is 'verbose'"),
    "a style twice": ([one_style("g", "concise"), one_style("g", "concise")], "row 2: group 'g' has a row of style"),
    "two prompts": ([one_style("g", "concise"), one_style("g", "detailed_plain", prompt="r")], "row 2: group 'g'"),
    "a style missing": ([one_style("g", "concise")], "row 1: group 'g' has no row of style detailed_plain"),
    "a side that is no text": ([one_style("g", "concise", chosen=["a"])], "row 1: chosen is not text"),
    "half a surrogate pair": ([one_style("g", "concise", chosen="\ud800")], "row 1: chosen is not text"),
    "nothing": ([], "no rows"),
}


@pytest.mark.parametrize("rows, message", BAD.values(), ids=BAD)
def test_a_row_of_another_shape_is_named(tmp_path, rows, message):
    with pytest.raises(CannotRun) as error:
        rm_bench.load(write_rows(tmp_path / "rows.jsonl", rows))
    assert message in str(error.value) and "rows.jsonl" in str(error.value)


def test_the_local_file_is_798_prompts_of_nine_comparisons(shared_data):
    found = rm_bench.load(str(shared_data / "rm_bench.jsonl"))
    assert len(found.items) == 798 == len({item.id for item in found.items})
    assert all(len(item.responses) == 6 and len(item.pairs()) == 9 for item in found.items)
    assert found.differs == ("math: none of the published 529 prompts",)
