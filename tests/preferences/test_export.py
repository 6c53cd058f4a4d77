"""ScoredRow candidates to pairs: what is written, in which form, and that every prompt is accounted for."""

from __future__ import annotations

import json
from collections import Counter

import datasets
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from judges import CannotRun
from judges.batch.output import ScoreOptions
from judges.data.json_lines import to_line
from judges.data.quality import Filters
from judges.preferences.export import DROP_DESCRIPTIONS, PairOptions, PairStatistics, write_pairs
from judges.preferences.pair_selection import STRATEGIES, SelectionRule
from judges.preferences.pairs import make_pairs
from judges.preferences.scored_candidates import parse_scored_row
from judges.scorer import Scorer
from judges.scorers.baselines import Length
from judges.types import Failure, Judgment, Scorecard

COST = {"prompt_tokens": 1, "cached_tokens": 0, "generated_tokens": 1, "seconds": 0.0, "saved_tokens": 0}


def rows(path, *made):
    path.write_text("".join(json.dumps(r) + "\n" for r in made))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def judged(number, responses, scores, prompt=None, **more):
    """A row as `assay score` writes it; a score that is a text is the reason of a failure."""
    failed = [{"reason": s, "message": "why"} if isinstance(s, str) else None for s in scores]
    told = [None if isinstance(s, str) else s for s in scores]
    row = {"prompt": f"question {number}" if prompt is None else prompt, "row": number, "id": f"r{number}"}
    if len(responses) == 1:
        row |= {"response": responses[0], "score": told[0], "failure": failed[0], "votes": []}
    else:
        row |= {"responses": responses, "scores": told, "failures": failed, "votes": [[] for _ in scores]}
    return row | more


def lost(number, reason="timeout"):
    """A row for which the policy wrote nothing."""
    why = {"reason": reason, "message": "too slow"}
    row = {"prompt": f"question {number}", "row": number, "id": f"r{number}", "generation": None}
    return row | {"score": None, "failure": why, "votes": [], "usage": None}


def export(tmp_path, *made, mapping=None, name="pairs.jsonl", **recipe):
    """The account and the pairs."""
    source = tmp_path / "candidates.jsonl"
    source.write_bytes(b"".join(map(to_line, made)))
    target = tmp_path / name
    account = write_pairs(source, mapping or {}, target, PairOptions(**recipe))
    balanced(account)
    return account, read(target) if target.exists() and name.endswith(".jsonl") else []


def balanced(account):
    assert account.prompts == account.paired + account.drops.total()
    assert account.pairs == len(account.score_chosen) == len(account.length_rejected) >= account.paired
    assert account.drops.keys() <= DROP_DESCRIPTIONS.keys() and account.lost.keys() <= DROP_DESCRIPTIONS.keys()
    assert all(a > b for a, b in zip(account.score_chosen, account.score_rejected, strict=True))


# -- what is written ------------------------------------------------------------------------------------------


def test_a_pair_is_two_conversations_with_their_scores_in_the_inputs_order(tmp_path):
    account, made = export(
        tmp_path,
        judged(1, ["a", "bb", "ccc"], [2.0, 5.0, 1.0]),
        judged(2, ["a", "b"], [3.0, 3.0]),
        judged(3, ["dd", "e"], [0.5, 0.25]),
    )
    assert made == [
        {
            "prompt": [{"role": "user", "content": "question 1"}],
            "chosen": [{"role": "assistant", "content": "bb"}],
            "rejected": [{"role": "assistant", "content": "ccc"}],
            **{"score_chosen": 5.0, "score_rejected": 1.0, "id": "r1", "row": 1},
        },
        {
            "prompt": [{"role": "user", "content": "question 3"}],
            "chosen": [{"role": "assistant", "content": "dd"}],
            "rejected": [{"role": "assistant", "content": "e"}],
            **{"score_chosen": 0.5, "score_rejected": 0.25, "id": "r3", "row": 3},
        },
    ]
    assert account.to_json() == {
        **{"prompts": 3, "paired": 2, "pairs": 2, "candidates": 7, "truncated": 0},
        **{"drops": {"level": 1}, "lost": {}, "failures": {}},
        "mean_score": pytest.approx((2 + 5 + 1 + 3 + 3 + 0.5 + 0.25) / 7),
        **{"mean_score_chosen": 2.75, "mean_score_rejected": 0.625},
        **{"mean_length_chosen": 2.0, "mean_length_rejected": 2.0},
    }


def test_the_account_by_hand(tmp_path):
    cut = {"generation": {"truncated": [True, False, True], "usage": COST}}
    account, made = export(
        tmp_path,
        judged(1, ["a", "b", "c"], [2.0, 1.0, "missing"], **cut),
        lost(2),
        judged(3, ["a", "b"], ["refused", 1.0]),
        judged(4, ["a", " "], [1.0, "empty"]),
        judged(5, ["a", " a"], [1.0, 2.0]),
        judged(6, ["a"], [1.0]),
        judged(7, ["a", "b"], [1.0, 1.0]),
        judged(8, ["a", "b"], [1.25, 1.0]),
        judged(9, ["a", "b"], [3.0, 1.0], votes=[[3.0, 3.0], [1.0, {"reason": "missing", "message": ""}]]),
        judged(10, ["a", "b"], [3.0, 1.0], votes=[[3.0, 3.0], [1.0, 5.0]]),
        {
            "row": 11,
            "id": "row-11",
            "score": None,
            "failure": {"reason": "malformed", "message": "no JSON"},
            "votes": [],
        },
        rule=SelectionRule(margin=1.0, agreement=0.6),
    )
    assert [row["row"] for row in made] == [1, 9]
    told = account.to_json()
    assert told["drops"] == dict.fromkeys(["agreement", "empty", "failed", "level", "margin", "same", "single"], 1) | {
        "not-drawn": 2
    }
    assert (told["prompts"], told["paired"], told["candidates"], told["truncated"]) == (11, 2, 18, 2)
    assert told["failures"] == {"missing": 1, "timeout": 1, "refused": 1, "empty": 1, "malformed": 1}


def test_a_decimal_score_keeps_its_digits_in_the_account(tmp_path):
    account, _ = export(tmp_path, judged(1, ["a", "b"], [0.1, -0.3]))
    assert (account.to_json()["mean_score_chosen"], account.to_json()["mean_score_rejected"]) == (0.1, -0.3)


CONVERSATION = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "naïve 问题 🙂"},
    {"role": "assistant", "content": "ja?"},
    {"role": "user", "content": "line\nbreak"},
]


@pytest.mark.parametrize("form", [".parquet", ".jsonl"])
def test_datasets_loads_the_folder_and_the_file_and_conversations_come_back_whole(tmp_path, form):
    source = rows(
        tmp_path / "in.jsonl",
        {"prompt": CONVERSATION, "responses": ["é", "长长长", "\u2028x"], "extra": {"a": [1, None]}},
        {"prompt": "q", "system": "be kind", "responses": ["a", "b"]},
        {"prompt": "plain", "responses": ["a", "bb"]},
    )
    folder = tmp_path / "out"
    make_pairs(source, Length(), None, folder, suffix=form)
    kind = "parquet" if form == ".parquet" else "json"
    one = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    other = datasets.load_dataset(
        kind, data_files=str(folder / f"pairs{form}"), split="train", cache_dir=str(tmp_path / "cache")
    )
    for loaded in (one, other):
        assert set(loaded.column_names) == {
            *("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "id", "row")
        }
        first, second = loaded.to_list()
        assert first["prompt"] == CONVERSATION
        assert first["chosen"] == [{"role": "assistant", "content": "长长长"}]
        assert first["rejected"] == [{"role": "assistant", "content": "é"}]
        assert second["prompt"] == [{"role": "user", "content": "plain"}]
        assert (second["score_chosen"], second["score_rejected"], second["row"]) == (2.0, 1.0, 3)


def test_a_system_prompt_of_a_column_stands_before_the_conversation(tmp_path):
    made = export(tmp_path, judged(1, ["a", "b"], [1.0, 2.0], system="be brief"))[1]
    assert [turn["role"] for turn in made[0]["prompt"]] == ["system", "user"]
    talk = judged(1, ["a", "b"], [1.0, 2.0], messages=CONVERSATION)
    del talk["prompt"]
    assert export(tmp_path, talk)[1][0]["prompt"] == CONVERSATION


def test_parquet_and_json_lines_say_the_same(tmp_path):
    given = [judged(n, ["a", "bb", f"{n}"], [n % 3, 1.5, 0.1 * n]) for n in range(1, 30)]
    made = export(tmp_path, *given, rule=SelectionRule("all"))[1]
    export(tmp_path, *given, rule=SelectionRule("all"), name="pairs.parquet")
    assert pq.read_table(tmp_path / "pairs.parquet").to_pylist() == made and len(made) > 60


# -- rows as they come ----------------------------------------------------------------------------------------


def test_mapped_columns_are_read_where_they_stand(tmp_path):
    row = judged(1, ["a", "b"], [1.0, 2.0], question="mine?", answers=["x", "y"])
    del row["responses"], row["prompt"]
    made = export(tmp_path, row, mapping={"prompt": "question", "responses": "answers"})[1]
    assert made[0]["prompt"][0]["content"] == "mine?" and made[0]["chosen"][0]["content"] == "y"


class Fixed(Scorer):
    """Says of each response what a table says, or that it has no verdict."""

    name = "fixed"

    def __init__(self, table):
        self.table, self.asked = table, []

    def stream(self, items):
        for item in items:
            self.asked.append(item.id)
            said = [self.table(item, text) for text in item.responses]
            yield Scorecard(
                item.id, tuple(Judgment(failure=s) if isinstance(s, Failure) else Judgment(score=s) for s in said)
            )


@pytest.mark.parametrize(
    ("row", "mapping"),
    [
        ({"scores": [9, 1]}, {}),
        ({"failure": "mine", "failures": ["x"], "score": "high", "votes": ["a", "b"]}, {}),
        ({"generation": "a text of the input", "truncated": True, "usage": "none", "row": 77}, {}),
        ({"generation": None}, {}),
        ({"response": "mine", "ranking": [2, 1]}, {}),
        ({"input.scores": [1], "input.id": "x", "id": 7}, {}),
        ({"answers": ["a", "ccc"], "responses": "no list"}, {"responses": "answers"}),
        ({"generation": ["a", "ccc"], "responses": None}, {"responses": "generation"}),
        ({"critique": ["a", "ccc"], "responses": None}, {"responses": "critique"}),
        ({"score": "q", "prompt": None}, {"prompt": "score"}),
        ({"id": "q", "prompt": None}, {"prompt": "id"}),
    ],
)
def test_columns_of_the_input_that_are_called_like_ours_are_not_taken_for_ours(tmp_path, row, mapping):
    source = rows(tmp_path / "in.jsonl", {"prompt": "q", "responses": ["a", "ccc"]} | row)
    account = make_pairs(
        source, Length(), None, tmp_path / "out", options=ScoreOptions(mapping=mapping), suffix=".jsonl"
    )
    (made,) = read(tmp_path / "out" / "pairs.jsonl")
    assert (made["score_chosen"], made["score_rejected"]) == (3, 1) and made["prompt"][0]["content"] == "q"
    assert account.scores.tolist() == [1, 3] and not account.failures


def test_two_rows_of_one_id_are_two_prompts_also_where_the_id_is_the_prompt(tmp_path):
    source = rows(tmp_path / "in.jsonl", *({"id": "q", "responses": ["a", "ccc"]} for _ in range(2)))
    make_pairs(
        source, Length(), None, tmp_path / "out", options=ScoreOptions(mapping={"prompt": "id"}), suffix=".jsonl"
    )
    made = read(tmp_path / "out" / "pairs.jsonl")
    assert [row["prompt"][0]["content"] for row in made] == ["q", "q"] and len({row["id"] for row in made}) == 2


def test_drawn_candidates_are_read_whatever_the_prompts_row_held_of_others():
    columns = judged(1, ["a", "b"], [1.0, 2.0], generation={"truncated": [False, True], "usage": COST})
    columns |= {"ranking": [1, 2, 3], "input.responses": [], "ratings": [5]}
    row = parse_scored_row(columns, {"scores": "ratings"})
    assert [(c.text, c.score, c.truncated) for c in row.candidates] == [("a", 1.0, False), ("b", 2.0, True)]


def test_a_drawn_candidate_that_is_not_text_is_a_failure_and_the_others_stay(tmp_path):
    drawn = {"generation": {"truncated": [False] * 3, "usage": COST}}
    account, made = export(tmp_path, judged(1, ["a", "\ud83d", "ccc"], [1.0, 9.0, 2.0], **drawn))
    assert (made[0]["chosen"][0]["content"], account.failures) == ("ccc", {"malformed": 1})
    one = judged(2, ["\ud83d"], [9.0], generation={"truncated": [False], "usage": COST})
    assert parse_scored_row(one, {}).candidates[0].score.reason == "malformed"


def test_rows_that_cannot_be_read_are_counted_and_the_others_go_on(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"prompt": "q", "responses": ["a", "bb"]}\nno json\n[1]\n{"responses": ["a", "b"]}\n'
        '{"prompt": "q", "responses": ["a", 1]}\n{"prompt": "q"}\n{"prompt": "\\ud83d", "responses": ["a", "b"]}\n'
        '{"prompt": "q", "responses": ["a", "b"], "scores": [1]}\n{"prompt": "w", "responses": ["a", "bb", "ccc"]}\n'
    )
    account = make_pairs(str(path), Length(), None, tmp_path / "out", suffix=".jsonl")
    balanced(account)
    assert [row["row"] for row in read(tmp_path / "out" / "pairs.jsonl")] == [1, 9]
    # Of the last but one the candidates were read, and not judged, for what humans said of them was not.
    assert account.prompts == 9 and account.drops == {"not-drawn": 6, "failed": 1}
    assert account.failures == {"malformed": 4 + 2, "empty": 2}


def test_rows_are_in_the_inputs_order_in_whatever_order_they_are_judged(tmp_path):
    class Backwards(Length):
        def stream(self, items):
            yield from super().stream(reversed(list(items)))

    source = rows(tmp_path / "in.jsonl", *({"prompt": f"q{i}", "responses": ["a", "bb"]} for i in range(20)))
    make_pairs(source, Backwards(), None, tmp_path / "out", suffix=".jsonl")
    assert [row["row"] for row in read(tmp_path / "out" / "pairs.jsonl")] == list(range(1, 21))
    assert [row["row"] for row in read(tmp_path / "out" / "candidates.jsonl")] == list(range(1, 21))


# -- the budget -----------------------------------------------------------------------------------------------


def test_the_budget_draws_so_many_pairs_the_same_for_one_seed_each_as_often_as_another(tmp_path):
    given = [judged(n, ["a", "bb"], [1.0, 2.0]) for n in range(1, 11)]
    counts = Counter()
    for seed in range(200):
        account, made = export(tmp_path, *given, rule=SelectionRule(seed=seed), budget=3)
        drawn = [row["row"] for row in made]
        assert len(drawn) == 3 == account.pairs and drawn == sorted(drawn)
        assert account.drops == {"budget": 7} == account.lost
        counts.update(drawn)
    # 60 each, and a standard deviation of 6.5.
    assert counts.keys() == set(range(1, 11)) and all(30 < count < 90 for count in counts.values())
    again = [export(tmp_path, *given, rule=SelectionRule(seed=5), budget=3)[1] for _ in range(2)]
    assert again[0] == again[1] != export(tmp_path, *given, rule=SelectionRule(seed=6), budget=3)[1]


@pytest.mark.parametrize("budget", [10, 11, 1000])
def test_a_budget_that_is_not_used_up_takes_nothing(tmp_path, budget):
    given = [judged(n, ["a", "bb"], [1.0, 2.0]) for n in range(1, 11)]
    assert export(tmp_path, *given, budget=budget)[0].pairs == 10


def test_the_budget_counts_pairs_and_a_prompt_that_keeps_one_is_not_dropped(tmp_path):
    account, made = export(tmp_path, judged(1, ["a", "b", "c"], [1.0, 2.0, 3.0]), rule=SelectionRule("all"), budget=1)
    assert (account.paired, account.pairs, account.lost, account.drops) == (1, 1, {"budget": 2}, {}) and len(made) == 1


# -- the filters ----------------------------------------------------------------------------------------------

LONG = "a rather long answer that goes on and on about the river"


def test_quality_filters_take_pairs_and_each_is_counted_by_its_reason(tmp_path):
    account, made = export(
        tmp_path,
        judged(1, ["yes it is", "no never"], [2.0, 1.0]),
        judged(2, [LONG, LONG + "s"], [2.0, 1.0]),
        judged(3, ["same", "pair"], [2.0, 1.0], prompt="asked twice"),
        judged(4, ["same", "pair"], [3.0, 1.0], prompt="asked  twice"),
        judged(5, ["left", "right"], [2.0, 1.0], prompt="contested"),
        judged(6, ["left", "right"], [1.0, 2.0], prompt="contested"),
        judged(7, ["...", "words"], [2.0, 1.0]),
        judged(8, ["of", "benchmark"], [2.0, 1.0], prompt="A question of the Benchmark"),
        judged(9, ["a", "b"], [1.0, 1.0]),
        filters=Filters(),
        shared_prompts={"bench": ["a question of the benchmark"]},
    )
    told = {"similar": 1, "duplicate": 1, "contradictory": 2, "length": 1, "shared-prompt": 1}
    assert [row["row"] for row in made] == [1, 3] and account.lost == told and account.drops == told | {"level": 1}


def test_a_benchmarks_prompts_stay_out_without_the_other_filters(tmp_path):
    account, made = export(
        tmp_path,
        judged(1, ["...", LONG], [2.0, 1.0], prompt="in it"),
        judged(2, ["...", "!"], [2.0, 1.0], prompt="twice"),
        judged(3, ["...", "!"], [2.0, 1.0], prompt="twice"),
        judged(4, ["!", "..."], [2.0, 1.0], prompt="twice"),
        judged(5, [LONG, LONG + "s"], [2.0, 1.0]),
        shared_prompts={"bench": ["In  it"]},
    )
    assert account.drops == account.lost == {"shared-prompt": 1} and [row["row"] for row in made] == [2, 3, 4, 5]


def test_a_prompt_that_keeps_a_pair_is_not_dropped_and_one_that_loses_all_has_the_widest_pairs_reason(tmp_path):
    account, made = export(
        tmp_path,
        judged(1, [LONG, LONG + "s", "short"], [3.0, 2.0, 1.0]),
        judged(2, [LONG, LONG + "s", "..."], [3.0, 2.0, 1.0]),
        rule=SelectionRule("all"),
        filters=Filters(),
    )
    assert [row["row"] for row in made] == [1, 1] and account.lost == {"similar": 2, "length": 2}
    assert account.drops == {"length": 1}


def test_a_budget_is_drawn_of_what_the_filters_leave(tmp_path):
    given = [judged(n, ["..." if n % 2 else f"yes {n}", "no"], [2.0, 1.0]) for n in range(1, 21)]
    account, made = export(tmp_path, *given, filters=Filters(), budget=4)
    assert account.drops == {"length": 10, "budget": 6} and all(row["row"] % 2 == 0 for row in made) and len(made) == 4


# -- no pair, and another recipe ------------------------------------------------------------------------------


def test_no_pair_at_all_says_what_to_change_and_leaves_the_account_the_candidates_and_no_stale_pairs(tmp_path):
    source = rows(tmp_path / "in.jsonl", *({"prompt": f"q{i}", "responses": ["a", "bb"]} for i in range(3)))
    folder = tmp_path / "out"
    scorer = Fixed(lambda item, text: float(len(text)))
    make_pairs(source, scorer, None, folder)
    assert (folder / "pairs.parquet").exists() and list((folder / "plots").iterdir())
    with pytest.raises(CannotRun, match=r"no pair is left of 3 prompts: 3 for this reason: .* a smaller --margin"):
        make_pairs(source, scorer, None, folder, PairOptions(SelectionRule(margin=2.0)))
    assert scorer.asked == ["row-1", "row-2", "row-3"], "another recipe judges nothing"
    assert not list(folder.glob("pairs.*")) and not list((folder / "plots").iterdir())
    told = json.loads((folder / "account.json").read_text())
    assert told["account"]["drops"] == {"margin": 3} and told["rule"]["margin"] == 2
    assert len(read(folder / "candidates.jsonl")) == 3
    card = (folder / "README.md").read_text()
    assert "0 pairs for 0 prompts" in card and "candidates.jsonl" in card and "load_dataset" not in card
    make_pairs(source, scorer, None, folder, suffix=".jsonl")
    assert [path.name for path in folder.glob("pairs.*")] == ["pairs.jsonl"]
    make_pairs(source, scorer, None, folder)
    assert [path.name for path in folder.glob("pairs.*")] == ["pairs.parquet"]
    assert not list(folder.glob("*.part")) and not list(folder.glob(".*.part"))


@pytest.mark.parametrize(
    ("table", "recipe", "says"),
    [
        (lambda i, t: 1.0, PairOptions(), "ask for more votes"),
        (lambda i, t: Failure("missing", "no verdict"), PairOptions(), "failures by reason in account.json"),
        (lambda i, t: float(len(t)), PairOptions(filters=Filters(min_length=9)), "weaker filters"),
    ],
)
def test_why_there_is_no_pair_is_the_reason_of_most_prompts(tmp_path, table, recipe, says):
    source = rows(tmp_path / "in.jsonl", {"prompt": "q", "responses": ["a", "bb"]})
    with pytest.raises(CannotRun, match=says):
        make_pairs(source, Fixed(table), None, tmp_path / "out", recipe)


def test_a_card_is_written_whatever_the_scores_are(tmp_path):
    source = rows(tmp_path / "in.jsonl", {"prompt": "q", "responses": ["a", "bb", "ccc"]})
    for place, worth in enumerate(([1e17, 1e17 + 32, 1e17], [-1e308, 1e308, 0.0], [1000.0, 1000.0001, 1000.0])):
        table = dict(zip(["a", "bb", "ccc"], worth, strict=True))
        folder = tmp_path / f"out{place}"
        assert make_pairs(source, Fixed(lambda i, t, table=table: table[t]), None, folder).pairs == 1
        assert "Prompts with and without pairs" in (folder / "README.md").read_text()


def test_the_card_tells_the_counts_and_how_it_was_made(tmp_path):
    source = rows(tmp_path / "in.jsonl", {"prompt": "q", "responses": ["a", "bb"]}, {"prompt": "r", "responses": ["a"]})
    make_pairs(
        source, Length(), None, tmp_path / "out", PairOptions(SelectionRule(seed=4), Filters(), {"a|b": ["x y"]}, 7)
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "1 pairs for 1 prompts, generated by Assay: length scored 3 candidates for 2 prompts." in card
    for line in ("| single | only one candidate | 1 |", "| budget | 7 |", "| rule: seed | 4 |", "| all |  | 2 |"):
        assert line in card, line
    assert "data_files: pairs.parquet" in card and "a\\|b" in card and "longer in 100% of pairs" in card
    assert all((tmp_path / "out" / "plots" / f"{name}.png").exists() for name in ("scores", "margins", "lengths"))


# -- of any rows ----------------------------------------------------------------------------------------------

a_text = st.sampled_from(["", " ", "a", "a ", "b", "c d", "long " * 4, "ü", "...", "Long " * 4])
a_score = st.sampled_from([0.0, 1.0, 2.5, 5.0, "missing", "empty"])
a_row = st.lists(st.tuples(a_text, a_score), max_size=5)
recipes = st.builds(
    PairOptions,
    st.builds(SelectionRule, st.sampled_from(STRATEGIES), st.integers(1, 4), st.sampled_from([0.0, 1.0, 2.5])),
    st.none() | st.just(Filters()) | st.just(Filters(max_length=2, max_similarity=1.0)),
    st.just({}) | st.just({"bench": ["question 1"]}),
    st.none() | st.integers(1, 6),
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(a_row, st.integers(1, 3)), min_size=1, max_size=8), recipes)
def test_of_any_rows_every_prompt_is_accounted_for_and_no_wrong_candidate_is_written(tmp_path, given_rows, recipe):
    made = [
        judged(n, [t for t, _ in row], [s for _, s in row], prompt=f"question {prompt}") if row else lost(n)
        for n, (row, prompt) in enumerate(given_rows, start=1)
    ]
    source, target = tmp_path / "c.jsonl", tmp_path / "pairs.jsonl"
    source.write_bytes(b"".join(map(to_line, made)))
    account = write_pairs(source, {}, target, recipe)
    balanced(account)
    written = read(target) if target.exists() else []
    assert target.exists() == bool(account.pairs) and len(written) == account.pairs
    assert account.prompts == len(made) and account.candidates == sum(len(row) for row, _ in given_rows)
    assert len({row["row"] for row in written}) == account.paired
    assert [row["row"] for row in written] == sorted(row["row"] for row in written)
    assert len(written) <= (recipe.budget or 99)
    whole = write_pairs(source, {}, target, PairOptions(recipe.rule))
    assert whole.pairs == account.pairs + account.lost.total(), "each pair is written or lost, once"
    for row in written:
        said = given_rows[row["row"] - 1][0]
        sides = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert (sides[0], row["score_chosen"]) in said and (sides[1], row["score_rejected"]) in said
        assert row["score_chosen"] - row["score_rejected"] >= recipe.rule.margin
        assert row["score_chosen"] > row["score_rejected"]
        assert sides[0].split() and sides[1].split() and sides[0].split() != sides[1].split()
        if recipe.shared_prompts:
            assert row["prompt"][0]["content"] != "question 1"


def test_an_empty_account_tells_no_means():
    assert PairStatistics().to_json()["mean_score"] is None
