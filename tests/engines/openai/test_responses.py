"""An answer of any shape is a completion or the failure of its row, under the right reason, with what was billed."""

from __future__ import annotations

import copy

import pytest

from judges.engines.base import Generation, RequestFailed
from judges.engines.openai.responses import parse_completion, parse_likelihood, parse_tokens, parse_usage, to_payload
from judges.types import Usage

URL = "http://host/v1"
BILLED = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}


def answer(content="Score: 4", finish="stop", **message):
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return {"choices": [choice], "usage": BILLED}


def parsed(payload, n=1):
    return parse_completion(payload, n, URL, 0.5)


def reason(payload, n=1) -> str:
    with pytest.raises(RequestFailed) as caught:
        parsed(payload, n)
    assert caught.value.usage.generated_tokens == 5, "it was billed all the same"
    return caught.value.failure.reason


@pytest.mark.parametrize("finish", ["stop", "eos_token", "stop_sequence", "end_turn", "STOP"])
def test_a_whole_answer(finish):
    assert parsed(answer(finish=finish)).choices == (Generation("Score: 4", "stop"),)


@pytest.mark.parametrize("finish", ["length", "model_length", "max_tokens", "MAX_TOKENS"])
def test_an_answer_at_the_token_limit_is_cut(finish):
    assert parsed(answer(finish=finish)).choices == (Generation("Score: 4", "length"),)


@pytest.mark.parametrize(
    "finish", ["error", "abort", "tool_calls", "function_call", "something new", None, "", 1, ["stop"]]
)
def test_an_answer_that_may_have_broken_off_is_no_answer(finish):
    assert reason(answer("Well done.\n\nScore: 1", finish)) == "server"


@pytest.mark.parametrize("finish", ["content_filter", "SAFETY", "recitation", "refusal"])
def test_a_filtered_answer_is_refused(finish):
    assert reason(answer("Sco", finish)) == "refused"


def test_a_refusal_is_refused_wherever_it_is():
    assert reason(answer(None, refusal="I can't help with that.")) == "refused"
    assert reason(answer([{"type": "refusal", "refusal": "No."}])) == "refused"
    assert parsed(answer(refusal=None)).choices[0].text == "Score: 4"


def test_text_parts_are_joined_and_thoughts_kept_apart():
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Maybe Score: 1?"}, 3]}
    content = [thinking, {"type": "text", "text": "Right. "}, {"type": "reference", "reference_ids": [1]}, "Score: 4"]
    assert parsed(answer(content)).choices == (Generation("Right. Score: 4", "stop", reasoning="Maybe Score: 1?"),)
    for key in ("reasoning_content", "reasoning"):
        assert parsed(answer(**{key: "Hm, 1?"})).choices == (Generation("Score: 4", "stop", reasoning="Hm, 1?"),)
    cut = answer(None, "length", reasoning_content="Let me weigh this")
    assert parsed(cut).choices == (Generation("", "length", reasoning="Let me weigh this"),)


@pytest.mark.parametrize(
    "message",
    [None, "text", [], {"content": 4}, {"content": True}, {"content": [{"type": "image_url"}]}, {"content": [None]},
     {"content": [{"type": "text"}]}, {"content": [{"type": ["text"], "text": "4"}]},
     {"content": None, "tool_calls": [1]}],
)  # fmt: skip
def test_a_message_without_text_is_the_servers_failure(message):
    payload = answer()
    payload["choices"][0]["message"] = message
    assert reason(payload) == "server"


def test_an_answer_without_text_is_empty_and_not_kept_unless_it_was_cut():
    assert reason(answer(None)) == "empty"
    assert reason(answer([])) == "empty"
    assert reason(answer("", reasoning_content="It is right. Score: 5")) == "empty"
    assert parsed(answer("")).choices == (Generation("", "stop"),), "the model may have said nothing"
    assert parsed(answer(None, "length")).choices == (Generation("", "length"),)


@pytest.mark.parametrize("choices", [None, [], {}, "text", [None], [[]], ["Score: 4"], [{}]])
def test_an_answer_without_choices_is_the_servers_failure(choices):
    assert reason(answer() | {"choices": choices}) == "server"


def test_one_withheld_choice_does_not_lose_its_siblings():
    payload = answer()
    payload["choices"] = [copy.deepcopy(payload["choices"][0]) for _ in range(4)]
    payload["choices"][1]["finish_reason"] = "content_filter"
    payload["choices"][2]["message"] = None
    completion = parsed(payload, 4)
    assert len(completion.choices) == 2
    assert [failure.reason for failure in completion.failures] == ["refused", "server"]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (BILLED, (10, 4, 5)),
        ({}, (0, 0, 0)),
        (None, (0, 0, 0)),
        ([], (0, 0, 0)),
        ("10", (0, 0, 0)),
        ({"prompt_tokens": "10", "completion_tokens": "5"}, (10, 0, 5)),
        ({"prompt_tokens": None, "completion_tokens": 5, "prompt_tokens_details": None}, (0, 0, 5)),
        ({"prompt_tokens": True, "completion_tokens": -5, "prompt_tokens_details": [1]}, (0, 0, 0)),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, (0, 0, 0)),
        ({"prompt_tokens": 10.0, "completion_tokens": {"text": 5}}, (10, 0, 0)),
    ],
)
def test_usage_of_any_shape(usage, tokens):
    assert parse_usage(usage, 1.0) == Usage(*tokens, seconds=1.0)


@pytest.mark.parametrize("response", ["<html>", "{", "", "[]", "3", b"\xff", None, [], 4])
def test_what_is_no_json_object_is_the_servers_failure(response):
    with pytest.raises(RequestFailed, match="not a JSON object"):
        to_payload(response, URL)


def test_json_under_another_content_type_is_read():
    assert to_payload('{"choices": []}', URL) == {"choices": []}


@pytest.mark.parametrize("tokens", [None, {}, ["a"], [1.5], [True]])
def test_tokenize_without_token_ids(tokens):
    with pytest.raises(RequestFailed, match="without token ids"):
        parse_tokens({"tokens": tokens}, URL)
    assert parse_tokens({"tokens": [1, 2]}, URL) == [1, 2]


def test_prompt_logprobs_of_any_shape():
    rows = [None, {"5": {"logprob": -0.5}}, {"6": {"logprob": -0.25}}]
    result = parse_likelihood({"choices": [{"prompt_logprobs": rows}], "usage": None}, [4, 5, 6], 1, URL, 0.5)
    assert (result.total, result.tokens) == (-0.75, 2)
    for odd in (None, [], rows[:2], [None, {}, {}], [None, None, None], [None, {"5": {"logprob": None}}, rows[2]],
                [None, {"5": {"logprob": "x"}}, rows[2]], [None, {"5": {"logprob": 5}}, rows[2]], 3):  # fmt: skip
        with pytest.raises(RequestFailed) as caught:
            parse_likelihood({"choices": [{"prompt_logprobs": odd}]}, [4, 5, 6], 1, URL, 0.5)
        assert caught.value.failure.reason == "server"
