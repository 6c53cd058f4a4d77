"""Reading verdicts: the table in verdict_cases.py, and properties that hold for all texts."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verdict_cases import FIVE, JSON_SCORES, JSON_VERDICTS, LABELS, NUMBERS, SCORES, TEN, VERDICTS

from judges.extraction import (
    Reading,
    extract_score,
    read_json_label,
    read_json_score,
    read_label,
    read_score,
)
from judges.extraction.thinking import split_thinking
from judges.types import FAILURE_REASONS, Failure

READERS = [
    lambda text: read_score(text, TEN),
    lambda text: read_score(text, FIVE, "Score:"),
    lambda text: read_json_score(text, TEN, "score"),
    lambda text: read_label(text, LABELS, "Verdict:"),
    lambda text: read_json_label(text, LABELS, "verdict"),
]


def outcome(found):
    return found.reason if isinstance(found, Failure) else found.value


def test_the_table_is_large_and_covers_every_failure():
    rows = [*SCORES, *JSON_SCORES, *VERDICTS, *JSON_VERDICTS]
    assert len({(row[0], row[2]) for row in rows}) >= 400
    assert sum(any("一" <= c <= "鿿" for c in row[0]) for row in rows) >= 50
    assert {"missing", "malformed", "off-scale", "empty", "refused"} == {r[3] for r in rows} & set(FAILURE_REASONS)


@pytest.mark.parametrize("text, scale, announcement, right", SCORES)
def test_scores_of_the_table(text, scale, announcement, right):
    found = read_score(text, scale, announcement)
    assert outcome(found) == right, found


@pytest.mark.parametrize("text, scale, key, right", JSON_SCORES)
def test_json_scores_of_the_table(text, scale, key, right):
    found = read_json_score(text, scale, key)
    assert outcome(found) == right, found


@pytest.mark.parametrize("text, labels, announcement, right", VERDICTS)
def test_labels_of_the_table(text, labels, announcement, right):
    found = read_label(text, labels, announcement)
    assert outcome(found) == right, found


@pytest.mark.parametrize("text, labels, key, right", JSON_VERDICTS)
def test_json_labels_of_the_table(text, labels, key, right):
    found = read_json_label(text, labels, key)
    assert outcome(found) == right, found


def test_a_given_announcement_replaces_the_usual_ones():
    assert extract_score("Score: 2\nGrade: 4", FIVE, "Grade:") == 4
    assert extract_score("Score: 2", FIVE, "Grade:").reason == "missing"


@pytest.mark.parametrize(
    "text, excerpt",
    [
        ("Fine work.\n总分：Score: ４ of 5", "４"),
        ("<think>Score: 2</think>Score: four", "four"),
        ("Score: [[4/5]]", "4"),
        ("评分：八十五分", "八十五"),
        ("I rate it 8 out of 10.", "8"),
        ("我打９分", "９"),
        (" 4\n", "4"),
    ],
)
def test_the_span_of_a_score_is_its_number(text, excerpt):
    scale = next(s for s in (FIVE, TEN, *(row[1] for row in SCORES)) if isinstance(read_score(text, s), Reading))
    assert text[slice(*read_score(text, scale).span)] == excerpt


@pytest.mark.parametrize(
    "text, start, excerpt",
    [
        ('{"score": 7}', 10, "7"),
        ('{"score": 7, "score": 7.0}', 22, "7.0"),
        ('{"a": "the \\"score\\": 9", "score": 7 }', 35, "7"),
        ('{"score": "7", "b": "\\"score\\": 9"}', 11, "7"),
        ('{"b": {"score": 9}, "score":\n7}', 29, "7"),
        ('<think>{"score": 9}</think>{"score": 7}', 37, "7"),
        ('{"score": 9} {"score": 7}', 23, "7"),
        ('{"评分": 3, "\\u0073core": 7}', 24, "7"),
    ],
)
def test_the_span_of_a_json_verdict_is_its_own_value(text, start, excerpt):
    found = read_json_score(text, TEN, "score")
    assert found == Reading(7, (start, start + len(excerpt))) and text[slice(*found.span)] == excerpt


def test_the_span_of_a_label_is_the_label_as_written():
    text = "<think>Verdict: A</think>Ｖerdict： **response ｂ**"
    assert text[slice(*read_label(text, LABELS, "Verdict:").span)] == "ｂ"
    text = '{"a": "\\"verdict\\": \\"A\\"", "verdict": "b"}'
    assert text[slice(*read_json_label(text, LABELS, "verdict").span)] == "b" and text.index('b"') == len(text) - 3


@pytest.mark.parametrize(
    "text, thinking, answer",
    [
        ("plain", "", "plain"),
        ("<think>a</think>b<think>c</think>d", "<think>a</think><think>c</think>", "bd"),
        ("a</think>b", "a</think>", "b"),
        ("a<think>b", "<think>b", "a"),
        ("<think>a</think>b</think>c", "<think>a</think>b</think>", "c"),
        ("<Thinking>a</THINKING>b", "<Thinking>a</THINKING>", "b"),
    ],
)
def test_thinking_is_separated_from_the_answer(text, thinking, answer):
    assert split_thinking(text) == (thinking, answer)


# Pieces of which sloppy and hostile outputs are made: plain random text hardly ever meets a rule.
WORDS = (
    "Score: 评分： Verdict: 4 10 / 5 A B tie ** [[ ]] \" ' ` { } : , "
    "<think> </think> 分 八 十 . of and or - > 打 one ％ ( ) ½ [ = +"
)
PIECES = st.lists(
    st.sampled_from(
        [*WORDS.split(), " ", "\n", "\u200b", "\\", "I rate it", '"score"', '{"score": 7}', '{"verdict": "A"}']
    ),
    max_size=30,
).map("".join)


@given(st.one_of(PIECES, st.text(max_size=200)))
def test_any_text_gives_a_verdict_that_is_allowed_and_stands_in_the_text_or_a_failure(text):
    for read, allowed in zip(READERS, [TEN, FIVE, TEN, LABELS, LABELS], strict=True):
        found = read(text)
        if isinstance(found, Reading):
            assert found.value in allowed and text[slice(*found.span)].strip()
        else:
            assert found.reason in ("missing", "malformed", "off-scale", "empty", "refused")


@given(PIECES, st.integers(0, 5))
def test_the_last_announcement_decides_whatever_stands_before(before, score):
    assert extract_score(f"{before.replace('<think>', '')}\nScore: {score}", FIVE, "Score:") == score


@given(PIECES)
def test_a_malformed_last_announcement_is_never_replaced_by_an_earlier_one(before):
    answer = before.replace("<think>", "")
    assert read_score(f"{answer}\nScore: unclear", FIVE, "Score:").reason == "malformed"
    assert read_label(f"{answer}\nVerdict: unclear", LABELS, "Verdict:").reason == "malformed"


@given(PIECES, st.sampled_from(LABELS))
def test_thinking_never_changes_what_is_said(thinking, label):
    thinking = thinking.replace("<think>", "").replace("</think>", "")
    for text in (f"<think>{thinking}</think>Verdict: {label}", f"{thinking}</think>Verdict: {label}"):
        assert read_label(text, LABELS, "Verdict:").value == label


@given(st.text(max_size=80), st.integers(1, 10), st.booleans(), st.booleans())
def test_whatever_a_rationale_holds_the_key_of_its_object_is_read(rationale, score, first, escaped):
    pairs = {"score": score, "rationale": rationale} if first else {"rationale": rationale, "score": score}
    text = json.dumps(pairs, ensure_ascii=escaped)
    found = read_json_score(text, TEN, "score")
    assert found.value == score and text[slice(*found.span)] == str(score)


@given(st.sampled_from(['"score": 9', '{"score": 9}', "</think>", "<think>", "Score: 9", "}", '"']), st.integers(1, 10))
def test_a_hostile_rationale_in_an_object_is_data(hostile, score):
    text = json.dumps({"rationale": hostile * 2, "score": score, "after": hostile})
    assert read_json_score(text, TEN, "score").value == score


@given(PIECES, PIECES)
def test_what_was_thought_and_what_was_said_are_the_whole_text(a, b):
    thinking, answer = split_thinking(a + b)
    assert len(thinking) + len(answer) == len(a + b) and "</think>" not in answer


@given(st.sampled_from(NUMBERS))
def test_a_label_that_begins_another_is_never_taken_for_it(label):
    assert read_label(f"Best: {label}", NUMBERS, "Best:").value == label
    assert read_label(f"Best: {label}7", NUMBERS, "Best:").reason == "malformed"


@given(st.sampled_from("AB"), st.sampled_from(["<", "<<", "<=", "≤", "≺"]), st.sampled_from(["", " "]), st.booleans())
def test_a_relation_is_never_a_vote_for_its_smaller_side(left, sign, space, brackets):
    relation = f"{left}{space}{sign}{space}{'B' if left == 'A' else 'A'}"
    found = read_label(f"Verdict: [[{relation}]]" if brackets else f"Verdict: {relation}", LABELS, "Verdict:")
    assert outcome(found) != left


@given(
    st.integers(0, 5), st.integers(0, 5), st.sampled_from(["; I give", ", no,", " – actually", ", rather", "; make it"])
)
def test_a_number_that_its_sentence_takes_back_is_never_a_score(first, second, turn):
    assert read_score(f"Score: {first}{turn} {second}", FIVE, "Score:").reason == "malformed"


HOSTILE = """
import json, sys
from judges.extraction import read_json_label, read_json_score, read_label, read_score
from judges.types import Scale

pieces = json.load(sys.stdin)
for piece in pieces:
    text = "Score: " + piece * (200_000 // len(piece))
    read_score(text[7:], Scale(1, 10, 1), "Score:"), read_score(text, Scale(1, 10, 1), "Score:")
    read_label(text, ["A", "B", "tie"], "Score:"), read_json_score(text[7:], Scale(1, 10, 1), "score")
    read_json_label('{"score": ' + text[7:], ["A", "B", "tie"], "score")
print(len(pieces))
"""
REPEATED = [
    *(" ", "\n", "1 ", "1/1 ", "8/10\n", '"8/10"\n', "I rate 8/10. ", "one ", "打 ", "\u200b", "\\", "抱歉，我"),
    *("a", "1", "1.", "1/", "一", "十", "打9分", "*", "[", "(", "`", '"', "/", "１", "½", "\\boxed{"),
    *("Score", "Score ", "Score*", "Score(", "Score (1", "Score:", "Score: 1", 'Score: "', '"Score: 4" '),
    *("> Score: 4 ", "out of ", "I cannot ", "sorry ", "A ", "A,", "Verdict: A "),
    *("1+", "1+1=2 ", "A<B", "A > ", "Max score: 4 ", "no, B "),
    *("<think>", "</think>", "<think", "x</think>", "<think></think>", '{"a":1</think>'),
    *("{", "{ ", "{}", '{"', "{'", '[{"', '{"a":', '{"a":1}', '{"a":[', '{"score":', '{"score":7}'),
]


def test_hostile_text_is_read_in_linear_time():
    # A pattern that backtracks would take hours: the guard ends it, and measures no speed.
    command = [sys.executable, "-c", HOSTILE]
    ran = subprocess.run(command, input=json.dumps(REPEATED), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) == len(REPEATED)
