"""One small fake server per make: it refuses what the real one refuses, by the page of documentation it names."""

from __future__ import annotations

from typing import Any, ClassVar

from fake_server import CORE, Body, FakeServer, Refusal

from judges.engines.openai.providers import PROVIDERS

OPENAI = CORE | {"max_completion_tokens", "logprobs", "top_logprobs", "response_format", "reasoning_effort"}


def _require_strict_schema(body: Body) -> None:
    """OpenAI's rules: `type` beside `enum`, no further properties, all keys required."""
    form = body.get("response_format") or {}
    if form.get("type") != "json_schema":
        return
    schema = form["json_schema"]["schema"]
    if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(schema["properties"]):
        raise Refusal(400, "Invalid schema for response_format 'verdict'", param="response_format")
    if any("type" not in part for part in schema["properties"].values()):
        raise Refusal(400, "Invalid schema for response_format: schema must have a 'type' key", param="response_format")


def _user_last(body: Body) -> None:
    if body["messages"][-1]["role"] != "user":
        raise Refusal(400, "The last message must be a user message: prefill is not supported")


class OpenAIChat(FakeServer):
    page = PROVIDERS["openai"].page
    model = "gpt-4o-mini"
    accepted = OPENAI
    refuses_unknown = True
    top_logprobs = 20

    def check(self, body: Body) -> None:
        _require_strict_schema(body)


class OpenAIReasoning(OpenAIChat):
    page = PROVIDERS["openai-reasoning"].page
    model = "o4-mini"

    def check(self, body: Body) -> None:
        super().check(body)
        for key in ("max_tokens", "logprobs", "top_logprobs", "stop", "top_p"):
            if key in body:
                hint = " Use 'max_completion_tokens' instead." if key == "max_tokens" else ""
                message = f"Unsupported parameter: '{key}' is not supported with this model.{hint}"
                raise Refusal(400, message, "unsupported_parameter", key)
        if body.get("temperature", 1) != 1:
            message = "Unsupported value: 'temperature' does not support this value. Only the default (1) is supported."
            raise Refusal(400, message, "unsupported_value", "temperature")


class Azure(OpenAIChat):
    page = PROVIDERS["azure"].page
    model = "my-deployment"

    def models(self) -> Any:
        raise Refusal(404, "Resource not found", "404")


class Anthropic(FakeServer):
    page = PROVIDERS["anthropic"].page
    model = "claude-sonnet-4-5"

    def check(self, body: Body) -> None:
        _user_last(body)
        if "temperature" in body and "top_p" in body:
            raise Refusal(400, "`temperature` and `top_p` cannot both be specified for this model. Use only one.")
        if body.get("n", 1) != 1:
            raise Refusal(400, "n: must be 1")
        for key in ("seed", "logprobs"):
            if key in body:
                raise Refusal(400, f"{key}: Extra inputs are not permitted")

    accepted = CORE | {"logprobs", "response_format"}
    refuses_unknown = True

    def choices_of(self, body: Body) -> list[str] | None:
        return None  # response_format is ignored


class Gemini(FakeServer):
    page = PROVIDERS["gemini"].page
    model = "gemini-2.5-flash"
    accepted = (CORE | {"response_format", "reasoning_effort"}) - {"seed"}
    refuses_unknown = True

    def unknown(self, names: list[str]) -> Refusal:
        return Refusal(400, f'Invalid JSON payload received. Unknown name "{names[0]}": Cannot find field.')

    def models(self) -> Any:
        return {"object": "list", "data": [{"id": f"models/{self.model}", "object": "model", "owned_by": "google"}]}


class OpenRouter(FakeServer):
    page = PROVIDERS["openrouter"].page
    model = "meta-llama/llama-3.1-8b-instruct"
    top_logprobs = 20


class Ollama(FakeServer):
    page = PROVIDERS["ollama"].page
    model = "llama3"
    many = False

    def models(self) -> Any:
        return {"object": "list", "data": [{"id": f"{self.model}:latest", "object": "model", "owned_by": "library"}]}


class Owned(FakeServer):
    owner: ClassVar[str]

    def models(self) -> Any:
        return {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": self.owner}]}


class LlamaCpp(Owned):
    page = PROVIDERS["llama.cpp"].page
    owner = "llamacpp"
    top_logprobs = 20
    many = False
    continues = True


class TGI(Owned):
    page = PROVIDERS["tgi"].page
    owner = "tgi"
    top_logprobs = 5
    many = False

    def check(self, body: Body) -> None:
        if not 0 < body.get("top_p", 0.5) < 1:
            raise Refusal(422, "Input validation error: `top_p` must be > 0.0 and < 1.0")

    def choices_of(self, body: Body) -> list[str] | None:
        return None


class SGLang(Owned):
    page = PROVIDERS["sglang"].page
    owner = "sglang"
    top_logprobs = 20
    continues = True


MAKES = (OpenAIChat, OpenAIReasoning, Azure, Anthropic, Gemini, OpenRouter, Ollama, LlamaCpp, TGI, SGLang)
