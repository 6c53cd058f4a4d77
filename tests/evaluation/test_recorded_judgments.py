import json
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from judges import Failure, Item, Judgment, Scorecard, load_scorer
from judges.batch.run import score_file
from judges.errors import CannotRun
from judges.evaluation.benchmark_run import scorer_input_digest
from judges.evaluation.recorded_judgments import RecordedJudgments
from judges.types import FAILURE_REASONS, Comparison, Gold, Usage, to_dict


def item(name, *responses, **more):
    return Item(id=name, prompt=f"prompt of {name}", responses=responses or ("x", "y"), **more)


def write_rows(folder, *rows, name="judgments.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def scores(card):
    return [j.score if j.failure is None else j.failure.reason for j in card.judgments]


def score_row(tmp_path, row, the_item, **settings):
    return RecordedJudgments(write_rows(tmp_path, row), **settings).score([the_item])[0]


# -- rows of scores and verdicts ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"scores": [1, 2.5]}, [1, 2.5]),
        ({"scores": [[0.5], [1.5]]}, [0.5, 1.5]),
        ({"scores": [1, None]}, [1, "missing"]),
        ({"scores": [1, float("nan")]}, [1, "off-scale"]),
        ({"score_chosen": 3, "score_rejected": 1}, [1, 3]),  # the second response is the chosen one
        ({"chosen_score": 3, "rejected_score": None}, ["missing", 3]),
        ({"scores_chosen": 3, "scores_rejected": 1}, [1, 3]),
        ({"verdict": "a"}, [1, 0]),
        ({"verdict": "B>A"}, [0, 1]),
        ({"verdict": "Tie"}, [0.5, 0.5]),
        ({"verdict": ""}, ["missing", "missing"]),
        ({"verdict": "a", "verdict_swapped": "b"}, [1, 0]),  # both times the same response
        ({"verdict": "a", "verdict_swapped": "a"}, [0.5, 0.5]),  # both times the first place
        ({"verdict": "b", "verdict_swapped": "A>B"}, [0, 1]),
        ({"verdict": "b", "verdict_swapped": None}, ["missing", "missing"]),
    ],
)
def test_rows_of_scores_and_verdicts_by_hand(tmp_path, row, expected):
    assert scores(score_row(tmp_path, {"id": "i", **row}, item("i", gold=Gold(chosen=(1,))))) == expected


def test_verdicts_are_comparisons_in_the_order_they_were_shown(tmp_path):
    card = score_row(tmp_path, {"id": "i", "verdict": "a", "verdict_swapped": "a"}, item("i"))
    assert card.comparisons == (Comparison(0, 1, "first"), Comparison(0, 1, "second", swapped=True))
    assert card.preference == (0.5, 0.5)


def test_columns_named_by_the_user(tmp_path):
    row = {"id": "i", "first": 0.25, "second": 0.75, "both": [4, 5]}
    assert scores(score_row(tmp_path, row, item("i"), score=("first", "second"))) == [0.25, 0.75]
    assert scores(score_row(tmp_path, row, item("i"), score="both")) == [4, 5]
    with pytest.raises(CannotRun, match=r"row 1: no column 'third'"):
        score_row(tmp_path, row, item("i"), score=("first", "third"))


def test_numbers_as_text_and_lists_in_a_csv(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text('id,scores\n1,"[0.5, 2]"\n2,"[1, null]"\n')
    assert [scores(c) for c in RecordedJudgments(path).score([item("1"), item("2")])] == [[0.5, 2], [1, "missing"]]
    path.write_text("id,score_chosen,score_rejected\n1,0.5,2\n2,,1e3\n")
    items = [item(str(i), gold=Gold(chosen=(0,))) for i in (1, 2)]
    assert [scores(c) for c in RecordedJudgments(path).score(items)] == [[0.5, 2], ["missing", 1000]]


def test_a_single_score_and_its_failure(tmp_path):
    failure = {"reason": "timeout", "message": "60 s"}
    path = write_rows(tmp_path, {"id": "a", "score": 7}, {"id": "b", "score": None, "failure": failure})
    cards = RecordedJudgments(path).score([item("a", "x"), item("b", "x")])
    assert scores(cards[0]) == [7] and cards[1].judgments[0].failure == Failure("timeout", "60 s")


def test_a_row_that_holds_its_responses_is_aligned_by_them(tmp_path):
    row = {"id": "i", "responses": ["third\n", "first", "second"], "scores": [3, 1, 2]}
    assert scores(score_row(tmp_path, row, item("i", "first", "second", "third"))) == [1, 2, 3]
    with pytest.raises(CannotRun, match=r"row 1: the row's responses are not those of item 'i'"):
        score_row(tmp_path, row, item("i", "first", "second", "fourth"))


def test_equal_responses_keep_their_scores(tmp_path):
    row = {"id": "i", "responses": ["same", "same"], "scores": [3, 1]}
    assert scores(score_row(tmp_path, row, item("i", "same", "same"))) == [3, 1]


def test_an_item_that_the_file_lacks_failed_and_has_no_score(tmp_path):
    path = write_rows(tmp_path, {"id": "a", "scores": [1, 2]})
    lacking = RecordedJudgments(path).score([item("a"), item("b", "x", "y", "z")])[1]
    assert scores(lacking) == ["missing"] * 3 and lacking.preference is None


def test_another_benchmark_s_file_is_refused_with_an_id_of_each_side(tmp_path):
    rows = [{"id": f"theirs-{i}", "scores": [1, 2]} for i in range(9)] + [{"id": "ours-0", "scores": [1, 2]}]
    scorer = RecordedJudgments(write_rows(tmp_path, *rows))
    with pytest.raises(CannotRun, match=r"holds 1 of the benchmark's 3 items: .*'theirs-0'.*'ours-1'"):
        scorer.score([item(f"ours-{i}") for i in range(3)])
    assert scorer.share_found([item("ours-0"), item("ours-1")]) == 0.5
    scorer.check([item("ours-0"), item("ours-1")])


def test_ids_are_the_same_with_and_without_a_copy_s_prefix(tmp_path):
    path = write_rows(tmp_path, {"id": "jb-1", "scores": [1, 2]}, {"id": 2, "scores": [3, 4]})
    cards = RecordedJudgments(path).score([item("1"), item("jb-2")])
    assert [card.id for card in cards] == ["1", "jb-2"] and [scores(c) for c in cards] == [[1, 2], [3, 4]]


def test_the_identity_is_the_file_s_content(tmp_path):
    path = write_rows(tmp_path, {"id": "a", "scores": [1, 2]})
    copy = write_rows(tmp_path, {"id": "a", "scores": [1, 2]}, name="copy.jsonl")
    other = write_rows(tmp_path, {"id": "a", "scores": [1, 3]}, name="other.jsonl")
    digests = [RecordedJudgments(p).identity()["sha256"] for p in (path, copy, other)]
    assert digests[0] == digests[1] != digests[2]


# -- malformed rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, what",
    [
        ({"id": "b"}, "the row holds no judgment"),
        ({"scores": [1, 2]}, "id must be a text or a whole number, not None"),
        ({"id": "", "scores": [1, 2]}, "id must be a text or a whole number"),
        ({"id": True, "scores": [1, 2]}, "id must be a text or a whole number, not True"),
        ({"id": {"$ne": 1}, "scores": [1, 2]}, "id must be a text or a whole number"),
        ({"id": 1.5, "scores": [1, 2]}, "id must be a text or a whole number"),
        ({"id": "a", "scores": [1, 2]}, "id 'a' is already used by .*row 1"),
        ({"id": "b", "scores": []}, "empty list"),
        ({"id": "b", "scores": [1, "high"]}, "a score must be a number, not 'high'"),
        ({"id": "b", "scores": [1, True]}, "a score must be a number, not True"),
        ({"id": "b", "scores": [1, {}]}, "a score must be a number"),
        ({"id": "b", "scores": "[1, 2"}, "not a list of numbers"),
        ({"id": "b", "verdict": "left"}, "a verdict must be a, b, tie"),
        ({"id": "b", "verdict": ["a"]}, "a verdict must be a, b, tie"),
        ({"id": "b", "scores": [None, 1], "failures": [{"reason": "tired"}, None]}, "not a failure"),
        ({"id": "b", "judgments": [], "comparisons": []}, "not a judgment of assay compare"),
        ({"id": "b", "judgments": ["x"], "comparisons": []}, "not a judgment of assay compare"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_row(tmp_path, row, what):
    with pytest.raises(CannotRun, match=rf"judgments\.jsonl, row 2: .*{what}"):
        RecordedJudgments(write_rows(tmp_path, {"id": "a", "scores": [1, 2]}, row))


@pytest.mark.parametrize(
    "change",
    [
        {"preference": [0.5]},
        {"comparisons": [{"first": 0, "second": 7, "outcome": "first", "swapped": False}]},
        {"comparisons": [{"first": 0, "second": 1, "outcome": "third", "swapped": False}]},
        {"comparisons": [{"first": 0, "second": 1, "outcome": "first", "seen": 1}]},
        {"comparisons": {"first": 0}},
        {"judgments": [{"score": 1}]},
    ],
)
def test_a_card_that_no_scorer_wrote_is_refused(tmp_path, change):
    row = to_dict(Scorecard("a", (Judgment(score=1.0), Judgment(score=2.0)))) | change
    with pytest.raises(CannotRun, match=r"row 1: not a judgment of assay compare"):
        RecordedJudgments(write_rows(tmp_path, json.loads(json.dumps(row))))


@pytest.mark.parametrize("score", [True, "4", [1]])
def test_a_card_s_score_is_a_number(tmp_path, score):
    row = to_dict(Scorecard("a", (Judgment(score=1.0),)))
    row["judgments"][0]["score"] = score
    with pytest.raises(CannotRun, match=r"row 1: not a judgment of assay compare"):
        RecordedJudgments(write_rows(tmp_path, row))


@pytest.mark.parametrize(
    "the_item, what",
    [
        (item("a", "x"), "the row has 2 judgments, and item 'a' has 1 responses"),
        (item("a", "x", "y", "z"), "the row has 2 judgments, and item 'a' has 3 responses"),
    ],
)
def test_a_row_that_does_not_fit_its_item_is_named(tmp_path, the_item, what):
    with pytest.raises(CannotRun, match=rf"row 1: {what}"):
        score_row(tmp_path, {"id": "a", "scores": [1, 2]}, the_item)


@pytest.mark.parametrize("gold", [None, Gold(tie=True), Gold(scores=(1, 2)), Gold(chosen=(0, 1))])
def test_chosen_and_rejected_need_to_know_which_is_which(tmp_path, gold):
    with pytest.raises(
        CannotRun,
        match=r"row 1: the row scores a chosen and a rejected response, and item 'a' has no single chosen response",
    ):
        score_row(tmp_path, {"id": "a", "score_chosen": 1, "score_rejected": 0}, item("a", gold=gold))


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(CannotRun, match="no file"):
        RecordedJudgments(tmp_path / "absent.jsonl")
    with pytest.raises(CannotRun, match="no file"):
        RecordedJudgments(tmp_path)
    with pytest.raises(CannotRun, match="no rows"):
        RecordedJudgments(write_rows(tmp_path))
    (tmp_path / "torn.jsonl").write_text('{"id": "a", "scores": [1, 2]}\n{"id": "b", "sco')
    with pytest.raises(CannotRun, match=r"torn\.jsonl, row 2: not JSON"):
        RecordedJudgments(tmp_path / "torn.jsonl")


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "\x1b[31mred", "a" * 100_000, "'; drop table", "__class__", "\ud800", "{x}", "%s", "日本"],
)
def test_hostile_ids_are_only_ids_and_are_escaped_in_errors(tmp_path, name):
    path = write_rows(tmp_path, {"id": name, "scores": [1, 2]})
    assert scores(RecordedJudgments(path).score([item(name)])[0]) == [1, 2]
    with pytest.raises(CannotRun) as error:
        RecordedJudgments(path).score([item("mine")])
    message = str(error.value)
    assert len(message) < 500 + len(str(path)) and "\x1b" not in message and message.encode()


def test_a_number_of_thousands_of_digits_is_an_error_of_its_row(tmp_path):
    path = tmp_path / "big.jsonl"
    path.write_text('{"id": "a", "scores": [1, 1' + "0" * 400 + "]}\n")
    with pytest.raises(CannotRun, match="row 1: a score is too large a number"):
        RecordedJudgments(path)


# -- files that assay wrote -----------------------------------------------------------------------------------------

failures = st.builds(Failure, st.sampled_from(FAILURE_REASONS), st.text(max_size=9))
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.one_of(finite, failures)
counts = st.integers(0, 10**6)
usages = st.builds(Usage, counts, counts, counts, st.floats(0, 1e6), counts)


@st.composite
def judgments(draw):
    value = draw(values)
    return Judgment(
        score=None if isinstance(value, Failure) else value,
        failure=value if isinstance(value, Failure) else None,
        votes=tuple(draw(st.lists(values, max_size=3))),
        critique=draw(st.none() | st.text(max_size=20)),
        completions=tuple(draw(st.lists(st.text(max_size=9), max_size=2))),
        read=draw(st.sampled_from([None, "text", "json", "expected", "forced", "head", "reward"])),
        truncated=draw(st.booleans()),
        usage=draw(usages),
        readings=draw(st.dictionaries(st.text(max_size=5), values, max_size=2)),
        mass=draw(st.none() | st.floats(0, 1)),
    )


@st.composite
def scorecards(draw):
    count = draw(st.integers(1, 4))
    pairs = st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True)
    outcomes = st.one_of(st.sampled_from(["first", "second", "tie"]), failures)
    comparisons = st.builds(lambda p, o, s: Comparison(p[0], p[1], o, s), pairs, outcomes, st.booleans())
    return Scorecard(
        id=draw(st.text(min_size=1, max_size=12)),
        judgments=tuple(draw(judgments()) for _ in range(count)),
        comparisons=tuple(draw(st.lists(comparisons, max_size=4))) if count > 1 else (),
        preference=draw(st.none() | st.tuples(*[st.floats(0, 1)] * count)),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(card=scorecards())
def test_a_card_comes_back_from_its_file_as_it_was(tmp_path, card):
    path = write_rows(tmp_path, {"benchmark": "b", "scorer": "s", "subset": None, "seconds": 1.5, **to_dict(card)})
    the_item = item(card.id, *["x"] * len(card.judgments))
    assert next(RecordedJudgments(path).stream([the_item])) == card


def test_a_file_of_assay_compare_gives_the_cards_that_it_was_made_of(tmp_path):
    from judges.evaluation.benchmark_run import run_benchmark
    from judges.evaluation.benchmarks.base import Benchmark

    items = tuple(item(str(i), "long" * i, "short", gold=Gold(chosen=(0,))) for i in range(20))
    benchmark = Benchmark(name="mine", title="Mine", items=items, source="test")
    with load_scorer("length") as scorer:
        run = run_benchmark(scorer, "length", "length", benchmark, tmp_path)
    read = RecordedJudgments(tmp_path / run.file)
    assert {card.id: card for card in read.score(items)} == run.cards


def test_a_file_of_assay_score_gives_its_scores(tmp_path):
    rows = [
        {"id": "pair", "prompt": "q", "chosen": "aaaa", "rejected": "b"},
        {"id": "several", "prompt": "q", "responses": ["a", "bb", "ccc"]},
        {"id": "one", "prompt": "q", "response": "aa"},
        {"id": "bad", "prompt": "", "responses": ["a", "bb"]},
    ]
    source = write_rows(tmp_path, *rows, name="rows.jsonl")
    with load_scorer("length") as scorer:
        score_file(str(source), scorer, tmp_path / "out.jsonl")
    items = [
        item("pair", "b", "aaaa", gold=Gold(chosen=(1,))),
        item("several", "ccc", "bb", "a"),
        item("one", "aa"),
        item("bad", "a", "bb"),
    ]
    cards = RecordedJudgments(tmp_path / "out.jsonl").score(items)
    assert [scores(c) for c in cards] == [[1, 4], [3, 2, 1], [2], ["empty", "empty"]]
    assert cards[1].preference == (1, 0, 0)


# -- rows without ids --------------------------------------------------------------------------------------


def numbered_items(n=3, text="x"):
    return [item(f"row-{i}", f"{text}{i}", "y") for i in range(1, n + 1)]


def compared(folder, items, digest=None, **more):
    """A file as `assay compare` writes it, with its manifest where `digest` is given."""
    folder.mkdir(exist_ok=True)
    cards = [Scorecard(i.id, (Judgment(score=1.0), Judgment(score=2.0))) for i in items]
    path = write_rows(folder, *({"benchmark": "a", **more, **to_dict(card)} for card in cards))
    if digest:
        path.with_suffix(".manifest.json").write_text(json.dumps({"items": digest}))
    return path


def test_rows_without_ids_of_another_benchmark_are_refused_by_digest_or_name(tmp_path):
    items = numbered_items()
    manifest = RecordedJudgments(compared(tmp_path / "a", items, "d1"))
    manifest.check(items, "a", "d1")
    with pytest.raises(
        CannotRun, match="made for items of digest d1, these have d2, and their ids are only row numbers"
    ):
        manifest.check(items, "a", "d2")
    named = RecordedJudgments(compared(tmp_path / "b", items))
    with pytest.raises(CannotRun, match=r"row 1: made for benchmark 'a', not 'b'"):
        named.check(items, "b", "d2")


def test_rows_without_ids_are_matched_by_the_digest_of_their_item(tmp_path):
    items = numbered_items()
    rows = [{"item": scorer_input_digest(i)} for i in items]
    cards = [Scorecard(i.id, (Judgment(score=1.0), Judgment(score=2.0))) for i in items]
    path = write_rows(tmp_path, *({**row, **to_dict(card)} for row, card in zip(rows, cards, strict=True)))
    path.with_suffix(".manifest.json").write_text('{"items": "d1"}')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RecordedJudgments(path).check(items[:2], "a", "d2")  # a part of the same
    other = [items[0], *numbered_items(text="z")[1:]]
    with pytest.raises(CannotRun, match=r"row 2: made for another item than this 'row-2'"):
        RecordedJudgments(path).check(other, "a", "d2")


def test_rows_with_ids_of_their_own_may_be_a_part_of_another_set(tmp_path):
    items = [item("q-1"), item("q-2")]
    path = compared(tmp_path / "a", items, "d1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RecordedJudgments(path).check(items[:1], "b", "d2")


def test_a_match_by_row_number_alone_warns_and_one_by_texts_does_not(tmp_path):
    items = numbered_items()
    plain = RecordedJudgments(write_rows(tmp_path, *({"id": i.id, "scores": [1, 2]} for i in items)))
    with pytest.warns(UserWarning, match="matched with the benchmark's by row number alone"):
        plain.check(items)
    rows = ({"id": i.id, "scores": [1, 2], "responses": list(i.responses)} for i in items)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RecordedJudgments(write_rows(tmp_path, *rows)).check(items, "a", "d")


def test_rows_of_no_item_are_counted(tmp_path):
    rows = ({"id": name, "scores": [1, 2]} for name in ("a", "jb-b", "c", "d"))
    scorer = RecordedJudgments(write_rows(tmp_path, *rows))
    assert scorer.unused([item("a"), item("b"), item("b"), item("x")]) == 2 and scorer.unused([]) == 4


def test_what_an_older_file_lacks_is_named(tmp_path):
    row = to_dict(Scorecard("a", (Judgment(score=1.0), Judgment(score=2.0))))
    del row["judgments"][1]["votes"]
    with pytest.raises(CannotRun, match=r"row 1: not a judgment of assay compare: it has no 'votes'; an older"):
        RecordedJudgments(write_rows(tmp_path, row))


@pytest.mark.parametrize("place", ["plain", "own", "vote"])
def test_a_number_that_no_float_holds_is_too_large(tmp_path, place):
    row = to_dict(Scorecard("a", (Judgment(score=1.0, votes=(1.0,)), Judgment(score=2.0))))
    if place == "plain":
        row = {"id": "a", "scores": [10**400, 1]}
    elif place == "own":
        row["judgments"][0]["score"] = 10**400
    else:
        row["judgments"][0]["votes"] = [10**400]
    message = "a number that a float holds" if place == "vote" else "a score is too large a number"
    with pytest.raises(CannotRun, match=f"row 1: .*{message}"):
        RecordedJudgments(write_rows(tmp_path, row))


def test_a_preference_that_no_float_holds_is_passed_over(tmp_path):
    row = {"id": "a", "scores": [2, 1], "preference": [10**400, 1]}
    assert score_row(tmp_path, row, item("a")).preference == (1.0, 0.0)


def test_a_number_names_a_subset_of_judgments_too(tmp_path):
    rows = [{"id": 1, "subset": year, "results": 1, "scores_chosen": 2, "scores_rejected": 1} for year in (2020, 2021)]
    for row in rows:
        del row["scores_chosen"], row["scores_rejected"]
    path = write_rows(tmp_path, *rows)
    card = RecordedJudgments(path).score([item("1", subset="2020", gold=Gold(chosen=(0,)))])[0]
    assert scores(card) == [1, 0]
    with pytest.raises(CannotRun, match=r"the row has subset '2020', and item '1' has '1999'"):
        RecordedJudgments(path).score([item("1", subset="1999", gold=Gold(chosen=(0,)))])
