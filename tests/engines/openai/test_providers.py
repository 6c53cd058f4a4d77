"""Which make a server is, and what a refusal teaches about it."""

from __future__ import annotations

import pytest

from judges.engines.capabilities import Capabilities
from judges.engines.openai.providers import find_provider, learn
from judges.errors import CannotRun


@pytest.mark.parametrize(
    ("url", "model", "owners", "name"),
    [
        ("https://api.openai.com/v1", "gpt-4o", (), "openai"),
        ("https://api.openai.com/v1", "gpt-5", (), "openai-reasoning"),
        ("https://evil-api.openai.com.example.org/v1", "small", (), ""),
        ("http://localhost:8000/v1", "small", ("vllm",), "vllm"),
        ("http://localhost:8000/v1", "small", (), ""),
    ],
)
def test_a_make_is_found_by_host_owner_and_model(url, model, owners, name):
    assert find_provider([url], model, owners).name == name


def test_a_named_make_comes_first_and_an_unknown_one_names_the_closest():
    assert find_provider(["http://localhost:1/v1"], "small", ("vllm",), name="openai").name == "openai"
    with pytest.raises(CannotRun, match="did you mean 'openai'"):
        find_provider(["http://localhost:1/v1"], "small", name="openay")


BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0.0,
    "top_p": 0.9,
    "max_tokens": 5,
    "seed": 1,
}


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            {"max_tokens_name": "max_completion_tokens"},
        ),
        ("`temperature` and `top_p` cannot both be specified for this model.", {"top_p_with_temperature": False}),
        ('Unknown name "seed": Cannot find field.', {"seed": False}),
        (
            "Unsupported value: 'temperature' does not support 0. Only the default (1) value is supported.",
            {"temperature": False, "top_p_with_temperature": False},
        ),
    ],
)
def test_a_refused_parameter_is_dropped_or_renamed(message, changed):
    correction = learn(Capabilities(), BODY, 400, message)
    after = correction.capabilities
    assert {name: getattr(after, name) for name in changed} == changed
    same = [name for name in Capabilities.__slots__ if name not in changed]
    assert all(getattr(after, name) == getattr(Capabilities(), name) for name in same)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, "Unsupported parameter: 'seed'"),  # a fault of the server teaches nothing
        (400, "max_tokens is too large: 5. This model supports at most 4 completion tokens"),
        (400, "temperature must be between 0 and 1"),  # its value is refused, not the parameter
        (400, "This model's maximum context length is 4096 tokens"),
        (400, "The prompt was refused by the content policy"),
    ],
)
def test_an_error_about_something_else_teaches_nothing(status, message):
    assert learn(Capabilities(), BODY, status, message) is None
