"""Judges on the real engine: what is read is what the model says; prefixes are computed once."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest

from judges import Item, load_scorer
from judges.engines.base import submit
from judges.engines.registry import open_engine, release
from judges.scorers.llm_judge import Continuation

pytestmark = pytest.mark.engine


@pytest.fixture
def judge(vllm_engine):
    opened = []

    def build(name, **settings):
        scorer = load_scorer(name, model="embedded:smollm2-135m", engine="vllm", **settings)
        opened.append(scorer)
        return scorer

    yield build
    for scorer in opened:
        scorer.close()


def run(coroutine):
    return submit(coroutine).result(timeout=300)


def items(n, words=60):
    return [
        Item(id=str(i), prompt=f"Why is {i} odd or even? " + "Say more. " * words, responses=[f"It is {i}.", "No."])
        for i in range(n)
    ]


def test_each_labels_probability_is_that_of_the_whole_sequence_scored_apart(judge, vllm_engine):
    scorer = judge("critique-out-loud")
    item = items(1)[0]
    messages = scorer.template.render(item, (0,))
    prefix = "It is short and right.\n\nScore: "
    read, mass, _ = run(scorer.label_probabilities(Continuation(messages, prefix, scorer.template.labels)))
    other = open_engine("transformers", "embedded:smollm2-135m", dtype="float32")
    try:
        for engine in (vllm_engine, other):
            whole = {
                label: math.exp(run(engine.log_likelihood(messages, prefix.rstrip(), f" {label}")).total)
                for label in scorer.template.labels
            }
            tokens = run(engine.log_likelihood(messages, prefix.rstrip(), " 10")).tokens
            assert tokens > run(engine.log_likelihood(messages, prefix.rstrip(), " 1")).tokens
            whole["1"] -= whole["10"]  # P("1") of the next token alone holds both
            assert {label: p * mass for label, p in read.items()} == pytest.approx(whole, abs=1e-3)
            assert mass == pytest.approx(sum(whole.values()), abs=1e-3)
    finally:
        release(other)


def test_the_second_step_finds_the_first_steps_prompt_and_critique_cached(judge, vllm_engine):
    scorer = judge("critique-out-loud", max_tokens=48)
    first, second = [], []
    complete, likelihoods = vllm_engine.complete, vllm_engine.log_likelihoods

    async def spied(request):
        first.append(await complete(request))
        return first[-1]

    async def spied_likelihoods(*asked):
        second.append(await likelihoods(*asked))
        return second[-1]

    vllm_engine.complete, vllm_engine.log_likelihoods = spied, spied_likelihoods
    try:
        scorer.score([items(1)[0]])
    finally:
        del vllm_engine.complete, vllm_engine.log_likelihoods
    assert len(first) == len(second) == 2
    lengths = sorted(c.usage.prompt_tokens + c.usage.generated_tokens for c in first)
    told = sorted(
        (sum(found.usage.cached_tokens for found in of), sum(f.usage.generated_tokens for f in of)) for of in second
    )
    for length, (cached, asked) in zip(lengths, told, strict=True):
        assert asked >= 1 and cached >= asked * ((length - 1) // 32) * 32, (length, cached, asked)


def test_requests_of_one_prompt_compute_it_once(judge):
    scorer = judge("self-rewarding", votes=3, max_tokens=8)
    (card,) = scorer.score([Item(id="x", prompt="What is rain? " * 60, responses=["Water.", "Drops.", "Wet.", "Sky."])])
    cached = [j.usage.cached_tokens / j.usage.prompt_tokens for j in card.judgments]
    assert sum(cached) / len(cached) > 0.6


def test_json_is_written_by_the_engine_and_read(judge):
    scorer = judge("self-rewarding", votes=1, template="rating-json", max_tokens=120)
    cards = scorer.score(items(3, words=1))
    told = [j for card in cards for j in card.judgments]
    assert all(j.score in scorer.scale for j in told) and {j.read for j in told} <= {"json", "forced"}
    for j in told:
        if j.read == "json":
            assert json.loads(j.completions[0])["score"] == j.score
    assert any(j.read == "json" for j in told)


def test_a_prompt_beyond_the_context_fails_alone(judge):
    scorer = judge("self-rewarding", votes=1, max_tokens=8)
    rows = [*items(2, words=1), Item(id="long", prompt="word " * 20000, responses=["r"])]
    cards = {card.id: card for card in scorer.score(rows)}
    assert cards["long"].judgments[0].failure.reason == "too-long"
    assert all(j.score is not None for i in "01" for j in cards[i].judgments)


@pytest.mark.slow
def test_one_seed_gives_the_same_votes_and_other_prompts_get_others(judge):
    runs = []
    for _ in range(2):
        scorer = judge("self-rewarding", votes=3, max_tokens=24)
        runs.append({card.id: card.judgments for card in scorer.score(items(4, words=1))})
    for i in runs[0]:
        assert [j.completions for j in runs[0][i]] == [j.completions for j in runs[1][i]]
        assert [(j.score, j.votes) for j in runs[0][i]] == [(j.score, j.votes) for j in runs[1][i]]
    texts = Counter(text for judgments in runs[0].values() for j in judgments for text in j.completions)
    assert len(texts) > 0.8 * texts.total()


@pytest.mark.slow
def test_two_hundred_real_rows_have_a_score_or_a_stated_failure(judge, shared_data):
    lines = (shared_data / "llmbar.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    rows = [json.loads(line) for line in lines]
    pairs = [Item(id=r["id"], prompt=r["prompt"], responses=[r["chosen"], r["rejected"]]) for r in rows]
    runs = []
    for _ in range(2):
        scorer = judge("self-rewarding", votes=2, max_tokens=64)
        runs.append(scorer.score(pairs))
    told = [j for card in runs[0] for j in card.judgments]
    kinds = Counter(j.read or (j.failure and j.failure.reason) for j in told)
    print(dict(kinds))
    assert all((j.score is None) != (j.failure is None) for j in told)
    assert all(j.failure is None or j.failure.reason not in ("missing", "malformed") for j in told)
    assert [(c.judgments[0].votes, c.judgments[1].votes) for c in runs[0]] == [
        (c.judgments[0].votes, c.judgments[1].votes) for c in runs[1]
    ]
    texts = [text for j in told for text in j.completions]
    assert len(set(texts)) > 0.9 * len(texts), "votes of different prompts are not copies"
