"""What drawing and judging in one flow gains over two batched phases on the same engine. One run, in turns.

    python tests/benchmarks/pairs_throughput.py PROMPTS.jsonl [--prompts 48] [--candidates 4] [--votes 3] [--turns 3]

PROMPTS.jsonl has rows as `assay pairs` takes them; responses they hold are passed over. A policy draws the candidates
of every prompt and `self-rewarding` judges each of them `votes` times, with the same model: one engine, which the two
share, opened before anything is timed.

one flow       the scorer's stream reads the policy's, as in judges/batch/run.py: a prompt is judged once it is drawn
two phases     the policy's stream to its end, then the scorer's over all that was drawn
one at a time  the drawing batched, then one response judged after the other (its votes together), as published
               self-rewarding scripts do; a few prompts only, shown without a goal

The first two have the same windows and the same continuous batching. The engine runs SLOTS sequences at once and
each window holds more (--window, in candidates), so a phase by itself keeps the engine full as well: what two phases
lose is the tail of the drawing, where ever fewer sequences are left. Nothing is stored. Every turn has seeds of its
own, for the policy and the judge, which both ways use: they ask for the same completions, and how many came out the
same is printed. Which way goes first alternates. vLLM forgets its prefixes before each way (`reset_prefix_cache`),
so the later one finds nothing of the earlier one's; the transformers engine keeps none.

The bound, counted in tokens: an engine that is never less than full takes
    prompt tokens computed / P + tokens drawn / D + tokens judged / J
seconds, whoever orders the requests. P, D and J are measured in every turn on this run's own prompts, SLOTS at once:
P by judge prompts that are new to the engine, one token each; D and J by drawing and judging to the full length from
prompts that it remembers, without the end of a text, so that the batch is full at every step. The sampling is that of
the ways, and the median over the turns counts. A sequence's first token comes with its prompt and is left out of D
and J. Computed tokens are the engine's own count for the judge, and for the candidates what a perfect cache of
32-token blocks computes (vLLM tells it of one candidate only). Of two counts that differ, the smaller is taken.
A step's fixed cost is in D and J once for SLOTS tokens, and no schedule needs fewer steps: that is why the sum holds
for a mix of both kinds of work too. Two phases / bound is the most that any overlap can gain; what one flow reaches
is bound / one flow. Where a way comes out more than 5 % faster than the bound, the rates were measured too low, and
the bound counts for nothing. (So it is with transformers, which runs seeded requests one by one and the candidates of
a prompt together: use it to see that this file works.)

Goal: one flow at least 1.15 times as many prompts a second as two phases, or at least 90 % of the bound counted in
tokens: the ratio of the tokens that the two ways compute, which is 1 where no prefix is lost in between. The bound by
rates is shown beside it, as it tells how busy the engine was.
Expected: 1.00 to 1.05 times, and the goal by its second half. Both phases are batched, so that one tail of at most
`max_tokens` steps is all there is to gain, out of minutes; it shows in full with few prompts or long candidates
only. One at a time is expected several times slower: each judgment reads all weights for a batch of `votes`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from judge_throughput import shared_tokens

from judges import Item
from judges.data.items import to_item_or_prompt
from judges.engines.base import Completion, Engine, Generation, LogLikelihood, Request, submit
from judges.engines.policy import Policy, PolicyOutput, Prompt
from judges.scorers.self_rewarding import SelfRewarding
from judges.types import Failure, Scorecard, Usage

GOAL, GOAL_OF_BOUND = 1.15, 0.9
BROKEN = 1.05  # a share of the bound that says the bound is none


# -- what is asked ------------------------------------------------------------------------------------------


def read_prompts(path: Path, count: int) -> list[Prompt]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    prompts = []
    for number, row in enumerate(rows):
        read = to_item_or_prompt(f"p{number}", row)
        if not isinstance(read, Failure):
            prompts.append(Prompt(read.id, read.prompt, read.system, read.reference, read.rubric))
    return random.Random(0).sample(prompts, min(count, len(prompts)))


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """The model and engine that the policy and the judge both name, so that they share it."""
    settings: dict[str, Any] = {"model": given.model, "engine": given.engine, "window": given.window}
    return settings | ({"engine.max_num_seqs": given.slots} if given.engine == "vllm" else {})


def makers(given: argparse.Namespace, turn: int) -> tuple[Policy, SelfRewarding]:
    settings = settings_of(given)
    policy = Policy(candidates=given.candidates, max_tokens=given.max_tokens, seed=turn, **settings)
    judge = SelfRewarding(votes=given.votes, max_tokens=given.judge_tokens, seed=turn, **settings)
    assert policy.engine is judge.engine, "one engine for both"
    return policy, judge


def forget(engine: Engine) -> None:
    """Have vLLM drop its cached prefixes; it refuses while a request that has just ended holds blocks."""
    if engine.name != "vllm":
        return
    running: Any = engine
    for _ in range(50):
        if submit(running._engine.reset_prefix_cache()).result():
            return
        time.sleep(0.1)
    raise SystemExit("vLLM does not forget its prefixes")


# -- counting -----------------------------------------------------------------------------------------------


class Counted(Engine):
    """An engine, and what was asked of it."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.model, self._engine = engine.name, engine.model, engine
        self.sequences, self.usage = 0, Usage()
        self._several: list[Request] = []

    async def complete(self, request: Request) -> Completion:
        completion = await self._engine.complete(request)
        self.sequences += request.n
        self.usage += completion.usage
        if request.n > 1:
            self._several.append(request)
        return completion

    async def log_likelihood(
        self, messages: Any, prefix: str, continuation: str, partial: Generation | None = None
    ) -> LogLikelihood:
        return await self._engine.log_likelihood(messages, prefix, continuation, partial)

    def tokens(self) -> Tokens:
        """The counts; the prompts of several completions are counted here, as the engine tells them of one."""
        if not self._several:
            computed, cached = self.usage.prompt_tokens - self.usage.cached_tokens, self.usage.cached_tokens
            return Tokens(computed, cached, self.usage.generated_tokens, self.sequences)
        ids = [self._engine.token_ids(r.messages) or [] for r in self._several for _ in range(r.n)]
        whole = sum(map(len, ids))
        computed = shared_tokens(ids) if self.name == "vllm" else whole
        return Tokens(computed, whole - computed, self.usage.generated_tokens, self.sequences)


@dataclass(frozen=True)
class Tokens:
    """Prompt tokens computed and found in the cache, tokens generated, and by how many sequences."""

    computed: int
    cached: int
    generated: int
    sequences: int

    @property
    def decoded(self) -> int:
        return self.generated - self.sequences

    def __str__(self) -> str:
        return f"{self.computed:,} computed + {self.cached:,} cached, {self.generated:,} generated"


@dataclass
class Pass:
    """One way over all prompts. `drawn` is when the drawing had ended, `first` when the first card was there."""

    seconds: float
    drawn: float
    first: float
    drawing: Tokens
    judging: Tokens
    texts: dict[str, list[str]] = field(default_factory=dict)
    completions: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def computed(self) -> int:
        """Tokens that the model had to compute: prompts that no cache held, and what was generated."""
        parts = (self.drawing, self.judging)
        return sum(part.computed + part.generated for part in parts)


# -- the ways -----------------------------------------------------------------------------------------------

Note = Callable[[PolicyOutput | Scorecard], None]  # called as each is there; on the feeding thread for what was drawn
Way = Callable[[list[Prompt], Policy, SelfRewarding, Note], None]


def one_flow(prompts: list[Prompt], policy: Policy, judge: SelfRewarding, note: Note) -> None:
    for card in judge.stream(noted(policy.stream(prompts), note)):
        note(card)


def two_phases(prompts: list[Prompt], policy: Policy, judge: SelfRewarding, note: Note) -> None:
    items = list(noted(policy.stream(prompts), note))
    for card in judge.stream(items):
        note(card)


def one_at_a_time(prompts: list[Prompt], policy: Policy, judge: SelfRewarding, note: Note) -> None:
    for item in list(noted(policy.stream(prompts), note)):
        alone = [submit(judge.score_item(replace(item, responses=(response,)))).result() for response in item.responses]
        note(Scorecard(item.id, tuple(card.judgments[0] for card in alone)))


def noted(stream: Iterator[PolicyOutput | Item], note: Note) -> Iterator[Item]:
    for one in stream:
        assert isinstance(one, PolicyOutput)
        note(one)
        if isinstance(one.item, Item):
            yield one.item


def one_pass(name: str, way: Way, prompts: list[Prompt], given: argparse.Namespace, turn: int) -> Pass:
    policy, judge = makers(given, turn)
    with policy, judge:
        asked, graded = Counted(policy.engine), Counted(judge.engine)
        forget(policy.engine)
        policy.use_engine(asked)
        judge.use_engine(graded)
        events: list[tuple[float, PolicyOutput | Scorecard]] = []
        began = time.perf_counter()
        way(prompts, policy, judge, lambda one: events.append((time.perf_counter() - began, one)))
        seconds = time.perf_counter() - began
        drawing, judging = asked.tokens(), graded.tokens()
    done = Pass(seconds, 0.0, seconds, drawing, judging)
    for when, one in events:
        if isinstance(one, Scorecard):
            done.first = min(done.first, when)
            done.completions[one.id] = [judgment.completions for judgment in one.judgments]
            done.failures.update(j.failure.reason for j in one.judgments if j.failure is not None)
        else:
            done.drawn = max(done.drawn, when)
            if isinstance(one.item, Failure):
                done.failures[f"not drawn: {one.item.reason}"] += 1
            else:
                done.texts[one.prompt.id] = list(one.item.responses)
    print(
        f"  {name:<14} {seconds:7.1f} s  {len(prompts) / seconds:7.4f} prompts/s;"
        f" drawn by {done.drawn:.1f} s, first card at {done.first:.1f} s\n"
        f"    {'':<12} drawing: {drawing}; judging: {judging}"
        + (f"; failures: {dict(done.failures)}" if done.failures else ""),
        flush=True,
    )
    return done


def told_same(one: Pass, other: Pass) -> str:
    """How much of two passes is the same text."""
    drawn = [a == b for i, texts in one.texts.items() for a, b in zip(texts, other.texts.get(i, []), strict=False)]
    judged = [
        a == b for i, each in one.completions.items() for a, b in zip(each, other.completions.get(i, []), strict=False)
    ]
    equal = all(a.generated == b.generated for a, b in ((one.drawing, other.drawing), (one.judging, other.judging)))
    return (
        f"the same candidates: {sum(drawn)} of {len(drawn)}, judgments: {sum(judged)} of {len(judged)};"
        f" generated tokens equal: {'yes' if equal else 'NO'}"
    )


# -- the bound ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """Tokens a second of a full engine: prompts computed, candidates written, rationales written."""

    prompt: float
    drawing: float
    judging: float

    def seconds(self, drawing: Tokens, judging: Tokens) -> float:
        return (
            (drawing.computed + judging.computed) / self.prompt
            + drawing.decoded / self.drawing
            + judging.decoded / self.judging
        )


def calibrate(prompts: list[Prompt], given: argparse.Namespace, turn: int) -> Rates:
    policy, judge = makers(given, turn)
    with policy, judge:
        engine = policy.engine
        forget(engine)
        chosen = [prompts[place // given.candidates % len(prompts)] for place in range(given.slots)]
        sampling: dict[str, Any] = {"temperature": policy.temperature, "top_p": policy.top_p}
        asked = [Request(one.messages, seed=turn << 16 | n, **sampling) for n, one in enumerate(chosen)]
        burst(engine, asked, 1)
        drawing, texts = decoding(engine, asked, given.max_tokens)
        items = [one.with_responses([text]) for one, text in zip(chosen, texts, strict=True)]
        sampling = {"temperature": judge.sampling.temperature, "top_p": judge.sampling.top_p}
        greedy = judge.sampling.temperature == 0
        graded = [
            Request(judge.template.render(item, (0,)), seed=None if greedy else n, **sampling)
            for n, item in enumerate(items)
        ]
        forget(engine)
        seconds, cold = burst(engine, graded, 1)
        computed = sum(one.usage.prompt_tokens - one.usage.cached_tokens for one in cold)
        judging, _ = decoding(engine, graded, given.judge_tokens)
    rates = Rates(computed / seconds, drawing, judging)
    print(
        f"  full engine: {rates.prompt:.0f} prompt tokens/s, {rates.drawing:.0f} drawn/s, {rates.judging:.0f} judged/s",
        flush=True,
    )
    return rates


def decoding(engine: Engine, asked: list[Request], tokens: int) -> tuple[float, list[str]]:
    """Tokens a second behind prompts that are cached, all of the requests running to the end."""
    before, short = burst(engine, asked, 1)
    seconds, whole = burst(engine, asked, tokens)
    generated = sum(one.usage.generated_tokens for one in whole) - sum(one.usage.generated_tokens for one in short)
    return max(1, generated) / max(1e-9, seconds - before), [one.choices[0].text for one in whole]


def burst(engine: Engine, asked: list[Request], tokens: int) -> tuple[float, list[Completion]]:
    async def gathered() -> list[Completion]:
        return list(await asyncio.gather(*(exactly(engine, replace(one, max_tokens=tokens)) for one in asked)))

    began = time.perf_counter()
    answers = submit(gathered()).result()
    return time.perf_counter() - began, answers


async def exactly(engine: Engine, request: Request) -> Completion:
    """`max_tokens` tokens, whether or not the text has ended, where the engine is vLLM."""
    if engine.name != "vllm":
        return await engine.complete(request)
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    running: Any = engine
    ids = running.token_ids(request.messages)
    parameters = SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        max_tokens=request.max_tokens,
        ignore_eos=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    output, seconds = await running._run(ids, parameters)
    written = output.outputs[0]
    usage = Usage(len(ids), output.num_cached_tokens or 0, len(written.token_ids), seconds)
    return Completion((Generation(written.text, "length"),), usage)


def fewest(one: Tokens, other: Tokens) -> Tokens:
    """The count of least work, of two passes that differ by what the cache held."""
    fewer = min((one, other), key=lambda tokens: tokens.decoded)
    return replace(fewer, computed=min(one.computed, other.computed))


# -- what it comes to ---------------------------------------------------------------------------------------


def report(flows: list[Pass], phases: list[Pass], rates: list[Rates], prompts: int) -> None:
    usual = Rates(
        statistics.median(r.prompt for r in rates),
        statistics.median(r.drawing for r in rates),
        statistics.median(r.judging for r in rates),
    )
    ratios, reached, reached_by_two = [], [], []
    print("\nturn  one flow  two phases  ratio  bound s  most to gain  one flow of bound  two phases of bound")
    for turn, (flow, two) in enumerate(zip(flows, phases, strict=True)):
        least = usual.seconds(fewest(flow.drawing, two.drawing), fewest(flow.judging, two.judging))
        ratios.append(two.seconds / flow.seconds)
        reached.append(least / flow.seconds)
        reached_by_two.append(least / two.seconds)
        print(
            f"{turn:>4}  {prompts / flow.seconds:8.4f}  {prompts / two.seconds:10.4f}  {ratios[-1]:5.3f}  {least:7.1f}"
            f"  {two.seconds / least:12.3f}  {reached[-1]:17.1%}  {reached_by_two[-1]:19.1%}"
        )
    ratio, share, share_of_two = map(statistics.median, (ratios, reached, reached_by_two))
    print(
        f"median: one flow {ratio:.3f} times two phases (goal {GOAL}); one flow reaches {share:.1%} of the bound"
        f" (goal {GOAL_OF_BOUND:.0%}), two phases {share_of_two:.1%}"
    )
    if max(share, share_of_two) > BROKEN:
        print("the rates were measured too low: an engine that does both kinds of work at once is faster than they say")
    fewer = statistics.median(two.computed / flow.computed for flow, two in zip(flows, phases, strict=True))
    print(f"counted in tokens computed, two phases / one flow is {fewer:.3f}: of that, {ratio / fewer:.1%} is reached")
    met = [f"{ratio:.3f} times >= {GOAL}"] * (ratio >= GOAL)
    met += [f"{ratio / fewer:.1%} of the bound in tokens >= {GOAL_OF_BOUND:.0%}"] * (ratio / fewer >= GOAL_OF_BOUND)
    print(f"goal met: {' and '.join(met)}" if met else "goal missed, by the ratio and by the bound in tokens")


def machine(given: argparse.Namespace) -> str:
    packages = [given.engine, "torch", "transformers"] if given.engine != "transformers" else ["torch", "transformers"]
    versions = ", ".join(f"{name} {version_of(name)}" for name in packages)
    return (
        f"{date.today()}: {len(os.sched_getaffinity(0))} cores ({platform.machine()}), Python"
        f" {platform.python_version()}, {versions}; engine {given.engine}"
    )


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def parsed() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("file", type=Path, metavar="PROMPTS.jsonl")
    options.add_argument("--prompts", type=int, default=48)
    options.add_argument("--candidates", type=int, default=4)
    options.add_argument("--max-tokens", type=int, default=128, help="of a candidate")
    options.add_argument("--votes", type=int, default=3)
    options.add_argument("--judge-tokens", type=int, default=32, help="of a rationale")
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--model", default="embedded:smollm2-135m")
    options.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    options.add_argument("--one-at-a-time", type=int, default=4, help="prompts judged so; 0 leaves it out")
    options.add_argument("--window", type=int, default=64, help="candidates in flight, of the policy and of the judge")
    options.add_argument("--slots", type=int, default=32, help="sequences that the engine runs at once")
    given = options.parse_args()
    if given.slots > given.window:
        options.error("--slots is at most --window: else the drawing by itself cannot fill the engine")
    if min(given.max_tokens, given.judge_tokens) < 2:
        options.error("--max-tokens and --judge-tokens are at least 2: a rate needs more than the first token")
    if min(given.prompts, given.turns, given.slots) < 1:
        options.error("--prompts, --turns and --slots are at least 1")
    return given


def main() -> None:
    given = parsed()
    prompts = read_prompts(given.file, given.prompts)
    if not prompts:
        raise SystemExit("there is no prompt in this file")
    name = Path(given.model).name
    print(machine(given))
    print(
        f"{name}: {len(prompts)} prompts, {given.candidates} candidates of at most {given.max_tokens} tokens, each"
        f" judged {given.votes} times in at most {given.judge_tokens} tokens; window {given.window},"
        f" slots {given.slots}",
        flush=True,
    )
    began = time.perf_counter()
    policy, judge = makers(given, given.turns)  # holds the engine open from here to the end
    with policy, judge:
        one_flow(prompts[:2], policy, judge, lambda _: None)
        print(f"(engine opened and warmed in {time.perf_counter() - began:.0f} s, not counted)", flush=True)
        ways: dict[str, tuple[Way, list[Pass]]] = {"one flow": (one_flow, []), "two phases": (two_phases, [])}
        rates = []
        for turn in range(given.turns):
            print(f"turn {turn}:", flush=True)
            rates.append(calibrate(prompts, given, turn))
            order = list(ways) if turn % 2 == 0 else list(ways)[::-1]
            for way in order:
                ways[way][1].append(one_pass(way, ways[way][0], prompts, given, turn))
            print(f"  {told_same(ways['one flow'][1][-1], ways['two phases'][1][-1])}", flush=True)
        flows, phases = ways["one flow"][1], ways["two phases"][1]
        alone = None
        if few := prompts[: given.one_at_a_time]:
            print(f"{len(few)} prompts, one judgment at a time:", flush=True)
            alone = one_pass("one at a time", one_at_a_time, few, given, given.turns - 1)
        report(flows, phases, rates, len(prompts))
        if alone is not None:
            rate, flow = len(few) / alone.seconds, len(prompts) / statistics.median(one.seconds for one in flows)
            print(
                f"one judgment at a time (no goal): {rate:.4f} prompts/s over {len(few)} prompts;"
                f" one flow {flow:.4f}, {flow / rate:.2f} times"
            )


if __name__ == "__main__":
    main()
