"""A server's completion that was cut inside a thought which its chat template opened."""

import asyncio

import pytest

from judges.engines.base import Completion, Generation, Request, RequestFailed
from judges.engines.openai.open_thought import OpenThought, without_thought
from judges.types import Usage

REQUEST = Request(({"role": "user", "content": "Rate it."},))


def mark(finder, *generations, request=REQUEST):
    completion = asyncio.run(finder.mark(request, Completion(generations, Usage())))
    return [choice.in_thought for choice in completion.choices]


def prompt_of(*strings, calls=None):
    async def tokenize():
        if calls is not None:
            calls.append(1)
        return {"count": len(strings), "tokens": list(range(len(strings))), "token_strs": list(strings)}

    return tokenize


@pytest.mark.parametrize(
    ("strings", "opens"),
    [
        (("<|im_start|>", "assistant", "Ċ", "<think>", "Ċ"), True),
        (("assistant", "Ċ", "<", "think", ">", "Ċ"), True),
        (("assistant", "Ċ", "<think>", "ĊĊ", "</think>", "ĊĊ"), False),
        (("assistant", "Ċ"), False),
    ],
)
def test_vllm_shows_once_whether_its_template_opens_the_thought(strings, opens):
    calls = []
    finder = OpenThought(prompt_of(*strings, calls=calls))
    cut = Generation("Score: 5\nHm", "length")
    assert mark(finder, cut) == [opens] and mark(finder, Generation("Score: 5\nHm", "stop"), cut) == [opens, opens]
    assert len(calls) == 1


def test_what_shows_its_thought_is_not_asked_about():
    calls = []
    finder = OpenThought(prompt_of("<think>", calls=calls))
    assert mark(finder, Generation("<think>Hm", "length"), Generation("4", "stop", reasoning="Hm")) == [False, False]
    assert mark(finder, Generation("4", "stop"), request=Request(REQUEST.messages, choice=("4",))) == [False]
    assert mark(finder, Generation("4", "stop"), request=Request(REQUEST.messages, prefix="Score:")) == [False]
    assert not calls


@pytest.mark.parametrize("answer", [{}, {"token_strs": None}, {"token_strs": "<think>"}, None])
def test_a_server_that_cannot_show_its_prompt_opens_nothing(answer):
    async def tokenize():
        if answer is None:
            raise RequestFailed("server", "no such page")
        return answer

    assert mark(OpenThought(tokenize), Generation("Score: 5\nHm", "length")) == [False]


def test_another_server_shows_it_by_an_end_tag_without_a_start_tag():
    finder = OpenThought(None)
    cut = Generation("Score: 5\nHm", "length")
    assert mark(finder, cut) == [False]
    assert mark(finder, Generation("Score: 5</think>Score: 3", "stop")) == [False]
    assert mark(finder, cut, Generation("Score: 3", "stop")) == [True, False]


@pytest.mark.parametrize(
    ("prefix", "sent"),
    [
        ("Is it? 4\n</think>\nScore:", "Score:"),
        ("<think>Is it?</think>\n\nGood.\nScore:", "Good.\nScore:"),
        ("Good.\nScore:", "Good.\nScore:"),
        ("<think>Is it", "<think>Is it"),
        ("", ""),
    ],
)
def test_a_turn_is_continued_without_its_thought(prefix, sent):
    assert without_thought(prefix) == sent
