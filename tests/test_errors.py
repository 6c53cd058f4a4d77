"""Keys and passwords are in no message and in no file."""

from __future__ import annotations

import json

import pytest

from judges.cli.compare_config import CompareConfig, redacted, scorer_labels
from judges.errors import is_secret, redact, redact_settings
from judges.scorers.calibrated import spec_mapping, untrusted_settings

KEY = "sk-a1b2c3"


@pytest.mark.parametrize(
    "text",
    [
        f"self-rewarding,api_key={KEY},votes=1",
        f"self-rewarding,engine.api_key={KEY}",
        f"self-rewarding,api-key='{KEY} x'",
        f"engine.API_KEY = {KEY}",
        f"http://user:{KEY}@host:8000/v1 answered 500",
        f"https://{KEY}@host/v1",
        f"https://host/v1?key={KEY}&x=1",
        "Incorrect API key provided: sk-proj-a1b2c3d4e5f6g7h8i9j0k1",
        "Authorization: Bearer a1b2c3d4e5f6",
    ],
)
def test_a_secret_is_hidden(text):
    assert "a1b2c3" not in redact(text) and "***" in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "self-rewarding,votes=3,max_tokens=12",
        "http://host:8000/v1 answered 500",
        "model=org/name:free, 3 tokens",
        "a@b.c",
    ],
)
def test_other_text_stays_as_it_is(text):
    assert redact(text) == text


def test_names_of_settings():
    assert all(map(is_secret, ("api_key", "engine.api_key", "API-KEY", "apikey", "password", "hub.access_token")))
    assert not any(map(is_secret, ("max_tokens", "step_token", "key", "engine.thinking_tokens")))


def test_settings_lose_their_secrets_at_every_depth():
    settings = {
        "model": "m",
        "engine.api_key": KEY,
        "members": [{"api_key": KEY, "base_url": f"http://u:{KEY}@h"}],
        "n": 3,
    }
    assert redact_settings(settings) == {"model": "m", "members": [{"base_url": "http://***@h"}], "n": 3}


def test_no_key_reaches_a_calibration_file_or_the_settings_of_a_comparison():
    spec = f"self-rewarding,model=m,engine=openai,engine.api_key={KEY},base_url=http://u:{KEY}@h/v1"
    other = f"self-rewarding,model=m,engine=openai,engine.api_key={KEY}x,base_url=http://u:{KEY}@i/v1"
    assert KEY not in json.dumps(spec_mapping(spec)) and spec_mapping(spec)["model"] == "m"
    assert KEY not in str(untrusted_settings(spec_mapping(spec))) + redacted(spec)
    assert KEY not in json.dumps(CompareConfig(scorers=(spec,), rows={spec: 3}).settings())
    labels = scorer_labels([spec, other], [])
    assert KEY not in str(list(labels.values())) and len(set(labels.values())) == 2
