"""The errors of OpenAI-compatible servers: which are retried and after how long, and what the others mean."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from judges.engines.base import RequestFailed
from judges.engines.openai.responses import error_message, parse_usage
from judges.errors import CannotRun
from judges.types import Usage

FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 8.0  # seconds
LONGEST_RETRY_AFTER = 120.0  # seconds; a server that asks for more ends the run, which can be resumed
RATE_LIMITED = 429

# The ways in which servers say that a request does not fit the context of the model.
_TOO_LONG_CODES = (
    "context_length_exceeded",
    "exceed_context_size_error",
    "request_too_large",
    "string_above_max_length",
)
_TOO_LONG = re.compile(
    r"context.?length|maximum context|context (window|size|limit)|max_model_len|model_max_prompt_tokens"
    r"|(prompt|input|message|messages|request|conversation|text)\b.{0,40}\b(is|are|was|were) too (long|large)"
    r"|(prompt|input|request).{0,60}\b(exceeds?|exceeded|larger than|longer than)\b.{0,80}"
    r"(token|context|length|maximum)"
    r"|too many (input |prompt )?tokens|(input|prompt)? ?token count .{0,40}exceeds|reduce the length of"
    r"|inputs?\W{0,3}tokens\W{1,4}max_new_tokens|(payload|request entity|content) too large"
    r"|input validation error: .{0,20}inputs.{0,20} must have less than",
    re.IGNORECASE,
)
_WITHHELD_CODES = ("content_filter", "content_policy_violation", "moderation_blocked", "responsibleaipolicyviolation")
_WITHHELD = re.compile(
    r"content.?filter|content management policy|flagged|moderation|usage polic|safety", re.IGNORECASE
)
_QUOTA_CODES = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_credits", "billing_not_active")
_QUOTA = re.compile(
    r"exceeded your current quota, please check your plan|insufficient (quota|credits|balance)", re.IGNORECASE
)
_UNKNOWN_MODEL_CODES = ("model_not_found", "deploymentnotfound", "model_not_available")
_UNKNOWN_MODEL = re.compile(r"\bmodel\b.{0,200}(does not exist|not found|is not available|doesn't exist)", re.I | re.S)
_RATE_CODES = ("rate_limit", "ratelimit", "too_many_requests", "resource_exhausted", "throttl")
_BUSY_CODES = ("server_error", "overloaded", "internal", "unavailable", "timeout", "bad_gateway")
_DELAY = re.compile(
    r"(?:try again|retry)(?: your request)?(?: in| after)\s+((?:[\d.]+\s*(?:ms|[hms])[a-z]*\s*)+)", re.IGNORECASE
)
_DELAY_PARTS = re.compile(r"([\d.]+)\s*(ms|[hms])", re.IGNORECASE)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class ServerError:
    """An error that a server answered: as the status of a response, or as an error object inside a 200.

    `code` and `kind` are the error object's `code` and `type`, "" where it has none. `path` is that of the request.
    """

    status: int
    message: str
    code: str = ""
    kind: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    inside_200: bool = False
    path: str = ""
    usage: Usage = Usage()

    @classmethod
    def from_exception(cls, error: Any) -> ServerError:
        """The error of a response with an error status."""
        body = error.body if isinstance(getattr(error, "body", None), Mapping) else {}
        body = body["error"] if isinstance(body.get("error"), Mapping) else body
        text = error_message(body) if body.get("message") else error_message(error.message)
        response = error.response
        return cls(
            status=int(error.status_code),
            message=text,
            code=str(body.get("code") or ""),
            kind=str(body.get("type") or ""),
            headers=response.headers,
            path=str(response.request.url.path),
        )

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> ServerError | None:
        """The error object inside an answer with status 200; None where there is none."""
        error = payload.get("error")
        choices = payload.get("choices")
        if not error and payload.get("object") == "error":  # older versions of vLLM
            error = {key: payload.get(key) for key in ("message", "type", "code")}
        if not error or choices or "tokens" in payload:
            return None
        body = error if isinstance(error, Mapping) else {"message": error}
        code, kind = body.get("code"), str(body.get("type") or "")
        return cls(
            status=_status_of(body.get("status_code") or code or body.get("status"), f"{code or ''} {kind}".lower()),
            message=error_message(error),
            code=str(code or ""),
            kind=kind,
            inside_200=True,
            usage=parse_usage(payload.get("usage"), 0.0),
        )

    @property
    def is_rate_limit(self) -> bool:
        return self.status == RATE_LIMITED

    def retry_after(self) -> float | None:
        """Seconds until the server takes requests again, where it says so: in a header, or in its message.

        >>> ServerError(429, "Rate limit reached. Please try again in 1m2.5s.").retry_after()
        62.5
        """
        with suppress(ValueError):
            return max(0.0, float(self.headers.get("retry-after-ms", "")) / 1000)
        seconds = parse_retry_after(self.headers.get("retry-after", ""))
        if seconds is not None:
            return max(0.0, seconds)
        if found := _DELAY.search(self.message):
            with suppress(ValueError):
                return sum(float(number) * _UNITS[unit.lower()] for number, unit in _DELAY_PARTS.findall(found[1]))
        return None

    def retry_delay(self, retries: int) -> float | None:
        """Seconds until the request may be sent again after so many `retries`; None where it may not.

        408, 409, 429 and 5xx are retried, after what the server says, else with exponential backoff and jitter.
        """
        if not (self.status in (408, 409, RATE_LIMITED) or self.status >= 500):
            return None
        if self._is_too_long() or self.headers.get("x-should-retry") == "false":
            return None
        seconds = self.retry_after()
        return jittered_backoff(retries) if seconds is None else seconds

    def _names(self, codes: tuple[str, ...]) -> bool:
        return self.code.lower() in codes or self.kind.lower() in codes

    def raise_if_final(self, url: str) -> None:
        """Raise CannotRun where every further request would fail: no money, a refused key, an unknown model."""
        if self._names(_QUOTA_CODES) or (self.status in (402, RATE_LIMITED) and _QUOTA.search(self.message)):
            raise CannotRun(self._resumable(f"{url}: the account has no quota left ({self.message})"))
        if self.inside_200:
            return
        if self.status == 402:
            raise CannotRun(self._resumable(f"{url} asks for payment (402: {self.message})"))
        if self.status == 401:
            raise CannotRun(self._resumable(f"{url} refuses the key (401: {self.message})"))
        if self.status == 403 and not self._is_withheld():
            raise CannotRun(self._resumable(f"{url} does not allow this key (403: {self.message})"))
        if self._names(_UNKNOWN_MODEL_CODES) or (self.status == 404 and _UNKNOWN_MODEL.search(self.message)):
            raise CannotRun(self._resumable(f"{url} does not serve the model (404: {self.message})"))

    @staticmethod
    def _resumable(problem: str) -> str:
        return f"{problem}; what is finished is safe, correct this and run the same command again"

    def _is_too_long(self) -> bool:
        if self._names(_TOO_LONG_CODES) or self.status == 413:
            return True
        return self.status in (400, 422, 500) and bool(_TOO_LONG.search(self.message))

    def _is_withheld(self) -> bool:
        return self._names(_WITHHELD_CODES) or (self.status in (400, 403) and bool(_WITHHELD.search(self.message)))

    def failure(self, url: str) -> RequestFailed:
        """The failure of the request that was answered with this error."""
        if self._is_too_long():
            return RequestFailed("too-long", self.message, self.usage)
        if self._is_withheld():
            return RequestFailed("refused", self.message, self.usage)
        if self.status == 400 and not self.inside_200:
            return RequestFailed("server", self.message, self.usage)
        where = "an error inside a 200" if self.inside_200 else "answered"
        origin = f"{url}: {where}" if self.inside_200 else f"{url} {where}"
        return RequestFailed("server", f"{origin} {self.status}: {self.message}".replace("  ", " "), self.usage)


def _status_of(code: Any, names: str) -> int:
    """The HTTP status that an error object inside a 200 stands for."""
    with suppress(ValueError, TypeError):
        if 400 <= int(code) <= 599:
            return int(code)
    if any(name in names for name in _RATE_CODES):
        return RATE_LIMITED
    return 503 if any(name in names for name in _BUSY_CODES) else 400


def jittered_backoff(retries: int) -> float:
    """Seconds to wait before a further try, after so many `retries`."""
    return min(exponential_backoff(retries), LONGEST_BACKOFF) * random.uniform(0.75, 1.0)


def exponential_backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, without an upper bound of its own."""
    return FIRST_BACKOFF * float(2 ** min(failures, 10))


def parse_retry_after(header: str) -> float | None:
    """Seconds from now that a Retry-After header names, by their number or by a date.

    >>> parse_retry_after("2.5"), parse_retry_after("soon"), parse_retry_after("nan")
    (2.5, None, None)
    >>> round(parse_retry_after("Thu, 01 Jan 1970 00:00:00 GMT") + time.time())
    0
    """
    with suppress(ValueError):
        seconds = float(header)
        return seconds if seconds == seconds else None
    with suppress(ValueError):
        return parsedate_to_datetime(header).timestamp() - time.time()
    return None


def is_connection_error(error: Any) -> bool:
    """Whether there was no connection, or it broke before the response."""
    if isinstance(error, openai.APITimeoutError):
        # The client's HTTP library differs between its versions, so its exception is recognised by name.
        return type(error.__cause__).__name__ == "ConnectTimeout"
    return isinstance(error, openai.APIConnectionError)
