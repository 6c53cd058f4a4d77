"""How one completion becomes a verdict: by text, JSON, expectation or force."""

import json
import math

import pytest
from fakes import FakeEngine, use

from judges import Item, load_scorer
from judges.engines.base import Generation, RequestFailed
from judges.errors import CannotRun
from judges.scorers.llm_judge import json_up_to, text_up_to

P = {"0": 0.1, "3": 0.3, "5": 0.4}  # 0.2 is elsewhere; the expectation is (0.9 + 2.0) / 0.8


def likelihood(label):
    return math.log(P.get(label.strip(), 1e-12))


def one(answer, **settings):
    scorer = use(load_scorer("self-rewarding", votes=1, **settings), FakeEngine(answer, likelihood=likelihood))
    return scorer.score([Item(id="a", prompt="q", responses=["r"])])[0].judgments[0], scorer.engine.requests


def test_text_and_expectation_come_from_one_completion():
    j, requests = one(lambda r: "Fine. Score: 3", read="text+expected")
    assert j.score == 3 and j.read == "text" and len(requests) == 1
    assert j.readings == {"text": 3, "expected": pytest.approx(2.9 / 0.8, abs=1e-6)}
    assert j.mass == pytest.approx(0.8, abs=1e-6)


def test_the_first_way_that_was_asked_for_gives_the_score():
    j, _ = one(lambda r: "Fine. Score: 3", read="expected+text")
    assert j.score == pytest.approx(2.9 / 0.8, abs=1e-6) and j.read == "expected" and j.readings["text"] == 3


def test_the_expectation_is_read_where_the_verdict_stands():
    asked = []
    engine = FakeEngine(lambda r: "Fine. **Score: 3** of 5", likelihood=likelihood)
    inner = engine.log_likelihood

    async def spy(messages, prefix, continuation, partial=None):
        asked.append((prefix, continuation))
        return await inner(messages, prefix, continuation)

    engine.log_likelihood = spy
    use(load_scorer("self-rewarding", votes=1, read="expected"), engine).score(
        [Item(id="a", prompt="q", responses=["r"])]
    )
    assert asked == [("Fine. **Score:", f" {label}") for label in range(6)]


def test_forced_on_request_reads_again_what_text_has_read():
    j, requests = one(lambda r: " 5" if r.choice else "Score: 3", read="forced")
    assert j.score == 5 and j.read == "forced" and j.readings == {"text": 3, "forced": 5}
    assert requests[-1].prefix == "Score:"


def test_a_rationale_without_a_verdict_is_no_expectation_without_force():
    j, requests = one(lambda r: "It is fine.", read="expected", force=False)
    assert j.failure.reason == "missing" and len(requests) == 1


def test_the_second_step_is_told_what_the_model_wrote_and_by_which_tokens():
    wrote = Generation("It is fine.", "stop", (5, 6, 7))
    _, requests = one(lambda r: " 2" if r.choice else wrote)
    assert requests[0].partial is None and requests[1].partial is wrote


def test_a_verdict_off_the_scale_is_not_forced_onto_it():
    j, requests = one(lambda r: "Score: 9")
    assert j.failure.reason == "off-scale" and len(requests) == 1


@pytest.mark.parametrize("text", ["A long rationale that", "Score: 1"])
def test_what_the_token_limit_cut_is_truncated_or_forced_and_marked(text):
    cut = Generation(text, "length")
    j, _ = one(lambda r: cut, force=False)
    assert j.failure.reason == "truncated" and j.truncated
    j, requests = one(lambda r: " 2" if r.choice else cut)
    assert j.score == 2 and j.read == "forced" and j.truncated
    assert requests[-1].prefix == f"{text}\nScore:"


def test_a_verdict_with_text_behind_it_is_whole_at_the_token_limit():
    j, _ = one(lambda r: Generation("Score: 3\nBecause", "length"), force=False)
    assert j.score == 3


def test_json_is_asked_for_with_a_schema_and_read_by_its_key():
    j, requests = one(lambda r: '{"rationale": "Score: 2?", "score": 7}', template="rating-json")
    assert j.score == 7 and j.read == "json"
    schema = json.loads(requests[0].schema)
    assert list(schema["properties"]) == ["rationale", "score"]
    assert schema["properties"]["score"] == {"enum": list(range(1, 11))}


def test_json_that_was_cut_off_is_closed_and_forced():
    def answer(request):
        return "4" if request.choice else Generation('{"rationale": "He said \\"no', "length")

    j, requests = one(answer, template="rating-json")
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
def test_json_cut_anywhere_goes_on_to_the_verdict(cut):
    whole = json.loads(json_up_to(cut, "score") + "3}")
    assert whole["score"] == 3 and set(whole) <= {"rationale", "score"}


def test_an_open_thinking_block_is_closed_before_the_verdict():
    assert text_up_to("<think>is it", "Score:") == "<think>is it\n</think>\nScore: "
    assert text_up_to("<think>a</think>b", "Score:") == "<think>a</think>b\nScore: "


def test_a_score_alone_is_the_expectation_right_after_its_announcement():
    engine = FakeEngine(lambda r: "", likelihood=lambda label: math.log({" 2": 0.25, " 4": 0.25}.get(label, 1e-9)))
    scorer = use(load_scorer("self-rewarding", votes=1, template="score-only"), engine)
    j = scorer.score([Item(id="a", prompt="q", responses=["r"])])[0].judgments[0]
    assert j.score == pytest.approx(3, abs=1e-3) and j.mass == pytest.approx(0.5) and engine.requests == []


def test_a_critique_may_go_on_and_is_then_whole():
    def answer(request):
        return Generation(" and ends.", "stop") if request.prefix else Generation("It begins", "length")

    engine = FakeEngine(answer, likelihood=likelihood)
    scorer = use(load_scorer("critique-out-loud", finish=True), engine)
    j = scorer.score([Item(id="a", prompt="q", responses=["r"])])[0].judgments[0]
    assert j.critique == "It begins and ends." and not j.truncated and j.usage.generated_tokens == 10 + 10


def test_a_critique_that_stays_cut_says_so_to_the_judge_and_to_the_reader():
    asked = []
    engine = FakeEngine(lambda r: Generation("It begins", "length"))

    async def spy(messages, prefix, continuations, partial=None):
        asked.append(prefix)
        raise RequestFailed("server", "gone")

    engine.log_likelihoods = spy
    j = use(load_scorer("critique-out-loud"), engine).score([Item(id="a", prompt="q", responses=["r"])])[0].judgments[0]
    assert j.truncated and asked == ["It begins [cut off]\n\nScore:"]
    assert j.failure.reason == "server" and j.critique == "It begins"


def test_a_critique_keeps_thinking_apart():
    engine = FakeEngine(lambda r: "<think>Score: 9</think>Well made.", likelihood=likelihood)
    j = use(load_scorer("critique-out-loud"), engine).score([Item(id="a", prompt="q", responses=["r"])])[0].judgments[0]
    assert j.critique == "Well made." and j.completions == ("<think>Score: 9</think>Well made.",)


def test_a_critique_scored_as_text_reads_what_the_model_goes_on_to_say():
    engine = FakeEngine(lambda r: " 7/10, I think" if r.prefix else "A critique.")
    scorer = use(load_scorer("critique-out-loud", read="text"), engine)
    j = scorer.score([Item(id="a", prompt="q", responses=["r"])])[0].judgments[0]
    assert j.score == 7 and j.read == "text" and engine.requests[-1].prefix == "A critique.\n\nScore:"


@pytest.mark.parametrize(
    "settings, says",
    [({"read": "text+json"}, "text or JSON"), ({"read": "guess"}, "not read by 'guess'")],
)
def test_a_wrong_way_of_reading_is_told(settings, says):
    with pytest.raises(CannotRun, match=says):
        load_scorer("self-rewarding", **settings)
