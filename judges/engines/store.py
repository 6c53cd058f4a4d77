"""Any engine, remembered: completions under the hash of what was asked, in SQLite."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from judges.engines.base import Completion, Engine, Generation, LogLikelihood, Request, RequestFailed
from judges.errors import CannotRun
from judges.types import Message, Usage, plain_usage

_PATIENCE = 60.0
"""Seconds to wait for another process that holds the file."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS engines (id INTEGER PRIMARY KEY, identity TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS completions (
    key BLOB PRIMARY KEY, engine INTEGER NOT NULL, created INTEGER NOT NULL, value TEXT NOT NULL
);
"""


class Store:
    """A file of answers by key, which several processes may use at once.

    Answers that are ready together are one transaction, on disk before any of them is returned: neither a kill
    nor a power cut takes back what was told. SQLite's write-ahead log needs a local disk, not a network's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="assay-store")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._reader, self._writer = self._opened()
        except (sqlite3.Error, OSError) as error:
            raise CannotRun(f"store {path}: {error}; make room, or move it away to begin a new one") from error

    def _opened(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        until = time.monotonic() + _PATIENCE
        while True:
            pair = [
                sqlite3.connect(self.path, check_same_thread=False, timeout=_PATIENCE, isolation_level=None)
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
                # Of several that turn a new file to WAL, all but one are told at once that it is locked.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(0.01)

    def number_of(self, identity: str) -> int:
        """The number of an engine in this store, entered when it is new."""
        with self._lock, self._told():
            self._writer.execute("INSERT OR IGNORE INTO engines (identity) VALUES (?)", (identity,))
            row = self._writer.execute("SELECT id FROM engines WHERE identity = ?", (identity,)).fetchone()
        return int(row[0])

    def get(self, key: bytes) -> dict[str, Any] | None:
        """What is kept under a key."""
        with self._lock, self._told():
            row = self._reader.execute("SELECT value FROM completions WHERE key = ?", (key,)).fetchone()
        return None if row is None else _from_json(row[0])

    async def put(self, key: bytes, engine: int, value: Mapping[str, Any]) -> None:
        """Keep an answer; returns when it is on disk. Raises CannotRun when it cannot be."""
        running = asyncio.get_running_loop()
        done: asyncio.Future[None] = running.create_future()
        row = (key, engine, int(time.time()), _to_json(value))
        self._waiting.append((row, done))
        if self._writing is None or self._writing.done():
            self._writing = running.create_task(self._write_waiting())
        await done

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._write, [row for row, _ in batch])
            except Exception as error:  # whatever it is, those who wait must hear of it
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                continue
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        with self._told():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._writer.executemany("INSERT OR REPLACE INTO completions VALUES (?, ?, ?, ?)", rows)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # a full disk has rolled back already
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell SQLite's errors as CannotRun."""
        try:
            yield
        except sqlite3.OperationalError as error:  # full, locked, not readable
            told = f"store {self.path}: {error}; what is finished is safe, make room and run the same command"
            raise CannotRun(told) from error
        except sqlite3.Error as error:
            raise CannotRun(f"store {self.path}: {error}; move it away to begin a new one") from error

    # -- what `assay cache` shows ------------------------------------------------------------------------------

    def contents(self) -> list[Contents]:
        """What is kept, by the engine that was asked."""
        with self._told():
            rows = self._reader.execute(
                "SELECT identity, COUNT(*), SUM(LENGTH(value)), MIN(created), MAX(created)"
                " FROM completions JOIN engines ON engines.id = engine GROUP BY engines.id ORDER BY MAX(created) DESC"
            )
            return [Contents(json.loads(identity), *rest) for identity, *rest in rows]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every answer as a row, oldest first."""
        with self._told():
            found = self._reader.execute(
                "SELECT LOWER(HEX(key)), identity, created, value"
                " FROM completions JOIN engines ON engines.id = engine ORDER BY created, key"
            )
            for key, identity, created, value in found:
                yield {"key": key, "engine": json.loads(identity), "created": created, **_from_json(value)}

    def prune(self, before: float | None = None, model: str | None = None) -> int:
        """Take out answers that were kept before a time (seconds since 1970), of one model or of all; how many."""
        with self._lock, self._told():
            chosen = [n for n, identity in self._engines() if model is None or identity.get("model") == model]
            marks = ",".join("?" * len(chosen))
            gone = self._writer.execute(
                f"DELETE FROM completions WHERE engine IN ({marks}) AND created < ?",
                (*chosen, 2**62 if before is None else before),
            ).rowcount
            self._writer.execute("DELETE FROM engines WHERE id NOT IN (SELECT DISTINCT engine FROM completions)")
            self._writer.execute("VACUUM")
        return gone

    def _engines(self) -> list[tuple[int, dict[str, Any]]]:
        return [(n, json.loads(text)) for n, text in self._reader.execute("SELECT id, identity FROM engines")]

    def close(self) -> None:
        """Close the file; what is being written is finished first."""
        self._thread.shutdown(wait=True)
        with self._lock:
            self._reader.close()
            self._writer.close()


@dataclass(frozen=True, slots=True)
class Contents:
    """What a store keeps of one engine: how many completions, their bytes, and when the first and last were kept."""

    engine: dict[str, Any]
    completions: int
    size: int
    first: int
    last: int


class StoredEngine(Engine):
    """Answers from the store what was asked before; asks the engine for the rest and keeps it.

    The key is the content: `identity` (model, revision, engine and its settings; the engine's own where it is not
    given), the messages and the sampling. A killed run pays again only for what was in flight. A failure is not
    stored. Without an engine nothing new can be asked: such a request fails.
    """

    name = "store"

    def __init__(self, engine: Engine | None, path: Path, identity: Mapping[str, Any] | None = None) -> None:
        if engine is None and identity is None:
            raise ValueError("a store without an engine needs to know whose answers it gives")
        self.engine = engine
        self._identity = dict(identity) if identity is not None else engine.identity() if engine else {}
        self.model = engine.model if engine is not None else str(self._identity.get("model"))
        self._prefix = json.dumps(self._identity, sort_keys=True, default=str)
        self.store = Store(path)
        self._number = self.store.number_of(self._prefix)
        self.found = self.lacking = 0

    def identity(self) -> dict[str, Any]:
        return self._identity

    def token_ids(
        self, messages: tuple[Message, ...], prefix: str = "", partial: Generation | None = None
    ) -> list[int] | None:
        return None if self.engine is None else self.engine.token_ids(messages, prefix, partial)

    async def complete(self, request: Request) -> Completion:
        key = self._key(request_digest(request))
        if (kept := self._kept(key)) is not None:
            return Completion(tuple(map(_generated, kept["choices"])), Usage(**kept["usage"]))
        completion = await self._asked().complete(request)
        await self.store.put(key, self._number, _told(completion))
        return completion

    async def log_likelihood(
        self, messages: tuple[Message, ...], prefix: str, continuation: str, partial: Generation | None = None
    ) -> LogLikelihood:
        key = self._key(
            "log-likelihood", request_digest(Request(messages, prefix=prefix, partial=partial)), continuation
        )
        if (kept := self._kept(key)) is not None:
            return _likelihood(kept)
        answer = await self._asked().log_likelihood(messages, prefix, continuation, partial)
        await self.store.put(key, self._number, asdict(answer))
        return answer

    async def log_likelihoods(
        self,
        messages: tuple[Message, ...],
        prefix: str,
        continuations: tuple[str, ...],
        partial: Generation | None = None,
    ) -> list[LogLikelihood]:
        key = self._key(
            "log-likelihoods", request_digest(Request(messages, prefix=prefix, partial=partial)), *continuations
        )
        if (kept := self._kept(key)) is not None:
            return [_likelihood(one) for one in kept["all"]]
        answers = await self._asked().log_likelihoods(messages, prefix, continuations, partial)
        await self.store.put(key, self._number, {"all": [asdict(a) for a in answers]})
        return answers

    async def response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
        key = self._key("response-log-likelihood", request_digest(Request(messages)), response)
        if (kept := self._kept(key)) is not None:
            return _likelihood(kept)
        answer = await self._asked().response_log_likelihood(messages, response)
        await self.store.put(key, self._number, asdict(answer))
        return answer

    def _kept(self, key: bytes) -> dict[str, Any] | None:
        kept = self.store.get(key)
        if kept is None:
            self.lacking += 1
        else:
            self.found += 1
        return kept

    def _asked(self) -> Engine:
        if self.engine is None:
            raise RequestFailed("engine", "the store has no such completion, and --reread asks no model")
        return self.engine

    def _key(self, *parts: str) -> bytes:
        text = "\x1f".join([self._prefix, *parts])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    def close(self) -> None:
        """Close the store. The engine below belongs to whoever opened it."""
        self.store.close()


def _told(completion: Completion) -> dict[str, Any]:
    choices = []
    for one in completion.choices:
        told = {"text": one.text, "finish": one.finish, "token_ids": one.token_ids}
        choices.append(told if one.logprobs is None else told | {"logprobs": one.logprobs})
    return {"choices": choices, "usage": plain_usage(completion.usage)}


def _likelihood(kept: Mapping[str, Any]) -> LogLikelihood:
    return LogLikelihood(kept["total"], kept["tokens"], Usage(**kept["usage"]))


def _generated(kept: Mapping[str, Any]) -> Generation:
    logprobs = kept.get("logprobs")
    ids = tuple(kept["token_ids"])
    return Generation(kept["text"], kept["finish"], ids, None if logprobs is None else tuple(logprobs))


def request_digest(request: Request) -> str:
    """A SHA-256 of everything that decides the completion of a request, the model aside: half of a store's key."""
    content = [
        [[m["role"], m["content"]] for m in request.messages],
        [request.prefix, request.n, request.temperature, request.top_p, request.max_tokens],
        [list(request.stop), request.logprobs, list(request.choice) if request.choice else None, request.seed],
    ]
    if request.schema is not None:
        content.append([request.schema])
    if request.partial is not None:
        content.append(list(request.partial.token_ids))
    return hashlib.sha256(_to_json(content).encode()).hexdigest()


def _to_json(value: Any) -> str:
    r"""JSON that is always valid UTF-8: a lone surrogate, which a model can generate, stays an escape, and a
    log-probability of -inf stays `-Infinity`, which orjson would turn into null.

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


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
