"""Cache of completions: a SQLite file whose keys are hashes of the model, the prompt and the sampling parameters."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from judges.engines.base import Completion, Engine, Generation, LogLikelihood, Request, RequestFailed, TokenLogprobs
from judges.engines.capabilities import Capabilities, Feature, NotSupported
from judges.engines.concurrency import Batcher
from judges.errors import CannotRun
from judges.types import Failure, FailureReason, Message, Usage, usage_to_dict

T = TypeVar("T")

_LOCK_TIMEOUT = 60.0  # seconds to wait for another process that has locked the file

_Row = tuple[bytes, int, int, str]
# Of a request for several completions: one that is withheld stays so, any other failure may be gone the next time.
_LASTING_FAILURES: tuple[FailureReason, ...] = ("refused",)
_NO_LOGPROBS = None  # the place of a former request field in the layout of the digest

_SCHEMA = """
CREATE TABLE IF NOT EXISTS engines (id INTEGER PRIMARY KEY, identity TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS completions (
    key BLOB PRIMARY KEY, engine INTEGER NOT NULL, created INTEGER NOT NULL, value TEXT NOT NULL
);
"""


class Store:
    """A file of JSON values by key, which several processes may use at once.

    Values that are ready together are written in one transaction, which is on disk before any `put` returns, so
    neither a kill nor a power cut loses them. SQLite's write-ahead log needs a local disk, not a network one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="assay-store")
        self._writes = Batcher[_Row, None](self._write, self._thread)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._reader, self._writer = self._connect()
        except (sqlite3.Error, OSError) as error:
            raise CannotRun(f"store {path}: {error}; make room, or move it away to begin a new one") from error

    def _connect(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while True:
            pair = [
                sqlite3.connect(self.path, check_same_thread=False, timeout=_LOCK_TIMEOUT, isolation_level=None)
                for _ in range(2)
            ]
            try:
                for db in pair:
                    db.execute("PRAGMA journal_mode=WAL")
                    db.execute("PRAGMA synchronous=FULL")
                pair[1].executescript(_SCHEMA)
                return pair[0], pair[1]
            except sqlite3.Error as error:
                for db in pair:
                    db.close()
                # Of several that switch a new file to WAL, all but one fail at once because it is locked.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def engine_id(self, identity: str) -> int:
        """The id of an engine in this store; it is added when it is new."""
        with self._lock, self._sqlite_errors():
            self._writer.execute("INSERT OR IGNORE INTO engines (identity) VALUES (?)", (identity,))
            row = self._writer.execute("SELECT id FROM engines WHERE identity = ?", (identity,)).fetchone()
        return int(row[0])

    def get(self, key: bytes) -> Any:
        """The value of a key, None where there is none, or none that is JSON."""
        with self._lock, self._sqlite_errors():
            row = self._reader.execute("SELECT value FROM completions WHERE key = ?", (key,)).fetchone()
        with suppress(ValueError, TypeError):
            return None if row is None else _from_json(row[0])
        return None

    async def put(self, key: bytes, engine: int, value: Mapping[str, Any]) -> None:
        """Store a value; returns when it is on disk. Raises CannotRun when it cannot be written."""
        await self._writes.submit((key, engine, int(time.time()), _to_json(value)))

    def _write(self, rows: list[_Row]) -> list[None]:
        with self._sqlite_errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._writer.executemany("INSERT OR REPLACE INTO completions VALUES (?, ?, ?, ?)", rows)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # a full disk has rolled back already
                    self._writer.execute("ROLLBACK")
                raise
        return [None] * len(rows)

    @contextmanager
    def _sqlite_errors(self) -> Iterator[None]:
        """Raise SQLite's errors as CannotRun."""
        try:
            yield
        except sqlite3.OperationalError as error:  # full, locked, not readable
            message = f"store {self.path}: {error}; what is finished is safe, make room and run the same command"
            raise CannotRun(message) from error
        except sqlite3.Error as error:
            raise CannotRun(f"store {self.path}: {error}; move it away to begin a new one") from error

    # -- for `assay cache` ---------------------------------------------------------------------------------------

    def summaries(self) -> list[EngineSummary]:
        """What the store has of each engine, the most recently used first."""
        with self._sqlite_errors():
            rows = self._reader.execute(
                "SELECT identity, COUNT(*), SUM(LENGTH(value)), MIN(created), MAX(created)"
                " FROM completions JOIN engines ON engines.id = engine GROUP BY engines.id ORDER BY MAX(created) DESC"
            )
            return [EngineSummary(json.loads(identity), *rest) for identity, *rest in rows]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every value as a row, oldest first; one that is not a JSON object is under `unreadable`."""
        with self._sqlite_errors():
            found = self._reader.execute(
                "SELECT LOWER(HEX(key)), identity, created, value"
                " FROM completions JOIN engines ON engines.id = engine ORDER BY created, key"
            )
            for key, identity, created, value in found:
                yield {"key": key, "engine": json.loads(identity), "created": created, **_columns(value)}

    def prune(self, before: float | None = None, model: str | None = None) -> int:
        """Delete the values stored before a time (seconds since 1970), of one model or of all; returns their number."""
        with self._lock, self._sqlite_errors():
            engines = [n for n, identity in self._engines() if model is None or identity.get("model") == model]
            placeholders = ",".join("?" * len(engines))
            deleted = self._writer.execute(
                f"DELETE FROM completions WHERE engine IN ({placeholders}) AND created < ?",
                (*engines, 2**62 if before is None else before),
            ).rowcount
            self._writer.execute("DELETE FROM engines WHERE id NOT IN (SELECT DISTINCT engine FROM completions)")
            self._writer.execute("VACUUM")
        return deleted

    def _engines(self) -> list[tuple[int, dict[str, Any]]]:
        return [(n, json.loads(text)) for n, text in self._reader.execute("SELECT id, identity FROM engines")]

    def close(self) -> None:
        """Close the file, after the writes that are under way."""
        self._thread.shutdown(wait=True)
        with self._lock:
            self._reader.close()
            self._writer.close()


@dataclass(frozen=True, slots=True)
class EngineSummary:
    """The completions of one engine in a store: their number, bytes, and the times of the first and the last one."""

    engine: dict[str, Any]
    completions: int
    size: int
    first: int
    last: int


class StoredEngine(Engine):
    """An engine that answers from a store what was requested before, and stores what its engine returns.

    The key is a hash of `identity` (model, revision, engine and its settings; by default the engine's own), the
    messages and the sampling parameters. A killed run repeats only what was in flight. Equal requests in flight are
    sent once. Failures are not stored, and an entry that cannot be read counts as missing and is replaced. Without an
    engine, a request that is not in the store fails.
    """

    name = "store"

    def __init__(self, engine: Engine | None, path: Path, identity: Mapping[str, Any] | None = None) -> None:
        if engine is None and identity is None:
            raise ValueError("a store without an engine needs an identity")
        self.engine = engine
        self._identity = dict(identity) if identity is not None else engine.identity() if engine else {}
        self.model = engine.model if engine is not None else str(self._identity.get("model"))
        self._prefix = json.dumps(self._identity, sort_keys=True, default=str)
        self.store = Store(path)
        self._engine_id = self.store.engine_id(self._prefix)
        self.hits = self.misses = 0
        self._in_flight: dict[bytes, asyncio.Future[Any]] = {}

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # of the engine, which may learn
        return Capabilities() if self.engine is None else self.engine.capabilities

    def identity(self) -> dict[str, Any]:
        return self._identity

    def token_ids(
        self, messages: tuple[Message, ...], prefix: str = "", partial: Generation | None = None
    ) -> list[int] | None:
        return None if self.engine is None else self.engine.token_ids(messages, prefix, partial)

    def begins_in_thought(self, request: Request) -> bool:
        return self.engine is not None and self.engine.begins_in_thought(request)

    async def find_label_scoring(self) -> None:
        if self.engine is not None:
            await self.engine.find_label_scoring()

    async def complete(self, request: Request) -> Completion:
        return await self._get_or_compute(
            self._key(request_digest(request)),
            lambda stored: _to_completion(stored, self._least_choices(request), self.begins_in_thought(request)),
            lambda: self._require_engine(_feature(request)).complete(request),
            _completion_to_dict,
            lambda completion: all(failure.reason in _LASTING_FAILURES for failure in completion.failures),
        )

    async def log_likelihood(
        self, messages: tuple[Message, ...], prefix: str, continuation: str, partial: Generation | None = None
    ) -> LogLikelihood:
        digest = request_digest(Request(messages, prefix=prefix, partial=partial))
        return await self._get_or_compute(
            self._key("log-likelihood", digest, continuation),
            _to_likelihood,
            lambda: self._require_engine("label_logprobs").log_likelihood(messages, prefix, continuation, partial),
            asdict,
        )

    async def log_likelihoods(
        self,
        messages: tuple[Message, ...],
        prefix: str,
        continuations: tuple[str, ...],
        partial: Generation | None = None,
    ) -> list[LogLikelihood]:
        digest = request_digest(Request(messages, prefix=prefix, partial=partial))
        return await self._get_or_compute(
            self._key("log-likelihoods", digest, *continuations),
            lambda stored: _to_likelihoods(stored, len(continuations)),
            lambda: self._require_engine("label_logprobs").log_likelihoods(messages, prefix, continuations, partial),
            lambda likelihoods: {"all": [asdict(each) for each in likelihoods]},
        )

    async def response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
        return await self._get_or_compute(
            self._key("response-log-likelihood", request_digest(Request(messages)), response),
            _to_likelihood,
            lambda: self._require_engine().response_log_likelihood(messages, response),
            asdict,
        )

    async def _get_or_compute(
        self,
        key: bytes,
        decode: Callable[[Any], T],
        compute: Callable[[], Awaitable[T]],
        encode: Callable[[T], Mapping[str, Any]],
        is_lasting: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """The result for a key: stored, or of an equal request in flight, or computed and then stored.

        A failure is that of all equal requests in flight. Where the one that computes is cancelled, another takes over.
        """
        while (running := self._in_flight.get(key)) is not None:
            await asyncio.wait([running])
            if not running.cancelled():
                self.hits += 1
                result: T = running.result()
                return result
        value = self.store.get(key)
        if value is not None:
            try:
                result = decode(value)
            except (KeyError, TypeError, ValueError, AttributeError):
                pass  # an entry of another shape: asked for again, and replaced
            else:
                self.hits += 1
                return result
        self.misses += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = future
        try:
            result = await compute()
            if is_lasting(result):
                await self.store.put(key, self._engine_id, encode(result))
        except Exception as error:
            future.set_exception(error)
            future.exception()  # retrieved, or asyncio logs it where no equal request waits
            raise
        else:
            future.set_result(result)
            return result
        finally:
            del self._in_flight[key]
            future.cancel()  # where this request was cancelled

    def _least_choices(self, request: Request) -> int:
        """The choices of a complete entry. Older versions stored what a server gave that ignores `n`."""
        return request.n if self._identity.get("engine") == "openai" else 1

    def _require_engine(self, feature: Feature | None = None) -> Engine:
        """The engine. Without one, what needs a `feature` may be in the store in the form of an engine without it."""
        if self.engine is None:
            if feature is not None:
                raise NotSupported(feature, "the store has no such completion")
            raise RequestFailed("engine", "the store has no such completion, and --reread runs no model")
        return self.engine

    def _key(self, *parts: str) -> bytes:
        text = "\x1f".join([self._prefix, *parts])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    def close(self) -> None:
        """Close the store. Whoever opened the engine closes it."""
        self.store.close()


def _feature(request: Request) -> Feature | None:
    return "prefix_continuation" if request.prefix else "choice" if request.choice else None


def _completion_to_dict(completion: Completion) -> dict[str, Any]:
    choices: list[dict[str, Any]] = []
    for c in completion.choices:
        choices.append({"text": c.text, "finish": c.finish, "token_ids": c.token_ids})
        if c.reasoning:
            choices[-1]["reasoning"] = c.reasoning
        if c.in_thought:
            choices[-1]["in_thought"] = True
        if c.logprobs:
            choices[-1]["logprobs"] = [[position.token, position.top] for position in c.logprobs]
    stored: dict[str, Any] = {"choices": choices, "usage": usage_to_dict(completion.usage)}
    if completion.failures:
        stored["failures"] = [asdict(failure) for failure in completion.failures]
    return stored


def _to_completion(stored: Any, at_least: int, in_thought: bool) -> Completion:
    """The completion of an entry with `at_least` so many choices.

    `in_thought` is the engine's word on one that does not say where it begins. Raises KeyError, TypeError or
    ValueError for one of another shape.
    """
    choices = tuple(_to_generation(choice, in_thought) for choice in stored["choices"])
    failures = tuple(Failure(**failure) for failure in stored.get("failures", ()))
    if not choices or len(choices) + len(failures) < at_least:
        raise ValueError(f"{len(choices)} choices, not {at_least}")
    return Completion(choices, _to_usage(stored["usage"]), failures)


def _to_generation(stored: Any, in_thought: bool) -> Generation:
    text, finish, reasoning = stored["text"], stored["finish"], stored.get("reasoning", "")
    token_ids = tuple(stored["token_ids"])
    if not isinstance(text, str) or not isinstance(reasoning, str) or finish not in ("stop", "length"):
        raise ValueError("text, finish or reasoning")
    if not all(type(token) is int for token in token_ids):
        raise ValueError("token_ids")
    logprobs = tuple(
        TokenLogprobs(str(token), tuple((str(other), float(value)) for other, value in top))
        for token, top in (position for position in stored.get("logprobs", ()) if isinstance(position, list))
    )
    return Generation(text, finish, token_ids, reasoning, stored.get("in_thought", in_thought) is True, logprobs)


def _to_likelihoods(stored: Any, count: int) -> list[LogLikelihood]:
    if len(stored["all"]) != count:
        raise ValueError("another number of continuations")
    return [_to_likelihood(value) for value in stored["all"]]


def _to_likelihood(stored: Any) -> LogLikelihood:
    total, tokens = stored["total"], stored["tokens"]
    if type(tokens) is not int or type(total) not in (int, float) or math.isnan(total):
        raise ValueError("total or tokens")
    return LogLikelihood(total, tokens, _to_usage(stored["usage"]))


def _to_usage(stored: Any) -> Usage:
    """The usage of an entry; a count that a server did not say, which older versions stored as null, is 0."""
    usage = Usage(**{key: 0 if value is None else value for key, value in stored.items()})
    if not all(type(value) in (int, float) for value in usage_to_dict(usage).values()):
        raise ValueError("usage")
    return usage


def request_digest(request: Request) -> str:
    """SHA-256 of everything that determines the completion of a request, except the model: part of a store's key.

    Keys of existing stores depend on this exact layout.
    """
    content = [
        [[m["role"], m["content"]] for m in request.messages],
        [request.prefix, request.n, request.temperature, request.top_p, request.max_tokens],
        [list(request.stop), _NO_LOGPROBS, list(request.choice) if request.choice else None, request.seed],
    ]
    if request.schema is not None:
        content.append([request.schema])
    if request.top_logprobs:
        content.append(["top_logprobs", request.top_logprobs])
    if request.partial is not None:
        content.append(list(request.partial.token_ids))
    return hashlib.sha256(_to_json(content).encode()).hexdigest()


def _to_json(value: Any) -> str:
    r"""JSON that is always valid UTF-8.

    A lone surrogate, which a model can generate, is written as an escape, and a log-probability of -inf as
    `-Infinity`, where orjson would write null.

    >>> _to_json(["\ud83d", 1.5]), _to_json(["ü", float("-inf")])
    ('["\\ud83d", 1.5]', '["\\u00fc", -Infinity]')
    """
    try:
        text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        return json.dumps(value)
    return json.dumps(value) if "null" in text and not _is_finite(value) else text


def _from_json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:  # -Infinity
        return json.loads(text)


def _columns(text: Any) -> dict[str, Any]:
    with suppress(ValueError, TypeError):
        value = _from_json(text)
        if isinstance(value, dict):
            return value
    return {"unreadable": str(text)}


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
