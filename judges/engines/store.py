"""Any engine, remembered: completions under the hash of what was asked, in SQLite."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from judges.engines.base import Completion, Engine, Generated, LogLikelihood, Request
from judges.errors import CannotRun
from judges.types import Message, Usage


class StoredEngine(Engine):
    """Answers from the store what was asked before; asks the engine for the rest and keeps it.

    The key is the content: the engine's identity, the messages and the sampling. A completion is on disk
    before it is returned, so a killed run pays again only for what was in flight. A failure is not stored.
    """

    name = "store"

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine = engine
        self.model = engine.model
        self._prefix = json.dumps(engine.identity(), sort_keys=True, default=str)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS completions (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        except sqlite3.Error as error:
            raise CannotRun(f"store {path}: {error}; move it away to begin a new one") from error
        self._lock = threading.Lock()

    def identity(self) -> dict[str, Any]:
        return self.engine.identity()

    def token_ids(
        self, messages: tuple[Message, ...], prefix: str = "", begun: Generated | None = None
    ) -> list[int] | None:
        return self.engine.token_ids(messages, prefix, begun)

    async def complete(self, request: Request) -> Completion:
        key = self._key(request.digest())
        if (found := await asyncio.to_thread(self._read, key)) is not None:
            choices = tuple(
                Generated(c["text"], c["finish"], tuple(c["token_ids"]), _pairs(c["logprobs"]))
                for c in found["choices"]
            )
            return Completion(choices, Usage(**found["usage"]))
        completion = await self.engine.complete(request)
        await asyncio.to_thread(self._write, key, asdict(completion))
        return completion

    async def log_likelihood(
        self, messages: tuple[Message, ...], prefix: str, continuation: str, begun: Generated | None = None
    ) -> LogLikelihood:
        key = self._key("log-likelihood", Request(messages, prefix=prefix, begun=begun).digest(), continuation)
        if (found := await asyncio.to_thread(self._read, key)) is not None:
            return LogLikelihood(found["total"], found["tokens"], Usage(**found["usage"]))
        answer = await self.engine.log_likelihood(messages, prefix, continuation, begun)
        await asyncio.to_thread(self._write, key, asdict(answer))
        return answer

    async def log_likelihoods(
        self,
        messages: tuple[Message, ...],
        prefix: str,
        continuations: tuple[str, ...],
        begun: Generated | None = None,
    ) -> list[LogLikelihood]:
        key = self._key("log-likelihoods", Request(messages, prefix=prefix, begun=begun).digest(), *continuations)
        if (found := await asyncio.to_thread(self._read, key)) is not None:
            return [LogLikelihood(f["total"], f["tokens"], Usage(**f["usage"])) for f in found["all"]]
        answers = await self.engine.log_likelihoods(messages, prefix, continuations, begun)
        await asyncio.to_thread(self._write, key, {"all": [asdict(a) for a in answers]})
        return answers

    async def response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
        key = self._key("response-log-likelihood", Request(messages).digest(), response)
        if (found := await asyncio.to_thread(self._read, key)) is not None:
            return LogLikelihood(found["total"], found["tokens"], Usage(**found["usage"]))
        answer = await self.engine.response_log_likelihood(messages, response)
        await asyncio.to_thread(self._write, key, asdict(answer))
        return answer

    def _key(self, *parts: str) -> str:
        return hashlib.sha256("\x1f".join([self._prefix, *parts]).encode()).hexdigest()

    def _read(self, key: str) -> dict[str, Any] | None:
        with self._lock:
            row = self._db.execute("SELECT value FROM completions WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def _write(self, key: str, value: dict[str, Any]) -> None:
        with self._lock:
            text = json.dumps(value, ensure_ascii=False)
            self._db.execute("INSERT OR REPLACE INTO completions VALUES (?, ?)", (key, text))

    def close(self) -> None:
        """Close the store. The engine below belongs to whoever opened it."""
        with self._lock:
            self._db.close()


def _pairs(logprobs: Any) -> tuple[dict[str, float], ...] | None:
    return None if logprobs is None else tuple(logprobs)
