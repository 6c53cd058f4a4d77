"""Generate and judge: candidates of a policy, then any scorer, row by row."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time

import pytest
from fakes import FakeEngine, use

from judges import CannotRun, Item, load_scorer
from judges.batch.run import score_file
from judges.cli.scorer_options import load_policy
from judges.data.items import to_item_or_prompt
from judges.engines import registry
from judges.engines.base import Completion, Generation, RequestFailed
from judges.engines.policy import Policy, PolicyOutput, Prompt
from judges.engines.store import request_digest
from judges.types import Failure, Usage


class Writer(FakeEngine):
    """A fake engine that gives as many completions as were asked for, the k-th by `answer(request, k)`."""

    async def complete(self, request):
        self.requests.append(request)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay)
            texts = [self.answer(request, k) for k in range(request.n)]
        finally:
            self.now -= 1
        choices = tuple(Generation(t, "length" if t.endswith("-") else "stop") for t in texts)
        return Completion(choices, Usage(10, 0, 5 * request.n, self.delay))


def writing(answer, delay=0.0, **settings):
    return use(Policy("fake", engine="transformers", **settings), Writer(answer, delay))


def asked(request):
    return request.messages[-1]["content"]


def prompts(n):
    return [Prompt(id=str(i), prompt=f"question {i}") for i in range(n)]


def rows(path, *made):
    path.write_text("".join(json.dumps(r) + "\n" for r in made))
    return str(path)


def written(path):
    return {r["row"]: r for r in map(json.loads, path.read_text().splitlines())}


def test_all_candidates_of_a_prompt_are_one_request_sampled_as_published():
    policy = writing(lambda r, k: f"{asked(r)} {k}")
    found = {s.item.id: s.item.responses for s in policy.stream(prompts(3))}
    assert found == {str(i): tuple(f"question {i} {k}" for k in range(4)) for i in range(3)}
    assert [(r.n, r.temperature, r.top_p) for r in policy.engine.requests] == [(4, 0.7, 0.9)] * 3


def test_seeds_differ_between_prompts_repeat_between_runs_and_follow_the_seed():
    def seeds(**settings):
        policy = writing(lambda r, k: "x", **settings)
        list(policy.stream(prompts(8)))
        return sorted(r.seed for r in policy.engine.requests)

    first = seeds()
    assert seeds() == first and len(set(first)) == 8
    assert not set(seeds(seed=1)) & set(first)


def test_the_fields_of_a_prompt_become_those_of_the_item():
    prompt = Prompt("a", "q", system="be brief", reference="4", rubric="short", subset="math", meta={"margin": 1.0})
    policy = writing(lambda r, k: "x-", candidates=2)
    (found,) = policy.stream([prompt])
    assert found.item == Item("a", "q", ["x-", "x-"], "be brief", "4", "short", "math", {"margin": 1.0})
    assert policy.engine.requests[0].messages[0] == {"role": "system", "content": "be brief"}
    assert found.truncated == (True, True) and found.usage.generated_tokens == 10


def test_a_greedy_policy_writes_one_candidate_without_a_seed_and_not_several():
    policy = writing(lambda r, k: "x", candidates=1, temperature=0.0)
    list(policy.stream(prompts(1)))
    assert policy.engine.requests[0].seed is None and policy.engine.requests[0].top_p == 1
    with pytest.raises(CannotRun, match="4 candidates at temperature 0"):
        Policy("fake", temperature=0.0)


def test_a_request_that_fails_is_one_prompts_failure():
    def answer(request, k):
        if asked(request) == "question 1":
            raise RequestFailed("server", "it fell over")
        return "x"

    found = {
        s.prompt.id: s.item.reason if isinstance(s.item, Failure) else s.item.responses
        for s in writing(answer).stream(prompts(3))
    }
    assert found == {"0": ("x",) * 4, "1": "server", "2": ("x",) * 4}


def test_fewer_candidates_than_asked_for_are_a_failure():
    policy = use(Policy("fake", engine="transformers"), FakeEngine(lambda r: "one"))
    (found,) = policy.stream(prompts(1))
    assert found.item == Failure("engine", "the policy's engine returned 1 of 4 candidates")


def test_no_more_candidates_than_the_window_are_in_flight():
    policy = writing(lambda r, k: "x", delay=0.005, candidates=3, window=10)
    assert len(list(policy.stream(prompts(30)))) == 30
    assert 1 < policy.engine.most <= 3


def test_a_judged_item_waits_neither_for_the_next_prompt_nor_for_another_ones_candidates():
    go_on, let_go = threading.Event(), asyncio.Event()

    class Slow(Writer):
        async def complete(self, request):
            if asked(request) == "slow":
                await let_go.wait()
            return await super().complete(request)

    def source():
        yield Prompt("slow", "slow")
        yield Prompt("quick", "quick")
        assert go_on.wait(20)
        yield Item("ready", "q", ["has one"])

    policy = use(Policy("fake", engine="transformers"), Slow(lambda r, k: "x"))
    judge = use(load_scorer("self-rewarding", votes=1), FakeEngine(lambda r: "Score: 1"))
    stream = judge.stream(s if isinstance(s, Item) else s.item for s in policy.stream(source()))
    assert next(stream).id == "quick"
    go_on.set()
    assert next(stream).id == "ready"
    shared_loop().call_soon_threadsafe(let_go.set)
    assert next(stream).id == "slow"


def shared_loop():
    from judges.engines.base import event_loop

    return event_loop()


def test_closing_the_policy_of_a_judge_that_was_left_early_cancels_its_generation():
    partial, cancelled = [], []

    class Endless(Writer):
        async def complete(self, request):
            if asked(request) == "question 0":
                return await super().complete(request)
            partial.append(asked(request))
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                cancelled.append(asked(request))
                raise

    policy = use(Policy("fake", engine="transformers", candidates=1, window=4), Endless(lambda r, k: "x"))
    judge = use(load_scorer("self-rewarding", votes=1), FakeEngine(lambda r: "Score: 1"))
    stream = judge.stream(s.item for s in policy.stream(prompts(100)))
    assert next(stream).id == "0"
    until = time.monotonic() + 10
    while len(partial) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    stream.close()
    policy.close()
    assert len(partial) >= 3 and sorted(cancelled) == sorted(partial)


# -- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, kind",
    [
        ({"prompt": "q"}, Prompt),
        ({"prompt": "q", "response": None, "responses": None}, Prompt),
        ({"prompt": "q", "responses": []}, Prompt),
        ({"messages": [{"role": "user", "content": "q"}]}, Prompt),
        ({"prompt": "q", "response": ""}, Item),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, Item),
        ({"prompt": "q", "responses": "a text"}, Failure),
        ({"prompt": "q", "chosen": None, "rejected": None}, Failure),
        ({"prompt": " "}, Failure),
    ],
)
def test_only_a_row_that_lacks_nothing_but_a_response_is_a_prompt(fields, kind):
    assert type(to_item_or_prompt("a", fields)) is kind


def test_rows_get_their_candidates_and_what_the_scorer_says_of_each(tmp_path):
    source = rows(
        tmp_path / "in.jsonl",
        {"prompt": "ab", "mine": 1},
        {"prompt": "q", "response": "has one"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "abc"}], "responses": []},
        {"response": "no prompt"},
    )
    policy = writing(lambda r, k: asked(r) * k, candidates=3)
    summary = score_file(source, load_scorer("length"), tmp_path / "out.jsonl", policy=policy)
    made = written(tmp_path / "out.jsonl")
    assert made[1]["responses"] == ["", "ab", "abab"] and made[1]["scores"] == [0, 2, 4] and made[1]["mine"] == 1
    assert made[1]["preference"] == [0, 0, 1] and made[1]["failures"] == [None] * 3
    assert made[1]["generation"]["truncated"] == [False] * 3
    assert made[3]["responses"] == ["", "abc", "abcabc"] and made[3]["input.responses"] == []
    assert (made[2]["response"], made[2]["score"]) == ("has one", 7) and "generation" not in made[2]
    assert made[4]["failure"]["reason"] == "empty" and "responses" not in made[4]
    assert summary.usage.generated_tokens == 2 * 15 and summary.failures == {"empty": 1}


def test_one_candidate_gives_a_response_and_a_score(tmp_path):
    policy = writing(lambda r, k: "four", candidates=1)
    score_file(rows(tmp_path / "in.jsonl", {"prompt": "q"}), load_scorer("length"), tmp_path / "o.jsonl", policy=policy)
    made = written(tmp_path / "o.jsonl")[1]
    assert (made["response"], made["score"], made["failure"]) == ("four", 4, None) and "responses" not in made


def test_a_thought_reaches_neither_the_judge_nor_a_pair_and_is_kept_beside_the_response(tmp_path):
    from judges.preferences.scored_candidates import read_scored_rows

    def answer(request, k):
        return "<think>secret 5" if k == 2 else f"<think>secret {k}</think>\n\nanswer {k}"

    policy = writing(answer, candidates=3)
    judge = use(load_scorer("self-rewarding", votes=1), FakeEngine(lambda r: "Score: 4"))
    output = tmp_path / "o.jsonl"
    summary = score_file(rows(tmp_path / "in.jsonl", {"prompt": "q"}), judge, output, policy=policy)
    made = written(output)[1]
    assert made["responses"] == ["answer 0", "answer 1", ""]
    assert made["generation"]["thoughts"] == ["secret 0", "secret 1", "secret 5"]
    assert [f and f["reason"] for f in made["failures"]] == [None, None, "empty"]
    assert not any("secret" in str(request.messages) for request in judge.engine.requests)
    (row,) = read_scored_rows(output, {})
    assert [candidate.text for candidate in row.candidates] == ["answer 0", "answer 1", ""]
    assert not any("secret" in str(candidate) for candidate in row.candidates) and summary.truncated_candidates == 0


def test_an_empty_candidate_is_kept_and_is_the_scorers_failure(tmp_path):
    policy = writing(lambda r, k: "" if k == 1 else "fine", candidates=3)
    judge = use(load_scorer("self-rewarding", votes=1), FakeEngine(lambda r: "Score: 4"))
    score_file(rows(tmp_path / "in.jsonl", {"prompt": "q"}), judge, tmp_path / "o.jsonl", policy=policy)
    made = written(tmp_path / "o.jsonl")[1]
    assert made["responses"] == ["fine", "", "fine"] and made["scores"] == [4, None, 4]
    assert [f and f["reason"] for f in made["failures"]] == [None, "empty", None] and made["preference"] is None


def test_rows_whose_generation_fails_are_written_though_nothing_is_ever_judged(tmp_path):
    def answer(request, k):
        raise RequestFailed("timeout", "too slow")

    source = rows(tmp_path / "in.jsonl", *({"prompt": f"q {i}"} for i in range(20)))
    summary = score_file(source, load_scorer("length"), tmp_path / "o.jsonl", policy=writing(answer))
    made = written(tmp_path / "o.jsonl")
    assert len(made) == 20 and summary.failures == {"timeout": 20}
    assert all(r["score"] is None and r["failure"]["reason"] == "timeout" for r in made.values())
    assert all(r["generation"] is None for r in made.values())


def test_a_run_that_dies_while_judging_samples_no_candidate_again(tmp_path, monkeypatch):
    engines = []

    def build(kind, model, settings):
        engines.append(Writer(lambda r, k: f"{asked(r)} {k}"))
        return engines[-1]

    monkeypatch.setattr(registry, "_build", build)

    class Dies(type(load_scorer("length"))):
        def stream(self, items):
            for card in super().stream(items):
                yield card
                raise RuntimeError("killed")

    source = rows(tmp_path / "in.jsonl", *({"prompt": f"q {i}"} for i in range(6)))
    with Policy("fake", 2, engine="vllm") as policy, pytest.raises(RuntimeError, match="killed"):
        score_file(source, Dies(), tmp_path / "o.jsonl", policy=policy)
    drawn = {request_digest(r) for r in engines[0].requests}
    assert drawn and len(written(tmp_path / "o.jsonl")) == 1
    # What was in flight when it died may be drawn again; what was kept is not.
    with sqlite3.connect(tmp_path / "o.jsonl.run" / "candidates.sqlite") as store:
        (kept,) = store.execute("SELECT count(*) FROM completions").fetchone()
    with Policy("fake", 2, engine="vllm") as policy:
        score_file(source, load_scorer("length"), tmp_path / "o.jsonl", policy=policy)
    again = {request_digest(r) for r in engines[1].requests}
    assert len(written(tmp_path / "o.jsonl")) == 6
    assert kept >= 1 and len(again) == 6 - kept and len(again | drawn) == 6


def test_the_manifest_names_the_policy_and_another_one_is_refused(tmp_path):
    source, out = rows(tmp_path / "in.jsonl", {"prompt": "q"}), tmp_path / "o.jsonl"
    score_file(source, load_scorer("length"), out, policy=writing(lambda r, k: "x", candidates=2))
    told = json.loads((tmp_path / "o.jsonl.run" / "manifest.json").read_text())["policy"]
    assert (told["model"], told["candidates"], told["temperature"], told["top_p"]) == ("fake", 2, 0.7, 0.9)
    for other in ({"candidates": 3}, {"candidates": 2, "temperature": 1.0}):
        with pytest.raises(CannotRun, match="other settings \\(policy"):
            score_file(source, load_scorer("length"), out, policy=writing(lambda r, k: "x", **other))
    with pytest.raises(CannotRun, match="other settings \\(policy"):
        score_file(source, load_scorer("length"), out)


def test_a_scorer_gets_the_path_of_the_store(tmp_path):
    told = []

    class Remembers(type(load_scorer("length"))):
        def use_store(self, path):
            told.append(path)

    score_file(rows(tmp_path / "in.jsonl", {"prompt": "q", "response": "x"}), Remembers(), tmp_path / "o.jsonl")
    assert told == [tmp_path / "o.jsonl.run" / "completions.sqlite"]


# -- which model writes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec, opened",
    [
        (None, 1),
        ("mine", 1),
        ("mine,temperature=1.0,engine.dtype=float32", 1),
        ("mine,engine.dtype=bfloat16", 2),
        ("another", 2),
    ],
)
def test_the_judges_own_model_and_settings_are_one_engine(monkeypatch, spec, opened):
    built = []
    monkeypatch.setattr(registry, "_open", {})
    monkeypatch.setattr(registry, "_build", lambda *what: built.append(what) or Writer(lambda r, k: "x"))
    chosen = {"model": "mine", "engine": "vllm", "engine.dtype": "float32", "votes": 1}
    with load_scorer("self-rewarding", **chosen) as judge, load_policy(spec, 2, judge, chosen) as policy:
        assert (judge.engine is policy.engine) == (opened == 1)
        assert len(built) == opened
    assert not registry._open


def test_the_policy_does_not_take_the_seed_and_sampling_of_the_judge():
    chosen = {"model": "mine", "engine": "vllm", "temperature": 0.2, "seed": 9, "max_tokens": 7}
    policy = load_policy(None, 4, load_scorer("self-rewarding", **chosen), chosen)
    assert (policy.temperature, policy.seed, policy.max_tokens) == (0.7, 0, 512)


@pytest.mark.parametrize(
    "spec, says",
    [
        (None, "'length' writes no candidates: name a model that does with --policy"),
        ("mine,votes=3", "a policy has no setting 'votes'"),
        ("mine,temperature=warm", "--policy: a setting has a wrong value"),
    ],
)
def test_invalid_policy_settings_are_reported(spec, says):
    with pytest.raises(CannotRun) as told:
        load_policy(spec, 4, load_scorer("length"), {})
    assert says in str(told.value)


def test_a_policy_without_a_number_of_candidates_is_refused(tmp_path):
    from judges.batch.output import ScoreOptions
    from judges.cli.score import run
    from judges.cli.scorer_options import ScoreConfig

    wanted = ScoreConfig("in.jsonl", "length", tmp_path / "o", None, (), (), None, "mine", ScoreOptions())
    with pytest.raises(CannotRun, match="--candidates N"):
        run(wanted, False, None, True)


def test_a_real_model_samples_different_candidates_and_the_same_ones_again(tiny_decoder):
    runs = []
    for _ in range(2):
        with Policy(str(tiny_decoder), engine="transformers", max_tokens=8) as policy:
            # A tiny decoder's chat template is the embedded model's; its weights are random.
            runs.append({s.item.id: s.item.responses for s in policy.stream(prompts(3)) if isinstance(s, PolicyOutput)})
    assert runs[0] == runs[1] and len(runs[0]) == 3
    assert all(len(set(responses)) == 4 for responses in runs[0].values())


@pytest.mark.engine
def test_vllm_computes_the_prompt_of_four_candidates_once(vllm_engine):
    policy = use(Policy("embedded:smollm2-135m", max_tokens=16), vllm_engine)
    words = "the river runs past the mill and under the old stone bridge " * 12
    first, second = (next(policy.stream([Prompt("a", f"Go on: {words}")])) for _ in range(2))
    assert first.item.responses == second.item.responses and len(set(first.item.responses)) > 1
    ids = len(vllm_engine.token_ids(first.prompt.messages))
    assert first.usage.prompt_tokens == ids and first.usage.generated_tokens <= 64
