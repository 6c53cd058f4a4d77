"""Self-Instruct: what is shown, what is kept, and that a run repeats itself."""

from __future__ import annotations

import asyncio
import random
import re
from itertools import combinations

import pytest
from fakes import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from judges import CannotRun
from judges.data.similarity import RougeIndex, load_encoder, rouge_l
from judges.engines.base import Completion, Generation, RequestFailed
from judges.engines.store import StoredEngine, request_digest
from judges.preferences.self_instruct import (
    SelfInstructSettings,
    _build_messages,
    _extract_task,
    _join_task_lines,
    make_prompts,
)
from judges.types import Usage

SEEDS = [f"seed {name} {name} stands" for name in ("alpha", "beta", "gamma", "delta", "zeta", "eta", "iota", "kappa")]
SEEDS += ["name a river", "name the longest river of a country"]


def sentence(request, n=6):
    """Words that the request's own seed decides: nearly never similar to another's."""
    draw = random.Random(request.seed)
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=5)) for _ in range(n))


def shown(request):
    """The examples of a request, read from its text."""
    text = request.messages[0]["content"]
    return re.split(r"\n\nTask \d+: ?", text)[1:]


def only(answer, **settings):
    """What becomes of an answer that a model always gives, where it does not once make a prompt."""
    engine = FakeEngine(lambda r: answer)
    with pytest.raises(CannotRun) as told:
        make_prompts(SEEDS, engine, SelfInstructSettings(count=1, tries=3, **settings))
    return str(told.value)


# -- ROUGE-L ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first, second, value",
    [
        ("the cat sat", "the cat sits", 2 * 2 / (3 + 3)),
        ("The cat sat.", "the CAT, sat!", 1.0),
        ("police killed the gunman", "the gunman police killed", 2 * 2 / (4 + 4)),
        ("a b c d e", "a x b y", 2 * 2 / (5 + 4)),
        ("a a a", "a", 2 * 1 / (3 + 1)),
        ("one two", "three four", 0.0),
        ("写一首诗", "写一首歌", 2 * 3 / (4 + 4)),
        ("?!", "?!", 0.0),
        ("", "", 0.0),
    ],
)
def test_rouge_l_by_hand(first, second, value):
    assert rouge_l(first, second) == pytest.approx(value)


few_words = st.lists(st.sampled_from("abcdef"), max_size=9).map(" ".join)


@given(few_words, few_words)
def test_rouge_l_is_symmetric_and_bounded(first, second):
    assert rouge_l(first, second) == rouge_l(second, first)
    assert 0 <= rouge_l(first, second) <= 1
    assert rouge_l(first, first) == (1.0 if first else 0.0)


@given(st.lists(few_words, max_size=12), few_words, st.sampled_from([0.1, 0.5, 2 / 3, 0.7, 0.75, 0.8, 1.0]))
@settings(deadline=None)
def test_bounds_before_rouge_l_hide_no_similar_text(known, text, threshold):
    words = RougeIndex(threshold)
    words.add(known)
    assert words.add_new([text]) == [all(rouge_l(text, other) < threshold for other in known)]


# -- what is made -------------------------------------------------------------------------------------------


@given(st.lists(few_words.filter(str.strip), min_size=1, max_size=4), st.integers(0, 10**6), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_no_made_prompt_is_similar_to_a_seed_or_another(seeds, draw, count):
    # With six words to speak of, most answers are near another.
    engine = FakeEngine(lambda r: " ".join(random.Random(r.seed).choices("abcdef", k=7)))
    settings = SelfInstructSettings(count=count, seed=draw, tries=200, threshold=0.75)
    generated = make_prompts(seeds, engine, settings)
    assert len(generated.prompts) == count
    pairs = [*combinations(generated.prompts, 2), *((a, b) for a in generated.prompts for b in seeds)]
    assert all(rouge_l(a, b) < 0.75 for a, b in pairs)
    assert all(0 <= number <= generated.requests for number in generated.rejected.values())


def test_each_request_is_sampled_as_published_with_a_seed_of_its_own():
    engine = FakeEngine(sentence)
    generated = make_prompts(SEEDS, engine, SelfInstructSettings(count=40))
    assert len(generated.prompts) == len(set(generated.prompts)) == 40 and generated.requests == 64 == len(
        engine.requests
    )
    assert {(r.n, r.temperature, r.top_p, r.max_tokens) for r in engine.requests} == {(1, 0.6, 0.9, 256)}
    assert len({r.seed for r in engine.requests}) == 64
    assert generated.usage == Usage(640, 0, 320, 0.0) and not generated.rejected
    # Eight of the second round's answers were needed; all were asked for.
    assert 1 < engine.most <= 32


def test_greedy_requests_have_no_seed():
    engine = FakeEngine(lambda r: " ".join(example.split()[1] for example in shown(r)[:-1]))
    make_prompts(SEEDS, engine, SelfInstructSettings(count=1, temperature=0))
    assert {(r.seed, r.top_p) for r in engine.requests} == {(None, 1.0)}


def test_eight_seeds_are_shown_then_six_and_two_of_what_was_made():
    engine = FakeEngine(sentence)
    generated = make_prompts(SEEDS, engine, SelfInstructSettings(count=40)).prompts
    first, second = engine.requests[:32], engine.requests[32:]
    for request in first:
        *examples, last = shown(request)
        assert len(set(examples)) == 8 and set(examples) <= set(SEEDS) and last == ""
    places = set()
    for request in second:
        *examples, _ = shown(request)
        own = [example for example in examples if example in generated]
        assert len(set(examples)) == 8 and len(own) == 2 and set(own) <= set(generated[:32])
        places |= {examples.index(example) for example in own}
    assert places == set(range(8))
    assert len({tuple(shown(r)) for r in engine.requests}) == 64


def test_a_small_pool_shows_fewer():
    engine = FakeEngine(sentence)
    make_prompts(SEEDS[:2] * 2, engine, SelfInstructSettings(count=33))
    assert {len(shown(r)) - 1 for r in engine.requests[:32]} == {2}
    assert {len(shown(r)) - 1 for r in engine.requests[32:]} == {4}
    assert engine.requests[0].stop == ("\nTask 4:",)


# -- the list and its end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, within",
    [
        ("Sort.\nTask 2: obey", "Sort. Task 2: obey"),
        ("Sort.\n\n  **task 9**", "Sort.\n **task 9**"),
        ("Sort.\rTask 2:\u2028TASK 3", "Sort. Task 2: TASK 3"),
        ("Sort.\n\u200bTask 2:\n-> Task\n2", "Sort. \u200bTask 2: -> Task\n2"),
        ("Sort.\nTasks are\n  many", "Sort.\nTasks are\n  many"),
        ("\nTask 5: sort", "Task 5: sort"),
    ],
)
def test_no_line_of_an_example_begins_as_a_task_does(text, within):
    assert _join_task_lines(text) == within


@given(st.lists(st.text(st.sampled_from("Task 12:\n\r\x0b\x85\u2028#*. ")).filter(str.strip), min_size=1, max_size=4))
def test_a_list_has_as_many_tasks_as_examples_and_one_to_write(examples):
    (message,) = _build_messages(examples)
    lines = [line for line in message["content"].splitlines() if re.match(r"[\W_]*task\b", line, re.IGNORECASE)]
    assert len(lines) == len(examples) + 1
    assert all(line.startswith(f"Task {number}:") for number, line in enumerate(lines, start=1))
    assert message["role"] == "user" and message["content"].endswith(f"\n\nTask {len(lines)}:")


def test_control_strings_and_template_marks_stay_as_they_are():
    seed = "Say <|im_end|> {{ prompt }} [INST] twice"
    engine = FakeEngine(lambda r: f"{sentence(r)} <|im_start|>")
    generated = make_prompts([seed], engine, SelfInstructSettings(count=1)).prompts
    assert shown(engine.requests[0])[0] == seed and generated[0].endswith(" <|im_start|>")


@pytest.mark.parametrize(
    "said, text, more",
    [
        (" Name a river.\n", "Name a river.", False),
        ("Task 9: Name a river.", "Name a river.", False),
        ("9. Name a river.", "Name a river.", False),
        ("**9) Name a river.**", "Name a river.", False),
        ("**Task 9:** Name a river.", "Name a river.", False),
        ("### Task 9\nName a **big** river.", "Name a **big** river.", False),
        ("Instruction: Name a river.", "Name a river.", False),
        ("9. New task: Name a river.", "Name a river.", False),
        ("任务9：写一首诗。", "写一首诗。", False),
        ("当然！这是一个新任务：\n写一首诗。", "写一首诗。", False),
        ("Sure! Here is a new task for you:\n\nName a river.", "Name a river.", False),
        ("Here's one.\n\nTask 9: Name a river.\nTask 10: Sing.", "Name a river.", True),
        ("<think>Task 9: rivers?</think>Name a river.", "Name a river.", False),
        ("Name a river.\n\nTask 10: Sing.\nTask 11: Da", "Name a river.", True),
        ("Task 1: Name a river.\nTask 2: Sing.", "Name a river.", True),
        ("1. Name a river.\n2. Sing.", "Name a river.", True),
        ("Instruction: Name a river.\n\nInstruction: Sing.", "Name a river.", True),
        ("Task 1: Sort.\nTask 2: Add.\nTask 9: Name a river.", "Name a river.", False),
        ("Task 9:\nTask 10: Sing.", "", True),
        # A task may hold a list, a number, a question of its own.
        ("Order these:\n1. fig\n2. pear", "Order these:\n1. fig\n2. pear", False),
        ("Task 9: Order these:\n1. fig\n2. pear", "Order these:\n1. fig\n2. pear", False),
        ("Task 9: Read on.\nQuestion: who?\nTask: say", "Read on.\nQuestion: who?\nTask: say", False),
        ("3.5 km in miles?", "3.5 km in miles?", False),
        ("2 + 2?", "2 + 2?", False),
        ("Here is a list of numbers: 3, 4. Add them.", "Here is a list of numbers: 3, 4. Add them.", False),
        ("- **Bold** is what?", "- **Bold** is what?", False),
        ("Questions about rivers, please.", "Questions about rivers, please.", False),
        ("", "", False),
    ],
)
def test_what_is_read_of_an_answer(said, text, more):
    assert _extract_task(said, 9) == (text, more)


@given(st.text(st.sampled_from("Task 9:0.\n*#1<think>/- 任务：")), st.integers(1, 12))
def test_reading_never_fails_and_gives_only_what_was_generated(said, number):
    text, _ = _extract_task(said, number)
    assert text == text.strip() and set(text) <= set(said)


def test_reading_takes_no_more_than_linear_time():
    for unit in ("Task 9:\n", "*", "1. ", "Sure! ", "Here is ", "\n", "task\n", " *_"):
        _extract_task(unit * 50_000, 9)


# -- what is not kept ---------------------------------------------------------------------------------------


def test_every_rejection_is_counted_under_its_reason():
    bad = {
        0: RequestFailed("server", "it fell over"),
        1: Generation("a task that was cut off in", "length"),
        2: Generation("<think>never done", "length"),
        3: Generation(" \n", "stop"),
        4: Generation("Task 9: ", "stop"),
        5: Generation("too short", "stop"),
        6: Generation("long " * 151, "stop"),
        7: Generation(SEEDS[3].upper(), "stop"),
        8: Generation("one whole task stands here\nTask 10: and another that was cu", "length"),
    }
    order = []

    def answer(request):
        order.append(request)
        said = bad.get(len(order) - 1, sentence(request))
        if isinstance(said, Exception):
            raise said
        return said

    generated = make_prompts(SEEDS, FakeEngine(answer), SelfInstructSettings(count=24))
    assert generated.rejected == {"failed": 1, "truncated": 2, "empty": 2, "short": 1, "long": 1, "similar": 1}
    assert generated.prompts[0] == "one whole task stands here" and generated.requests == 32


def test_lengths_are_counted_in_units_and_the_bounds_are_kept():
    for n, kept in ((2, False), (3, True), (5, True), (6, False)):
        engine = FakeEngine(lambda r, n=n: sentence(r, n))
        settings = SelfInstructSettings(count=1, min_length=3, max_length=5, tries=1)
        if kept:
            assert make_prompts(SEEDS, engine, settings).prompts
        else:
            with pytest.raises(CannotRun, match="1 short" if n == 2 else "1 long"):
                make_prompts(SEEDS, engine, settings)
    assert make_prompts(SEEDS, FakeEngine(lambda r: "写一首诗"), SelfInstructSettings(count=1)).prompts == ("写一首诗",)


def test_an_answer_as_similar_as_the_threshold_is_not_kept():
    seed, answer = "a b c d e f g x y z", "a b c d e f g 1 2 3"  # 2 * 7 / 20
    engine = FakeEngine(lambda r: answer)
    with pytest.raises(CannotRun, match="1 similar"):
        make_prompts([seed], engine, SelfInstructSettings(count=1, tries=1))
    assert make_prompts([seed], engine, SelfInstructSettings(count=1, tries=1, threshold=0.71)).prompts == (answer,)


def test_a_model_that_always_says_the_same_is_asked_so_often_and_no_more():
    engine = FakeEngine(lambda r: "the one thing that I can say")
    with pytest.raises(CannotRun) as told:
        make_prompts(SEEDS, engine, SelfInstructSettings(count=7, tries=10))
    assert len(engine.requests) == 70
    assert str(told.value) == (
        "70 requests gave only 1 of 7 prompts (69 similar);"
        " give more and more varied seeds, a higher temperature or a higher threshold, or raise tries"
    )


def test_what_is_in_vain_says_what_to_change():
    assert "(3 empty); try another model" in only(" ")
    assert "(3 truncated); raise max_tokens" in only(Generation("a task without an", "length"))
    assert "(3 short); lower min_length" in only("two words")

    def fails(request):
        raise RequestFailed("timeout", "no answer in 60 s")

    with pytest.raises(CannotRun, match="3 failed; last failure: no answer in 60 s"):
        make_prompts(SEEDS, FakeEngine(fails), SelfInstructSettings(count=1, tries=3))


def test_a_completion_without_a_choice_is_a_failure():
    class Silent(FakeEngine):
        async def complete(self, request):
            return Completion((), Usage())

    with pytest.raises(CannotRun, match=r"1 failed; .* no completion"):
        make_prompts(SEEDS, Silent(sentence), SelfInstructSettings(count=1, tries=1))


@pytest.mark.parametrize(
    "seeds, says",
    [([], "there are no seeds"), (["Name a river.", " \n"], "seed 2 of 2 is empty")],
)
def test_there_is_something_to_begin_with(seeds, says):
    engine = FakeEngine(sentence)
    with pytest.raises(CannotRun, match=says):
        make_prompts(seeds, engine, SelfInstructSettings(count=1))
    assert not engine.requests


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"count": 0}, "count must be at least 1"),
        ({"shots": 0}, "shots must be at least 1"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tries": 0}, "tries"),
        ({"min_length": 0}, "min_length"),
        ({"min_length": 9, "max_length": 8}, "at least min_length, 9, not 8"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"similarity": "bleu"}, "rouge-l or embeddings, not 'bleu'"),
        ({"threshold": 0}, "threshold"),
        ({"threshold": 1.1}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
    ],
)
def test_settings_that_cannot_be_say_why(settings, says):
    with pytest.raises(ValueError, match=says):
        SelfInstructSettings(**{"count": 1} | settings)


def test_each_similarity_has_its_threshold_unless_one_is_given():
    assert SelfInstructSettings(1).limit == 0.7 and SelfInstructSettings(1, similarity="embeddings").limit == 0.9
    assert SelfInstructSettings(1, similarity="embeddings", threshold=0.5).limit == 0.5


# -- the same again -----------------------------------------------------------------------------------------


class Shuffled(FakeEngine):
    """Answers after a random while, so in another order each time."""

    async def complete(self, request):
        await asyncio.sleep(random.SystemRandom().random() / 100)
        return await super().complete(request)


def mostly(request):
    """An answer that is similar to another one's now and then."""
    draw = random.Random(request.seed)
    return " ".join(draw.choices("abcdef", k=8))


def test_the_seed_decides_what_is_made_whatever_order_answers_come_in():
    runs = [make_prompts(SEEDS, Shuffled(mostly), SelfInstructSettings(count=50, seed=3)) for _ in range(2)]
    assert runs[0] == runs[1] and runs[0].requests > 32 and runs[0].rejected["similar"]
    assert make_prompts(SEEDS, FakeEngine(mostly), SelfInstructSettings(count=50, seed=3)) == runs[0]
    assert make_prompts(SEEDS, FakeEngine(mostly), SelfInstructSettings(count=50, seed=4)).prompts != runs[0].prompts


def test_who_wants_more_gets_the_same_first():
    few, many = (make_prompts(SEEDS, FakeEngine(mostly), SelfInstructSettings(count=n)).prompts for n in (20, 50))
    assert many[:20] == few


def test_a_run_over_a_store_asks_nothing_twice(tmp_path):
    class Dies(FakeEngine):
        async def complete(self, request):
            if len(self.requests) == 40:
                raise RuntimeError("killed")
            return await super().complete(request)

    engines = [Dies(mostly), FakeEngine(mostly), FakeEngine(mostly)]
    stores = [StoredEngine(engine, tmp_path / "kept.sqlite") for engine in engines]
    with pytest.raises(RuntimeError, match="killed"):
        make_prompts(SEEDS, stores[0], SelfInstructSettings(count=50))
    second, third = (make_prompts(SEEDS, store, SelfInstructSettings(count=50)) for store in stores[1:])
    for store in stores:
        store.close()
    assert second == third == make_prompts(SEEDS, FakeEngine(mostly), SelfInstructSettings(count=50))
    assert not engines[2].requests
    # The first round was whole when it was killed: none of it is asked again.
    first_round = {request_digest(r) for r in engines[0].requests[:32]}
    assert first_round.isdisjoint(request_digest(r) for r in engines[1].requests) and stores[1].hits >= 32


def test_progress_tells_what_is_made_and_asked_and_never_goes_back():
    progress = []
    generated = make_prompts(
        SEEDS, FakeEngine(mostly), SelfInstructSettings(count=40), lambda *numbers: progress.append(numbers)
    )
    assert progress == sorted(progress) and progress[0] == (0, 1) and progress[-1] == (40, generated.requests)


# -- by embeddings ------------------------------------------------------------------------------------------


def test_embeddings_are_the_mean_over_the_tokens_of_each_text_alone():
    embed = load_encoder("embedded:minilm")
    texts = ["Write a short poem about the sea.", "Compose a brief poem on the sea.", "Explain how vaccines work. " * 9]
    alone = [embed([text])[0] for text in texts]
    for together, one in zip(embed(texts), alone, strict=True):
        assert together == pytest.approx(one, abs=1e-5) and float(one @ one) == pytest.approx(1)
    # all-MiniLM-L6-v2, mean pooled and normalized, calls a paraphrase near and another subject far.
    assert float(alone[0] @ alone[1]) > 0.9 and float(alone[0] @ alone[2]) < 0.2


def test_a_decoder_can_be_the_encoder(tiny_decoder):
    embed = load_encoder(str(tiny_decoder))
    texts = ["Name a river.", "Explain how vaccines work, and why."]
    for together, text in zip(embed(texts), texts, strict=True):
        assert together == pytest.approx(embed([text])[0], abs=1e-5)


def test_embeddings_reject_a_paraphrase_that_shares_few_words_and_keep_what_is_different():
    seed = "Write a short poem about the sea."
    answers = [
        "Compose a brief poem on the sea.",
        "WRITE a short poem about the sea!",
        "Explain how vaccines work.",
        "Explain how do vaccines work.",
        "Give three uses of an old brick.",
    ]
    assert rouge_l(seed, answers[0]) < 0.7
    order = []

    def answer(request):
        order.append(request)
        return answers[(len(order) - 1) % len(answers)]

    settings = SelfInstructSettings(count=2, similarity="embeddings", tries=16)
    generated = make_prompts([seed], FakeEngine(answer), settings)
    assert generated.prompts == (answers[2], answers[4]) and generated.rejected == {"similar": 3}


def test_a_copy_is_similar_at_a_threshold_of_one():
    seed = "Write a short poem about the sea."
    engine = FakeEngine(lambda r: seed)
    with pytest.raises(CannotRun, match="5 similar"):
        make_prompts(
            [seed, "Name a river."], engine, SelfInstructSettings(1, similarity="embeddings", threshold=1.0, tries=5)
        )


def test_an_encoder_that_cannot_be_read_says_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    settings = SelfInstructSettings(1, similarity="embeddings", encoder=str(tmp_path))
    with pytest.raises(CannotRun, match=r"encoder .*: .*; name a transformers encoder"):
        make_prompts(SEEDS, FakeEngine(sentence), settings)
    with pytest.raises(CannotRun, match="no model folder"):
        make_prompts(
            SEEDS, FakeEngine(sentence), SelfInstructSettings(1, similarity="embeddings", encoder="./nowhere/at/all")
        )
