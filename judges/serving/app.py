"""The HTTP routes: what is asked in pydantic models, what is answered as `assay score` writes it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from judges.data.items import to_item
from judges.data.rows import Row
from judges.data.writers import output_row
from judges.serving.metrics import Metrics
from judges.serving.middleware import Gate
from judges.serving.openrlhf import read_queries
from judges.serving.responses import JSON, answer, error, failed
from judges.serving.reward_function import grouped, rewards
from judges.serving.service import Reason, Refused, Service
from judges.types import Failure, Item, Scorecard

_STATUS: dict[Reason, int] = {"full": 429, "too-many": 413}  # any other refusal is 503
_LEFT = 499  # nobody reads it; it is counted


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold: `rows` of a batch, `body_bytes` of JSON."""

    rows: int = 256
    body_bytes: int = 16 << 20


class ScoreRequest(BaseModel):
    """A batch: each row as `assay score` reads it, a bad one is a row with a failure."""

    model_config = ConfigDict(extra="forbid")
    rows: list[dict[str, Any]] = Field(
        examples=[[{"prompt": "2 + 2?", "response": "4"}, {"prompt": "2 + 2?", "responses": ["4", "22"]}]]
    )


class OpenRLHFRequest(BaseModel):
    """What OpenRLHF's remote reward posts."""

    query: list[str]
    prompts: list[str] | None = None
    labels: list[Any] | None = None


def create_app(service: Service, metrics: Metrics, limits: Limits, token: str = "") -> FastAPI:
    """The routes of one service; with a token, all but /health ask for it."""
    app = FastAPI(title="Assay", docs_url=None, redoc_url=None)
    app.add_middleware(Gate, metrics=metrics, token=token, body_bytes=limits.body_bytes)
    metrics.watch(service.limit, lambda: (service.state, service.depth))

    @app.post("/score")
    async def score(asked: ScoreRequest, request: Request) -> Response:
        """For each row: score, failure, critique, votes, or the lists and the preference of several responses."""
        _check_rows(len(asked.rows), limits)
        read = [_row(number, fields) for number, fields in enumerate(asked.rows, start=1)]
        _count_unread(metrics, [row.item for row in read])
        items = [replace(row.item, id=_id_of(row)) for row in read if isinstance(row.item, Item)]
        cards = iter(await _judged(request, service, items))
        rows = [output_row(row, row.item if isinstance(row.item, Failure) else next(cards)) for row in read]
        return JSON({"rows": rows})

    @app.post("/openrlhf")
    async def openrlhf(asked: OpenRLHFRequest, request: Request) -> Response:
        """One reward for each query. It has no word for "none": one failure fails the request."""
        _check_rows(len(asked.query), limits)
        if asked.prompts is None and asked.query:
            raise error(422, "malformed", "no prompts: where the response begins in a query cannot be told")
        prompts, labels = asked.prompts or [], asked.labels or [None] * len(asked.query)
        if not len(asked.query) == len(prompts) == len(labels):
            told = f"{len(asked.query)} queries, {len(prompts)} prompts, {len(labels)} labels"
            raise error(422, "malformed", f"not one of each: {told}")
        read = read_queries(asked.query, prompts, labels)
        _count_unread(metrics, read)
        if failures := [(i, one) for i, one in enumerate(read) if isinstance(one, Failure)]:
            raise failed(failures, len(read))
        groups = grouped(read)
        told_all = rewards(read, groups, await _judged(request, service, [group.item for group in groups]))
        if failures := [(i, one) for i, one in enumerate(told_all) if isinstance(one, Failure)]:
            raise failed(failures, len(read))
        # Some of its versions cannot read what came as JSON in extra_logs; all of them take none.
        return JSON({"rewards": told_all, "scores": told_all, "extra_logs": {}})

    @app.get("/health")
    async def health() -> Response:
        """Ready: 200 while requests are taken, else 503."""
        return JSON({"status": service.state, "scorer": service.name}, 200 if service.state == "ready" else 503)

    @app.get("/health/live")
    async def live() -> Response:
        """Alive: 503 only when the scorer has failed and the server must be started again."""
        return JSON({"status": service.state}, 503 if service.state == "failed" else 200)

    @app.get("/metrics")
    async def counts() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, found: RequestValidationError) -> Response:
        # What was sent is not sent back: it may be huge, and not JSON.
        said = "; ".join(f"{'.'.join(map(str, e['loc']))[:80]}: {e['msg']}" for e in found.errors()[:3])
        return answer(error(422, "malformed", said))

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, found: HTTPException) -> Response:
        if found.status_code == 400:  # FastAPI's word for JSON that Python's reader gives up on
            found = error(422, "malformed", "the body cannot be read: nested too deeply, or a number too long")
        return answer(found)

    @app.exception_handler(Refused)
    async def refused(_: Request, found: Refused) -> Response:
        return answer(error(_STATUS.get(found.reason, 503), found.reason, str(found)))

    return app


def _row(number: int, fields: dict[str, Any]) -> Row:
    given = fields.get("id")
    name = str(given) if isinstance(given, str | int | float) and given != "" else f"row-{number}"
    try:
        return Row(number, {}, name, to_item(name, fields))
    except RecursionError:
        return Row(number, {}, name, Failure("malformed", "the row is nested too deeply"))


def _id_of(row: Row) -> str:
    """The id to judge by: a row's own, else one made of its content, so that the same row is the same anywhere."""
    assert isinstance(row.item, Item)
    if row.item.id != f"row-{row.number}":
        return row.item.id
    content = json.dumps([row.item.messages, row.item.responses, row.item.reference, row.item.rubric])
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def _count_unread(metrics: Metrics, read: Sequence[Item | Failure]) -> None:
    for one in read:
        if isinstance(one, Failure):
            metrics.failed(one)


def _check_rows(count: int, limits: Limits) -> None:
    if count > limits.rows:
        raise error(413, "too-many", f"{count} rows in one request; at most {limits.rows}")


async def _judged(request: Request, service: Service, items: Sequence[Item]) -> list[Scorecard]:
    """The cards of a request, unless its client leaves: then what waits for it leaves the queue too."""
    judging = asyncio.ensure_future(service.judge(items))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({judging, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not judging.done():
            raise error(_LEFT, "left", "the client has left")
        return judging.result()
    finally:
        judging.cancel()
        leaving.cancel()
        await asyncio.gather(judging, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
