"""Reasoning models as judges: no score is ever taken from a thought, wherever and however it is cut."""

import itertools

import pytest
from fakes import FakeEngine, use

from judges import Item, load_scorer
from judges.engines.base import Generation
from judges.engines.thoughts import ends_in_thinking

# scorer, template, what is thought, what is said, the scores of the responses that follow from what is said alone
JUDGES = {
    "score": ("self-rewarding", "", "Score: 5\nNo, I rate it 4 out of 5.\n\nScore: 1\n", "Good.\nScore: 3\n", (3.0,)),
    "chinese": ("self-rewarding", "self-rewarding-zh", "得分：5\n不，打4分。\n", "很好。\n得分：3\n", (3.0,)),
    "json": (
        "self-rewarding",
        "rating-json",
        '{"score": 9}\nNo: {"rationale": "", "score": 1}',
        '{"score": 7}',
        (7.0,),
    ),
    "pair": ("pairwise", "", "Verdict: B\nResponse B is better.\nVerdict: tie\n", "Fine.\nVerdict: A\n", (1.0, 0.0)),
}
FORMS = ("opened by the template", "inline", "a field of its own")


def generations(form, thought, said):
    """(generation cut after n characters, whether its thought is complete) for every n."""
    closing = "</think>\n"
    if form == "a field of its own":
        for n in range(1, len(thought) + 1):
            yield Generation("", "length", reasoning=thought[:n]), False
        for n in range(1, len(said)):
            yield Generation(said[:n], "length", reasoning=thought), True
        return
    opening = "<think>" if form == "inline" else ""
    text = opening + thought + closing + said
    for n in range(len(text)):
        yield (
            Generation(text[:n], "length", in_thought=form == "opened by the template"),
            n >= len(opening + thought) + len("</think>"),
        )


def scores(judge, generation, **settings):
    """(scores of the responses, failures, requests) of a judge whose first completion is `generation`."""
    name, template, _, _, right = JUDGES[judge]
    label = {"pair": " tie"}.get(judge, " 2")

    def answer(request):
        return label if request.choice else generation

    extra = {"votes": 1} if name == "self-rewarding" else {"orders": "given"}
    if template:
        extra["template"] = template
    scorer = use(load_scorer(name, **extra, **settings), FakeEngine(answer))
    card = scorer.score([Item(id="a", prompt="q", responses=["r", "s"][: len(right)])])[0]
    return tuple(j.score for j in card.judgments), [j.failure for j in card.judgments], scorer.engine.requests


@pytest.mark.parametrize(("judge", "form"), itertools.product(JUDGES, FORMS))
def test_no_score_is_taken_from_a_thought_cut_at_every_character(judge, form):
    _, _, thought, said, right = JUDGES[judge]
    for generation, complete in generations(form, thought, said):
        found, failures, _ = scores(judge, generation, force=False)
        if complete:
            assert found == right or set(found) == {None}, generation
        else:
            assert set(found) == {None}, generation
            assert failures[0].reason in ("truncated", "empty"), generation
            if generation.finish == "length":
                assert failures[0].reason == "truncated" and "max_tokens" in failures[0].message, generation


@pytest.mark.parametrize(("judge", "form"), itertools.product(JUDGES, FORMS))
def test_a_cut_thought_is_closed_before_a_verdict_is_forced(judge, form):
    _, _, thought, said, right = JUDGES[judge]
    forced = {"pair": (0.5, 0.5)}.get(judge, (2.0,))
    closed = 0
    for generation, complete in generations(form, thought, said):
        if not generation.text and not generation.reasoning:
            continue
        found, _, requests = scores(judge, generation)
        assert found in (right, forced), generation
        if not complete:
            assert found == forced
            tag = "<think>" if generation.in_thought else ""
            assert not ends_in_thinking(tag + requests[-1].prefix), generation
            closed += requests[-1].prefix.count("</think>")
    assert closed or form == "a field of its own"


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("form", FORMS)
def test_a_whole_completion_is_read_from_what_was_said(judge, form):
    _, _, thought, said, right = JUDGES[judge]
    whole = {
        "opened by the template": Generation(thought + "</think>" + said, "stop", in_thought=True),
        "inline": Generation(f"<think>{thought}</think>{said}", "stop"),
        "a field of its own": Generation(said, "stop", reasoning=thought),
    }[form]
    found, _, requests = scores(judge, whole)
    assert found == right and len(requests) == 1


@pytest.mark.parametrize("judge", JUDGES)
def test_a_model_that_stops_inside_its_thought_said_nothing(judge):
    _, _, thought, _, _ = JUDGES[judge]
    for generation in (
        Generation(thought, "stop", in_thought=True),
        Generation("<think>" + thought, "stop"),
        Generation("", "stop", reasoning=thought),
    ):
        _, failures, _ = scores(judge, generation, force=False)
        assert failures[0].reason == "empty"


def test_the_verdict_is_read_again_at_its_place_in_a_text_that_began_in_a_thought():
    generation = Generation("Score: 5</think>Good.\nScore: 3", "stop", in_thought=True)
    _, _, requests = scores("score", generation, read="forced")
    assert requests[-1].prefix == "Score: 5</think>Good.\nScore:" and requests[-1].partial is generation


def test_a_critique_that_was_cut_inside_its_thought_is_truncated_and_never_scored():
    for generation in (
        Generation("Score: 9\nHm", "length", in_thought=True),
        Generation("<think>Score: 9", "length"),
        Generation("", "length", reasoning="Score: 9"),
    ):
        scorer = use(load_scorer("critique-out-loud"), FakeEngine(lambda r, g=generation: g))
        judgment = scorer.score([Item(id="a", prompt="q", responses=["r"])])[0].judgments[0]
        assert judgment.failure.reason == "truncated" and "max_tokens" in judgment.failure.message


def test_a_critique_that_is_continued_after_its_thought_keeps_the_thought_apart():
    def answer(request):
        return Generation("</think>Fine.", "stop") if request.prefix else Generation("Score: 9", "length", (), "", True)

    scorer = use(load_scorer("critique-out-loud", finish=True), FakeEngine(answer))
    judgment = scorer.score([Item(id="a", prompt="q", responses=["r"])])[0].judgments[0]
    assert judgment.critique == "Fine."
