"""The retry policy for OpenAI-compatible servers: which errors are retried, and after how many seconds."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from judges.engines.base import RequestFailed

FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 8.0  # seconds
LONGEST_RETRY_AFTER = 120.0  # seconds; a server that asks for more fails the request


def retry_delay(error: Any, retries: int) -> float | None:
    """Seconds until a request may be sent again after `error` and so many `retries`; None where it may not.

    408, 409, 429 and 5xx are retried, after what Retry-After says, else with exponential backoff and jitter.
    """
    status = getattr(error, "status_code", 0)
    if not (status in (408, 409, 429) or status >= 500):
        return None
    headers = error.response.headers
    if headers.get("x-should-retry") == "false":
        return None
    retry_after = parse_retry_after(headers.get("retry-after", ""))
    if retry_after is not None:
        return max(0.0, retry_after)
    return min(exponential_backoff(retries), LONGEST_BACKOFF) * random.uniform(0.75, 1.0)


def exponential_backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, without an upper bound of its own."""
    return FIRST_BACKOFF * float(2 ** min(failures, 10))


def parse_retry_after(header: str) -> float | None:
    """Seconds from now that a Retry-After header names, by their number or by a date.

    >>> parse_retry_after("2.5"), parse_retry_after("soon")
    (2.5, None)
    >>> round(parse_retry_after("Thu, 01 Jan 1970 00:00:00 GMT") + time.time())
    0
    """
    with suppress(ValueError):
        return float(header)
    with suppress(ValueError):
        return parsedate_to_datetime(header).timestamp() - time.time()
    return None


def is_connection_error(error: Any) -> bool:
    """Whether there was no connection, or it broke before the response."""
    if isinstance(error, openai.APITimeoutError):
        # The client's HTTP library differs between its versions, so its exception is recognised by name.
        return type(error.__cause__).__name__ == "ConnectTimeout"
    return isinstance(error, openai.APIConnectionError)


def to_request_failed(error: Any, url: str) -> RequestFailed:
    """The failure of a request that a server answered with an error status."""
    message = str(error.message)
    first_line = (message.splitlines() or [""])[0][:300]
    if isinstance(error, openai.BadRequestError):
        too_long = any(phrase in message for phrase in ("context length", "maximum context", "max_model_len"))
        return RequestFailed("too-long" if too_long else "server", first_line)
    status = getattr(error, "status_code", None)
    return RequestFailed("server", f"{url} answered {status}: {first_line}" if status else f"{url}: {first_line}")
