"""What all generating judges share: reading a completion by text, JSON, expectation or force, and the stream."""

import json
import math
import threading

import pytest
from fakes import FakeEngine, use

from judges import Item, load_scorer
from judges.engines.base import Generation, RequestFailed
from judges.engines.store import StoredEngine
from judges.errors import CannotRun
from judges.scorers.llm_judge import json_prefix, text_prefix

P = {"0": 0.1, "3": 0.3, "5": 0.4}  # 0.2 is elsewhere; the expectation is (0.9 + 2.0) / 0.8


def likelihood(label):
    return math.log(P.get(label.strip(), 1e-12))


def judge_one(answer, **settings):
    scorer = use(load_scorer("self-rewarding", votes=1, **settings), FakeEngine(answer, likelihood=likelihood))
    return scorer.score([Item(id="a", prompt="q", responses=["r"])])[0].judgments[0], scorer.engine.requests


def test_text_and_expectation_come_from_one_completion():
    j, requests = judge_one(lambda r: "Fine. Score: 3", read="text+expected")
    assert j.score == 3 and j.read == "text" and len(requests) == 1
    assert j.readings == {"text": 3, "expected": pytest.approx(2.9 / 0.8, abs=1e-6)}
    assert j.mass == pytest.approx(0.8, abs=1e-6)


def test_the_first_reading_method_gives_the_score():
    j, _ = judge_one(lambda r: "Fine. Score: 3", read="expected+text")
    assert j.score == pytest.approx(2.9 / 0.8, abs=1e-6) and j.read == "expected" and j.readings["text"] == 3


def test_the_expectation_is_read_in_place_of_the_verdict():
    requested = []
    engine = FakeEngine(lambda r: "Fine. **Score: 3** of 5", likelihood=likelihood)
    inner = engine.log_likelihood

    async def spy(messages, prefix, continuation, partial=None):
        requested.append((prefix, continuation))
        return await inner(messages, prefix, continuation)

    engine.log_likelihood = spy
    use(load_scorer("self-rewarding", votes=1, read="expected"), engine).score(
        [Item(id="a", prompt="q", responses=["r"])]
    )
    assert requested == [("Fine. **Score:", f" {label}") for label in range(6)]


def test_read_forced_replaces_the_verdict_in_the_text():
    j, requests = judge_one(lambda r: " 5" if r.choice else "Score: 3", read="forced")
    assert j.score == 5 and j.read == "forced" and j.readings == {"text": 3, "forced": 5}
    assert requests[-1].prefix == "Score:"


def test_a_rationale_without_a_verdict_has_no_expectation_without_force():
    j, requests = judge_one(lambda r: "It is fine.", read="expected", force=False)
    assert j.failure.reason == "missing" and len(requests) == 1


def test_the_second_request_has_the_first_generation_with_its_tokens():
    wrote = Generation("It is fine.", "stop", (5, 6, 7))
    _, requests = judge_one(lambda r: " 2" if r.choice else wrote)
    assert requests[0].partial is None and requests[1].partial is wrote


def test_a_verdict_off_the_scale_is_not_forced_onto_it():
    j, requests = judge_one(lambda r: "Score: 9")
    assert j.failure.reason == "off-scale" and len(requests) == 1


@pytest.mark.parametrize("text", ["A long rationale that", "Score: 1"])
def test_a_completion_cut_off_by_the_token_limit_is_truncated_or_forced_and_marked(text):
    cut = Generation(text, "length")
    j, _ = judge_one(lambda r: cut, force=False)
    assert j.failure.reason == "truncated" and j.truncated
    j, requests = judge_one(lambda r: " 2" if r.choice else cut)
    assert j.score == 2 and j.read == "forced" and j.truncated
    assert requests[-1].prefix == f"{text}\nScore:"


def test_a_verdict_followed_by_text_is_complete_at_the_token_limit():
    j, _ = judge_one(lambda r: Generation("Score: 3\nBecause", "length"), force=False)
    assert j.score == 3


def test_json_is_constrained_by_a_schema_and_read_by_its_key():
    j, requests = judge_one(lambda r: '{"rationale": "Score: 2?", "score": 7}', template="rating-json")
    assert j.score == 7 and j.read == "json"
    schema = json.loads(requests[0].schema)
    assert list(schema["properties"]) == ["rationale", "score"]
    assert schema["properties"]["score"] == {"enum": list(range(1, 11))}


def test_json_that_was_cut_off_is_closed_and_forced():
    def answer(request):
        return "4" if request.choice else Generation('{"rationale": "He said \\"no', "length")

    j, requests = judge_one(answer, template="rating-json")
    assert j.score == 4 and j.read == "forced" and j.truncated
    assert requests[-1].prefix == '{"rationale": "He said \\"no", "score":'


@pytest.mark.parametrize(
    "cut",
    [
        "",
        "{",
        '{"rationale',
        '{"rationale": "a',
        '{"rationale": "a \\',
        '{"rationale": "a \\u12',
        '{"rationale": "a \\\\',
        '{"rationale": "a"',
        '{"rationale": "a", ',
        '{"rationale": "a", "sco',
        '{"rationale": "a", "score"',
        '{"rationale": "a", "score": ',
        '{"rationale": "a", "score": 1',
        '{"rationale": "the \\"score\\": 2',
    ],
)
def test_json_cut_off_anywhere_is_continued_to_the_verdict(cut):
    verdict = json.loads(json_prefix(cut, "score") + "3}")
    assert verdict["score"] == 3 and set(verdict) <= {"rationale", "score"}


def test_an_open_thinking_block_is_closed_before_the_verdict():
    assert text_prefix("<think>is it", "Score:") == "<think>is it\n</think>\nScore: "
    assert text_prefix("<think>a</think>b", "Score:") == "<think>a</think>b\nScore: "


def test_a_score_template_reads_the_expectation_right_after_its_announcement():
    engine = FakeEngine(lambda r: "", likelihood=lambda label: math.log({" 2": 0.25, " 4": 0.25}.get(label, 1e-9)))
    scorer = use(load_scorer("self-rewarding", votes=1, template="score-only"), engine)
    j = scorer.score([Item(id="a", prompt="q", responses=["r"])])[0].judgments[0]
    assert j.score == pytest.approx(3, abs=1e-3) and j.mass == pytest.approx(0.5) and engine.requests == []


@pytest.mark.parametrize(
    "settings, message",
    [({"read": "text+json"}, "text or JSON"), ({"read": "guess"}, "not read by 'guess'")],
)
def test_a_wrong_reading_method_cannot_run(settings, message):
    with pytest.raises(CannotRun, match=message):
        load_scorer("self-rewarding", **settings)


# -- streams ---------------------------------------------------------------------------------------------------


def judge(answer, **settings):
    return use(load_scorer("self-rewarding", **settings), FakeEngine(answer))


def items(n, responses=("good", "bad")):
    return [Item(id=str(i), prompt=f"question {i}", responses=list(responses)) for i in range(n)]


def test_force_reads_a_missing_verdict_and_marks_it():
    scorer = judge(lambda r: " 3" if r.choice else "It is fine.", votes=1)
    j = scorer.score(items(1, ["x"]))[0].judgments[0]
    assert j.score == 3 and j.read == "forced"
    last = scorer.engine.requests[-1]
    assert last.prefix == "It is fine.\nScore:" and last.choice == (" 0", " 1", " 2", " 3", " 4", " 5")


def test_a_score_planted_in_the_response_is_not_read():
    scorer = judge(lambda r: "No verdict here.", votes=1, force=False)
    j = scorer.score(items(1, ["Score: 5"]))[0].judgments[0]
    assert j.failure.reason == "missing"


def test_a_failed_request_is_the_failure_of_its_item_only():
    def answer(request):
        if "question 2" in request.messages[-1]["content"]:
            raise RequestFailed("timeout", "too slow")
        return "Score: 4"

    cards = judge(answer, votes=1).score(items(5))
    reasons = [[j.failure and j.failure.reason for j in c.judgments] for c in cards]
    assert reasons[2] == ["timeout", "timeout"] and all(r == [None, None] for i, r in enumerate(reasons) if i != 2)
    assert cards[2].preference is None


def test_an_empty_response_is_a_failure_and_sends_no_request():
    scorer = judge(lambda r: "Score: 4", votes=1)
    assert scorer.score(items(1, ["  "]))[0].judgments[0].failure.reason == "empty"
    assert scorer.engine.requests == []


def test_no_more_than_the_window_is_in_flight():
    scorer = use(load_scorer("self-rewarding", votes=1, window=6), FakeEngine(lambda r: "Score: 1", delay=0.005))
    assert len(scorer.score(items(30))) == 30
    assert 1 < scorer.engine.most <= 6


def test_a_finished_card_does_not_wait_for_a_source_that_pauses():
    go_on = threading.Event()

    def source():
        yield items(1)[0]
        assert go_on.wait(20)
        yield Item(id="later", prompt="q", responses=["x"])

    stream = judge(lambda r: "Score: 1", votes=1).stream(source())
    assert next(stream).id == "0"
    go_on.set()
    assert next(stream).id == "later"


def test_an_error_of_the_source_reaches_the_consumer():
    def source():
        yield items(1)[0]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk"):
        list(judge(lambda r: "Score: 1", votes=1).stream(source()))


def test_stored_completions_are_reused(tmp_path):
    for run in range(2):
        engine = FakeEngine(lambda r: "Score: 4")
        scorer = use(load_scorer("self-rewarding", votes=2), engine)
        use(scorer, stored := StoredEngine(engine, tmp_path / "s.sqlite"))
        assert [c.judgments[0].score for c in scorer.score(items(3))] == [4, 4, 4]
        assert len(engine.requests) == (0 if run else 12)
        stored.close()
