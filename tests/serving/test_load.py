"""64 concurrent clients for half a minute: correct responses, a bounded queue, and no lost request."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from serving_scorers import Server

from judges import load_scorer
from judges.data.items import to_item

CLIENTS, SECONDS, QUEUE = 64, 30, 160
WORDS = ("why", "does", "the", "moon", "rise", "while", "seven", "foxes", "count", "their", "slow", "trains", "again")


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    from classic_rm.model import initialise_model, save_model
    from classic_rm.settings import ModelSettings

    model, tokenizer = initialise_model(ModelSettings(base="embedded:minilm"), seed=1)
    folder = tmp_path_factory.mktemp("rm") / "minilm"
    save_model(model, tokenizer, folder, {})
    return folder


def random_rows() -> list[dict]:
    """Rows of one to four responses, of many lengths; some of them empty, which is a failure."""
    draw = random.Random(0)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, 16)))

    rows: list[dict] = [{"prompt": text(), "response": text()} for _ in range(150)]
    rows += [{"prompt": text(), "responses": [text() for _ in range(draw.randint(2, 4))]} for _ in range(80)]
    rows += [{"prompt": text(), "response": " "} for _ in range(10)]
    rows += [{"prompt": text()} for _ in range(10)]
    return rows


def scores_of(row: dict) -> list[float | str]:
    """The scores of a row, or the reasons of its failures, in the server's response."""
    scores, failures = row.get("scores", [row.get("score")]), row.get("failures", [row.get("failure")])
    return [f["reason"] if f else s for s, f in zip(scores, failures, strict=True)]


class Load:
    """Clients that compare each response with the offline scores and count the status codes."""

    def __init__(self, url: str, rows: list[dict], expected: list[list[float | str]]) -> None:
        self.url, self.rows, self.expected = url, rows, expected
        self.sending = threading.Lock()
        self.stopped = False
        self.statuses: Counter[int] = Counter()
        self.errors: list[object] = []
        self.sent = self.after_stop = 0

    def client(self, seed: int) -> None:
        draw = random.Random(seed)
        with httpx.Client(base_url=self.url, timeout=120) as http:
            while True:
                indices = draw.choices(range(len(self.rows)), k=draw.randint(1, 4))
                with self.sending:
                    if self.stopped:
                        return
                    self.sent += 1
                try:
                    answer = http.post("/score", json={"rows": [self.rows[index] for index in indices]})
                except httpx.HTTPError as error:  # a request without a response
                    self.errors.append(repr(error))
                    return
                self._check(answer, indices)
                if answer.status_code == 429:
                    time.sleep(float(answer.headers["retry-after"]) * draw.uniform(0.2, 0.6))

    def _check(self, answer: httpx.Response, indices: list[int]) -> None:
        scores = [scores_of(row) for row in answer.json()["rows"]] if answer.status_code == 200 else None
        right = scores is None or [len(t) for t in scores] == [len(self.expected[p]) for p in indices]
        if scores is not None and right:
            pairs = [
                (t, e)
                for row, p in zip(scores, indices, strict=True)
                for t, e in zip(row, self.expected[p], strict=True)
            ]
            right = all(t == (e if isinstance(e, str) else pytest.approx(e, abs=1e-4)) for t, e in pairs)
        with self.sending:
            self.statuses[answer.status_code] += 1
            self.after_stop += self.stopped
            if not right:
                self.errors.append((indices, scores, [self.expected[p] for p in indices]))


def memory(process: int) -> int:
    import psutil

    return psutil.Process(process).memory_info().rss


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread like the server, because its clients need a core and torch's threads spin while they wait."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_64_clients_for_30_seconds(reward_model, capsys):
    rows = random_rows()
    with load_scorer("bradley-terry", model=str(reward_model)) as scorer, one_thread():
        items = [to_item(str(i), row) for i, row in enumerate(rows)]
        readable = [item for item in items if not hasattr(item, "reason")]
        cards = {card.id: card for card in scorer.score(readable)}
    expected = [
        [j.failure.reason if j.failure else j.score for j in cards[str(i)].judgments] if str(i) in cards else ["empty"]
        for i in range(len(rows))
    ]
    assert len({round(e[0], 5) for e in expected if not isinstance(e[0], str)}) > 200
    spec = f"bradley-terry,model={reward_model}"
    with Server(spec, "--queue", QUEUE, "--drain-seconds", 60, token="t0ken", threads=1) as server:
        url = server.url.replace("http://", "http://load:t0ken@")
        load = Load(url, rows, expected)
        threads = [threading.Thread(target=load.client, args=(seed,)) for seed in range(CLIENTS)]
        deepest, scrapes, grown = 0.0, 0, []
        for thread in threads:
            thread.start()
        end = time.monotonic() + SECONDS
        with httpx.Client(base_url=url, timeout=60) as watcher:
            while time.monotonic() < end:
                text = watcher.get("/metrics").text
                found = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line[:1] != "#"}
                depth = found["assay_queue_waiting"] + found["assay_queue_in_flight"]
                assert depth <= QUEUE and watcher.get("/health").status_code == 200
                deepest, scrapes = max(deepest, depth), scrapes + 1
                grown.append(memory(server.process.pid))
                time.sleep(0.25)
        with load.sending:  # nothing is sent from here on; requests in transit must get a response
            load.stopped = True
            before = load.statuses.total()
            server.send_signal()
        for thread in threads:
            thread.join(120)
        code, output = server.end()
    in_transit = load.sent - before
    with capsys.disabled():
        print(
            f"\n{load.sent} requests in {SECONDS} s by {CLIENTS} clients: {dict(load.statuses)}; "
            f"queue at most {deepest:g} of {QUEUE} in {scrapes} looks; {in_transit} in transit at SIGTERM; "
            f"memory {grown[len(grown) // 4] >> 20} to {max(grown) >> 20} MiB; exit {code}",
        )
    assert load.errors == [] and load.statuses.total() == load.sent
    assert set(load.statuses) <= {200, 429, 503} and load.statuses[200] > 2 * CLIENTS and load.statuses[429] > 0
    assert load.statuses[503] <= in_transit and deepest > QUEUE / 2
    assert code == 0 and "Traceback" not in output
