"""What each make of server can do, by its documentation, and what its refusals teach."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from judges.engines.capabilities import Capabilities
from judges.errors import CannotRun
from judges.plugins import unknown_name

_HOSTED = Capabilities(
    prefix_continuation=False,
    choice=False,
    label_logprobs=False,
    chat_template_kwargs=False,
)


@dataclass(frozen=True, slots=True)
class Provider:
    """A make of server. `page` is its documentation, against which the row has not been checked yet.

    It is recognised by the `hosts` that its URL ends in, by its models' names, and by `owned_by` in its list of
    models. `prefix` are the parameters of a request that continues the assistant's turn, `prefix_field` those of the
    turn itself. `logprobs` are further parameters of a request for log-probabilities. `neutral_top_p`: a `top_p` of 1
    is sent, because the server would use the model's own default instead.
    """

    name: str
    page: str
    capabilities: Capabilities
    hosts: tuple[str, ...] = ()
    models: str = ""
    owners: tuple[str, ...] = ()
    prefix: Mapping[str, Any] = field(default_factory=dict)
    prefix_field: Mapping[str, Any] = field(default_factory=dict)
    logprobs: Mapping[str, Any] = field(default_factory=dict)
    neutral_top_p: bool = False


_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
_OPENAI = replace(_HOSTED, single_token_numbers=True, max_tokens_name="max_completion_tokens")

PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider(
            "openai-reasoning",
            "https://platform.openai.com/docs/guides/reasoning",
            replace(
                _OPENAI,
                top_logprobs=0,
                stop=False,
                temperature=False,
                top_p_with_temperature=False,
                reasoning=True,
            ),
            models=r"(openai/)?(o\d+|gpt-5|codex)(?!.*chat)[-.\w]*",
        ),
        Provider(
            "openai",
            "https://platform.openai.com/docs/api-reference/chat/create",
            replace(_OPENAI, reasoning_effort=False),
            hosts=("api.openai.com",),
            models=r"(gpt-[34]|chatgpt-|gpt-5.*chat)[-.\w]*",
            owners=("openai", "system", "openai-internal"),
        ),
        Provider(
            "azure",
            "https://learn.microsoft.com/azure/ai-foundry/openai/reference",
            replace(_OPENAI, max_tokens_name="max_tokens"),
            hosts=("openai.azure.com", "services.ai.azure.com", "cognitiveservices.azure.com"),
        ),
        Provider(
            "anthropic",
            "https://docs.claude.com/en/api/openai-sdk",
            replace(
                _HOSTED,
                json_schema=False,
                top_logprobs=0,
                n=False,
                seed=False,
                top_p_with_temperature=False,
                reasoning_effort=False,
            ),
            hosts=("api.anthropic.com",),
            models=r"claude-[-.\w]*",
            owners=("anthropic",),
        ),
        Provider(
            "gemini",
            "https://ai.google.dev/gemini-api/docs/openai",
            replace(_HOSTED, top_logprobs=0, seed=False, reasoning=True),
            hosts=("generativelanguage.googleapis.com",),
            models=r"(models/)?gemini-[-.\w]*",
            owners=("google",),
        ),
        Provider(
            "openrouter",
            "https://openrouter.ai/docs/api/reference/parameters",
            _HOSTED,
            hosts=("openrouter.ai",),
            logprobs={"provider": {"require_parameters": True}},
        ),
        Provider(
            "mistral",
            "https://docs.mistral.ai/api/",
            replace(_HOSTED, prefix_continuation=True, top_logprobs=0, seed_name="random_seed", reasoning_effort=False),
            hosts=("api.mistral.ai",),
            owners=("mistralai",),
            prefix_field={"prefix": True},
        ),
        Provider(
            "groq",
            "https://console.groq.com/docs/openai",
            replace(_HOSTED, top_logprobs=0, n=False),
            hosts=("api.groq.com",),
        ),
        Provider(
            "together",
            "https://docs.together.ai/reference/chat-completions-1",
            replace(_HOSTED, top_logprobs=0),
            hosts=("api.together.xyz", "api.together.ai"),
        ),
        Provider(
            "vllm",
            "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
            Capabilities(),
            owners=("vllm",),
            prefix=_CONTINUE,
            neutral_top_p=True,
        ),
        Provider(
            "sglang",
            "https://docs.sglang.ai/basic_usage/openai_api_completions.html",
            Capabilities(choice=False, label_logprobs=False),
            owners=("sglang",),
            prefix={"continue_final_message": True},
            neutral_top_p=True,
        ),
        Provider(
            "tgi",
            "https://huggingface.co/docs/text-generation-inference/reference/api_reference",
            replace(_HOSTED, json_schema=False, top_logprobs=5, n=False, reasoning_effort=False),
            owners=("tgi",),
        ),
        Provider(
            "llama.cpp",
            "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
            Capabilities(choice=False, label_logprobs=False, n=False),
            owners=("llamacpp",),
        ),
        Provider(
            "ollama",
            "https://docs.ollama.com/api/openai-compatibility",
            replace(_HOSTED, top_logprobs=0, n=False),
            hosts=("ollama.com",),
            owners=("library", "ollama"),
        ),
    )
}
UNKNOWN = Provider("", "", Capabilities(), prefix=_CONTINUE)


def find_provider(urls: Sequence[str], model: str, owners: Sequence[str] = (), name: str = "") -> Provider:
    """The make of a server: the one that is named, else by host, by `owned_by`, or by the model's name; or UNKNOWN.

    >>> find_provider(["https://api.openai.com/v1"], "o3-mini").name
    'openai-reasoning'
    >>> find_provider(["http://localhost:8000/v1"], "small").name
    ''
    """
    if name:
        if name not in PROVIDERS:
            raise CannotRun(unknown_name("engine openai: no provider", name, sorted(PROVIDERS), "It is one of"))
        return PROVIDERS[name]
    hosts = [urlsplit(url).hostname or "" for url in urls]
    by_host = next((p for p in PROVIDERS.values() if p.hosts and all(_within(h, p.hosts) for h in hosts)), None)
    by_owner = next((p for p in PROVIDERS.values() if any(owner.lower() in p.owners for owner in owners)), None)
    by_model = next((p for p in PROVIDERS.values() if p.models and re.fullmatch(p.models, model, re.I)), None)
    reasoning = PROVIDERS["openai-reasoning"]
    found = by_host or by_owner
    if found is None or (found.name in ("openai", "azure") and by_model is reasoning):
        found = by_model or found
    return found or UNKNOWN


def _within(host: str, domains: Sequence[str]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


# -- corrections ---------------------------------------------------------------------------------------------------

_REFUSED = re.compile(
    r"unrecogni[sz]ed|unknown|unsupported|not support|n't support|unexpected|extra (inputs|fields)|extra_forbidden"
    r"|not (permitted|allowed|available|valid|implemented|compatible)|invalid|cannot (find|be|both)|can ?not both"
    r"|deprecated|no longer|must be|should be|only (the )?default|not enabled|forbidden|removed|requires?\b",
    re.IGNORECASE,
)
_PREFILL = re.compile(
    r"(last|final) (message|role|turn).{0,80}(user|assistant|tool)|prefill|pre-fill|(last|final) message must|"
    r"conversation must end with a user",
    re.IGNORECASE,
)
_RANGE = re.compile(
    r"between|in the range|at most|less than|greater than|<=|>=|too (large|high|low|small)", re.IGNORECASE
)
_LIMIT = re.compile(
    r"(?:at most|maximum(?: value)?(?: is| of)?|<=|less than or equal to|and)\D{0,12}(\d+)", re.IGNORECASE
)
CORRECTABLE = (400, 404, 415, 422, 501)


@dataclass(frozen=True, slots=True)
class Correction:
    """What a refusal teaches: the capabilities from then on, and what is done about it, in words."""

    capabilities: Capabilities
    action: str


def learn(
    capabilities: Capabilities, body: Mapping[str, Any], status: int, message: str, param: str = ""
) -> Correction | None:
    """What the refusal of `body` with an error teaches; None where it is about something else.

    >>> error = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    >>> learn(Capabilities(), {"max_tokens": 5}, 400, error).action
    'max_tokens is sent as max_completion_tokens'
    """
    if status not in CORRECTABLE:
        return None
    if _is_prefilled(body) and _PREFILL.search(message):
        return _lacking(capabilities, "prefix_continuation")
    if not _REFUSED.search(message):
        return None
    for old, new in (("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")):
        # The limit itself is never dropped; only its name is known to differ.
        if old in body and _names(message, param, old) and not re.search(r"too (large|many)|at most", message):
            if old == "max_tokens" and not _names(message, "", new):
                continue
            return Correction(replace(capabilities, max_tokens_name=new), f"{old} is sent as {new}")
    if {"temperature", "top_p"} <= set(body) and all(_names(message, "", key) for key in ("temperature", "top_p")):
        return Correction(replace(capabilities, top_p_with_temperature=False), "top_p is left out beside temperature")
    if "top_logprobs" in body and (limit := _LIMIT.search(message)) and _names(message, param, "top_logprobs"):
        most = int(limit[1])
        if most < body["top_logprobs"]:
            return Correction(replace(capabilities, top_logprobs=most), f"top_logprobs is at most {most}")
    if _RANGE.search(message):
        return None  # the server takes the parameter, and refuses its value
    named = [key for key in _LESSONS if key in body and _names(message, param, key)]
    if not named:
        return None
    lessons: dict[str, Any] = {}
    for key in named:
        lessons |= _LESSONS[key][0]
    action = "; ".join(dict.fromkeys(_LESSONS[key][1] for key in named))
    if "seed" in named and _names(message, "", "random_seed"):
        return Correction(
            replace(capabilities, **(lessons | {"seed": True, "seed_name": "random_seed"})),
            "seed is sent as random_seed",
        )
    return Correction(replace(capabilities, **lessons), action)


_FOLLOW_UP = "a verdict that the text lacks is asked for in a second user turn"
_LESSONS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "continue_final_message": ({"prefix_continuation": False}, _FOLLOW_UP),
    "add_generation_prompt": ({"prefix_continuation": False}, _FOLLOW_UP),
    "structured_outputs": ({"choice": False}, "a choice is asked for by a JSON schema"),
    "response_format": ({"json_schema": False}, "no JSON schema is sent; the text alone is read"),
    "logprobs": ({"top_logprobs": 0}, "there are no log-probabilities"),
    "top_logprobs": ({"top_logprobs": 0}, "there are no log-probabilities"),
    "seed": ({"seed": False}, "seed is left out"),
    "random_seed": ({"seed": False}, "seed is left out"),
    "temperature": ({"temperature": False, "top_p_with_temperature": False}, "temperature is left out"),
    "top_p": ({"top_p_with_temperature": False}, "top_p is left out"),
    "stop": ({"stop": False}, "stop is left out"),
}


def lacking(capabilities: Capabilities, feature: str) -> Correction:
    """The correction for a server that took a parameter and ignored it."""
    return _lacking(capabilities, feature)


def _lacking(capabilities: Capabilities, feature: str) -> Correction:
    words = {
        "prefix_continuation": _FOLLOW_UP,
        "choice": "a choice is asked for by a JSON schema",
        "label_logprobs": "probabilities are read from top_logprobs",
        "top_logprobs": "there are no log-probabilities",
    }
    value: Any = 0 if feature == "top_logprobs" else False
    return Correction(replace(capabilities, **{feature: value}), words[feature])


def _is_prefilled(body: Mapping[str, Any]) -> bool:
    messages = body.get("messages") or [{}]
    return bool(messages[-1].get("role") == "assistant")


def _names(message: str, param: str, key: str) -> bool:
    return param == key or bool(re.search(rf"(?<![\w.]){re.escape(key)}(?!\w)", message))
