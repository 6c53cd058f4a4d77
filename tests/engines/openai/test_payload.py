"""The body of a request, make by make, and what is taken from `extra_body`."""

from __future__ import annotations

import json

import pytest

from judges.engines.base import Completion, Generation, Request, TokenLogprobs
from judges.engines.capabilities import NotSupported
from judges.engines.openai.payload import build_payload, refused_key, split_extra, with_logprobs
from judges.engines.openai.providers import PROVIDERS, UNKNOWN
from judges.errors import CannotRun
from judges.types import Usage

MESSAGES = ({"role": "user", "content": "2 + 2?"},)
SCHEMA = json.dumps({"type": "object", "properties": {"score": {"enum": [1, 2]}}})


def body(name: str, request: Request) -> dict:
    provider = PROVIDERS[name] if name else UNKNOWN
    return build_payload(provider, provider.capabilities, "m", request)


def test_a_request_to_vllm_is_complete():
    request = Request(MESSAGES, prefix="Score:", max_tokens=16, choice=("1", "2"), seed=3, stop=("\n",))
    assert body("vllm", request) == {
        "model": "m",
        "messages": [*MESSAGES, {"role": "assistant", "content": "Score:"}],
        "n": 1,
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 16,
        "seed": 3,
        "stop": ["\n"],
        "continue_final_message": True,
        "add_generation_prompt": False,
        "structured_outputs": {"choice": ["1", "2"]},
    }


def test_a_reasoning_model_of_openai_gets_only_what_it_takes():
    request = Request(MESSAGES, temperature=0.7, top_p=0.9, max_tokens=256, stop=("x",))
    assert body("openai-reasoning", request) == {"model": "m", "messages": [*MESSAGES], "max_completion_tokens": 256}


def test_a_neutral_top_p_is_left_out_for_hosted_servers():
    assert "top_p" not in body("openai", Request(MESSAGES)) and "n" not in body("openai", Request(MESSAGES))
    given = body("openai", Request(MESSAGES, top_p=0.9, n=2))
    assert given["n"] == 2 and given["top_p"] == 0.9


def test_an_enum_has_a_type_beside_it_except_for_vllm_which_gets_the_schema_unchanged():
    schema = {
        name: body(name, Request(MESSAGES, schema=SCHEMA))["response_format"]["json_schema"]["schema"]
        for name in ("openai", "vllm")
    }
    assert schema["openai"]["properties"]["score"] == {"type": "integer", "enum": [1, 2]}
    assert schema["vllm"] == json.loads(SCHEMA)


@pytest.mark.parametrize(
    ("request_", "feature"),
    [
        (Request(MESSAGES, prefix="Score:"), "prefix_continuation"),
        (Request(MESSAGES, choice=("1", "2")), "choice"),
    ],
)
def test_what_a_hosted_server_cannot_do_is_not_asked_of_it(request_, feature):
    with pytest.raises(NotSupported) as error:
        body("openai", request_)
    assert error.value.feature == feature


def test_extra_settings_are_split_from_others_and_may_not_replace_what_a_judge_decides():
    settings = {"extra_body": {"top_k": 5}, "extra_body.min_p": 0.1, "chat_template_kwargs.thinking": True, "colour": 1}
    assert split_extra(settings) == (
        {"colour": 1},
        {"top_k": 5, "min_p": 0.1, "chat_template_kwargs": {"thinking": True}},
    )
    with pytest.raises(CannotRun, match="'messages'"):
        split_extra({"extra_body.messages": []})


def test_a_refused_extra_key_is_found_as_a_whole_word():
    assert refused_key({"top_k": 5}, 400, "Unrecognized request argument supplied: top_k") == "top_k"
    assert refused_key({"top_k": 5}, 400, "top_k_extra is unknown") is None
    assert refused_key({"top_k": 5}, 500, "top_k") is None


def answer(content):
    return {"choices": [{"logprobs": {"content": content}}]}


@pytest.mark.parametrize(
    "payload",
    [
        {"choices": None},
        answer("text"),
        answer([{"token": 4, "top_logprobs": []}]),
        answer([{"token": "4", "top_logprobs": [{"token": "4", "logprob": "low"}]}]),
        answer([{"token": "4", "top_logprobs": [{"token": "4", "logprob": 2.0}]}]),  # no probability
    ],
)
def test_log_probabilities_of_an_odd_shape_are_none(payload):
    completion = Completion((Generation("4", "stop"),), Usage())
    assert with_logprobs(completion, payload) == completion


def test_log_probabilities_are_read_position_by_position():
    completion = Completion((Generation("4", "stop"),), Usage())
    listed = [{"token": "4", "logprob": -0.5}, {"token": "5", "logprob": -1.5}]
    (position,) = with_logprobs(completion, answer([{"token": "4", "top_logprobs": listed}])).choices[0].logprobs
    assert position == TokenLogprobs("4", (("4", -0.5), ("5", -1.5)))
