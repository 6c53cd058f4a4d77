"""What the error of a server means: retried, the failure of one row under its reason, or the end of the run."""

from __future__ import annotations

import pytest

from judges.engines.openai.retry import ServerError
from judges.errors import CannotRun

URL = "http://host/v1"

TOO_LONG = [
    (400, "context_length_exceeded", "This model's maximum context length is 8192 tokens. However, you requested 9000"),
    (400, "", "This model's maximum context length is 10 tokens"),
    (400, "", "prompt is too long: 214318 tokens > 200000 maximum"),
    (400, "", "Input is too long for requested model."),
    (400, "exceed_context_size_error", "the request exceeds the available context size, try increasing it"),
    (
        422,
        "",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens",
    ),
    (422, "", "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"),
    (413, "request_too_large", "Request exceeds the maximum size"),
    (413, "", "Payload Too Large"),
    (400, "", "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
    (400, "", "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length"),
    (400, "", "Please reduce the length of the messages or completion."),
    (400, "", "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
    (400, "", "Requested token count exceeds the model's maximum context length of 131072 tokens."),
    (400, "string_above_max_length", "Invalid 'messages[0].content': string too long."),
    (
        500,
        "",
        "the request exceeds the available context size. try increasing the context size or enable context shift",
    ),
]


@pytest.mark.parametrize(("status", "code", "message"), TOO_LONG)
def test_a_prompt_that_does_not_fit_is_too_long_for_all_makes(status, code, message):
    error = ServerError(status, message, code)
    error.raise_if_final(URL)
    assert error.failure(URL).failure.reason == "too-long"
    assert ServerError(400, message, code, inside_200=True).failure(URL).failure.reason == "too-long"


OTHERS = [
    (400, "unsupported_parameter", "Unsupported parameter: 'max_tokens' is not supported with this model."),
    (400, "", "Unrecognized request argument supplied: structured_outputs"),
    (400, "", "max_tokens is too large: 100000. This model supports at most 16384 completion tokens"),
    (422, "", "Extra inputs are not permitted"),
    (400, "", "Invalid value for 'temperature'"),
    (404, "", "Not Found"),
]


@pytest.mark.parametrize(("status", "code", "message"), OTHERS)
def test_another_refusal_is_the_servers_failure(status, code, message):
    error = ServerError(status, message, code)
    error.raise_if_final(URL)
    assert error.failure(URL).failure.reason == "server" and error.retry_delay(0) is None


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (
            400,
            "content_filter",
            "The response was filtered due to the prompt triggering Azure's content management policy",
        ),
        (403, "", "openai/gpt-4o requires moderation on provider. Your input was flagged for violence"),
        (400, "content_policy_violation", "Your request was rejected"),
    ],
)
def test_a_filtered_prompt_is_refused(status, code, message):
    for inside in (False, True):
        error = ServerError(status, message, code, inside_200=inside)
        error.raise_if_final(URL)
        assert error.failure(URL).failure.reason == "refused"


@pytest.mark.parametrize(
    ("status", "code", "message", "said"),
    [
        (429, "insufficient_quota", "You exceeded your current quota, please check your plan", "no quota left"),
        (402, "", "Insufficient credits", "no quota left"),
        (402, "", "Add a payment method", "asks for payment"),
        (401, "invalid_api_key", "Incorrect API key provided", "refuses the key"),
        (403, "", "Forbidden", "does not allow this key"),
        (
            404,
            "model_not_found",
            "The model `x` does not exist or you do not have access to it.",
            "not serve the model",
        ),
        (404, "", 'model "llama9" not found, try pulling it first', "not serve the model"),
        (404, "DeploymentNotFound", "The API deployment for this resource does not exist.", "not serve the model"),
    ],
)
def test_what_no_further_request_can_pass_ends_the_run_in_one_line(status, code, message, said):
    with pytest.raises(CannotRun, match=said) as caught:
        ServerError(status, message, code).raise_if_final(URL)
    assert "what is finished is safe" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "Provider returned error", "code": 429}, 429),
        ({"message": "busy", "code": "429"}, 429),
        ({"message": "slow down", "type": "rate_limit_error"}, 429),
        ({"message": "Overloaded", "type": "overloaded_error"}, 503),
        ({"message": "boom", "code": 502}, 502),
        ({"message": "boom", "type": "server_error", "code": None}, 503),
        ({"message": "This request was flagged", "code": 403}, 403),
        ({"message": "odd"}, 400),
        ("it broke", 400),
        ({"message": "odd", "code": ["x"]}, 400),
        (["odd"], 400),
    ],
)
def test_an_error_inside_a_200_is_the_status_that_it_names(error, status):
    found = ServerError.from_payload({"id": None, "choices": None, "usage": None, "error": error})
    assert found is not None and found.status == status
    assert (found.retry_delay(0) is not None) == (status in (429, 502, 503))
    found.raise_if_final(URL)


def test_an_answer_with_choices_is_no_error():
    choices = [{"message": {"content": "x"}}]
    assert ServerError.from_payload({"choices": choices, "error": None}) is None
    assert ServerError.from_payload({"choices": choices, "error": {"message": "late"}}) is None
    assert ServerError.from_payload({"tokens": [1]}) is None


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ({"retry-after": "2.5"}, "", 2.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, "", 1.5),
        ({"retry-after": "-1"}, "", 0.0),
        ({}, "Rate limit reached for gpt-4o. Please try again in 1.2s. Visit …", 1.2),
        ({}, "Please try again in 6m30s.", 390.0),
        ({}, "Please try again in 350ms.", 0.35),
        ({}, "Please retry in 32.5s.", 32.5),
        ({}, "Requests have exceeded the limit. Please retry after 20 seconds.", 20.0),
        ({}, "Too many requests", None),
        ({"retry-after": "soon"}, "", None),
    ],
)
def test_the_retry_time_is_found_in_a_header_or_in_the_message(headers, message, seconds):
    assert ServerError(429, message, headers=headers).retry_after() == (
        seconds if seconds is None else pytest.approx(seconds)
    )


def test_a_key_in_a_servers_message_is_hidden():
    from judges.engines.openai.responses import error_message

    told = error_message(
        {"message": "Incorrect API key provided: sk-proj-abcdefghijklmnopqrstuvwx1234. Bearer abcdefgh123"}
    )
    assert "abcdefgh" not in told and "Incorrect API key provided" in told
