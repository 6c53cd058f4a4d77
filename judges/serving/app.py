"""The HTTP routes (FastAPI): /score, /openrlhf, /health and /metrics, with their request models."""

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
from judges.data.output_row import output_row
from judges.data.rows import Row
from judges.serving.metrics import Metrics
from judges.serving.middleware import RequestMiddleware
from judges.serving.openrlhf import queries_to_items
from judges.serving.responses import JSONResponse, error_response, http_error, reward_error
from judges.serving.reward_function import collect_rewards, group_by_prompt
from judges.serving.service import RefusalReason, RequestRefused, Service
from judges.types import Failure, Item, Scorecard

_STATUS: dict[RefusalReason, int] = {"full": 429, "too-many": 413}  # 503 for any other reason
_CLIENT_CLOSED = 499  # never read by the client, but counted


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one request: the `rows` of a batch, and the `body_bytes` of its JSON."""

    rows: int = 256
    body_bytes: int = 16 << 20


class ScoreRequest(BaseModel):
    """A batch of rows as `assay score` reads them; an unreadable row gets a failure."""

    model_config = ConfigDict(extra="forbid")
    rows: list[dict[str, Any]] = Field(
        examples=[[{"prompt": "2 + 2?", "response": "4"}, {"prompt": "2 + 2?", "responses": ["4", "22"]}]]
    )


class OpenRLHFRequest(BaseModel):
    """The request of OpenRLHF's remote reward."""

    query: list[str]
    prompts: list[str] | None = None
    labels: list[Any] | None = None


def create_app(service: Service, metrics: Metrics, limits: Limits, token: str = "") -> FastAPI:
    """The routes of one service. With a token, all routes except /health require it."""
    app = FastAPI(title="Assay", docs_url=None, redoc_url=None)
    app.add_middleware(RequestMiddleware, metrics=metrics, token=token, body_bytes=limits.body_bytes)
    metrics.watch(service.limit, lambda: (service.state, service.depth))

    @app.post("/score")
    async def score(batch: ScoreRequest, request: Request) -> Response:
        """For each row its score, failure, critique and votes, or lists of them and the preference."""
        _check_count(len(batch.rows), limits)
        rows = [_to_row(number, fields) for number, fields in enumerate(batch.rows, start=1)]
        _count_failures(metrics, [row.item for row in rows])
        items = [replace(row.item, id=_content_id(row)) for row in rows if isinstance(row.item, Item)]
        cards = iter(await _score_items(request, service, items))
        scored = [output_row(row, row.item if isinstance(row.item, Failure) else next(cards)) for row in rows]
        return JSONResponse({"rows": scored})

    @app.post("/openrlhf")
    async def openrlhf(batch: OpenRLHFRequest, request: Request) -> Response:
        """One reward for each query. The protocol has no missing reward, so that one failure fails the request."""
        _check_count(len(batch.query), limits)
        if batch.prompts is None and batch.query:
            raise http_error(422, "malformed", "no prompts: the start of the response in a query is unknown")
        prompts, labels = batch.prompts or [], batch.labels or [None] * len(batch.query)
        if not len(batch.query) == len(prompts) == len(labels):
            counts = f"{len(batch.query)} queries, {len(prompts)} prompts, {len(labels)} labels"
            raise http_error(422, "malformed", f"unequal numbers: {counts}")
        samples = queries_to_items(batch.query, prompts, labels)
        _count_failures(metrics, samples)
        if failures := _indexed_failures(samples):
            raise reward_error(failures, len(samples))
        groups = group_by_prompt(samples)
        cards = await _score_items(request, service, [group.item for group in groups])
        rewards = collect_rewards(samples, groups, cards)
        if failures := _indexed_failures(rewards):
            raise reward_error(failures, len(samples))
        # Some versions of OpenRLHF cannot read JSON values in extra_logs; all accept an empty one.
        return JSONResponse({"rewards": rewards, "scores": rewards, "extra_logs": {}})

    @app.get("/health")
    async def health() -> Response:
        """Readiness: 200 while requests are accepted, otherwise 503."""
        return JSONResponse({"status": service.state, "scorer": service.name}, 200 if service.state == "ready" else 503)

    @app.get("/health/live")
    async def live() -> Response:
        """Liveness: 503 only after the scorer has failed, when the server must be restarted."""
        return JSONResponse({"status": service.state}, 503 if service.state == "failed" else 200)

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    async def handle_invalid_request(_: Request, invalid: RequestValidationError) -> Response:
        # The input is not repeated: it may be huge, and not valid JSON.
        details = "; ".join(f"{'.'.join(map(str, e['loc']))[:80]}: {e['msg']}" for e in invalid.errors()[:3])
        return error_response(http_error(422, "malformed", details))

    @app.exception_handler(HTTPException)
    async def handle_http_error(_: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # FastAPI's status for JSON that Python's parser gives up on
            error = http_error(422, "malformed", "the body cannot be read: nested too deeply, or a number too long")
        return error_response(error)

    @app.exception_handler(RequestRefused)
    async def handle_refusal(_: Request, refused: RequestRefused) -> Response:
        return error_response(http_error(_STATUS.get(refused.reason, 503), refused.reason, str(refused)))

    return app


def _to_row(number: int, fields: dict[str, Any]) -> Row:
    input_id = fields.get("id")
    name = str(input_id) if isinstance(input_id, str | int | float) and input_id != "" else f"row-{number}"
    try:
        return Row(number, {}, name, to_item(name, fields))
    except RecursionError:
        return Row(number, {}, name, Failure("malformed", "the row is nested too deeply"))


def _content_id(row: Row) -> str:
    """The id to score a row by: its own, or a hash of its content, which is the same in every request."""
    assert isinstance(row.item, Item)
    if row.item.id != f"row-{row.number}":
        return row.item.id
    content = json.dumps([row.item.messages, row.item.responses, row.item.reference, row.item.rubric])
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def _indexed_failures(results: Sequence[Any]) -> list[tuple[int, Failure]]:
    return [(index, result) for index, result in enumerate(results) if isinstance(result, Failure)]


def _count_failures(metrics: Metrics, results: Sequence[Any]) -> None:
    for _, failure in _indexed_failures(results):
        metrics.count_failure(failure)


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.rows:
        raise http_error(413, "too-many", f"{count} rows in one request; at most {limits.rows}")


async def _score_items(request: Request, service: Service, items: Sequence[Item]) -> list[Scorecard]:
    """The Scorecards of a request. If its client disconnects, its waiting Items leave the queue."""
    scoring = asyncio.ensure_future(service.judge(items))
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({scoring, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not scoring.done():
            raise http_error(_CLIENT_CLOSED, "left", "the client has disconnected")
        return scoring.result()
    finally:
        scoring.cancel()
        disconnect.cancel()
        await asyncio.gather(scoring, disconnect, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
