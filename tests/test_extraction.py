import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.extraction import extract_score, read_score
from judges.types import Failure, Scale

FIVE, TEN = Scale(0, 5, 1), Scale(1, 10, 1)

CASES = [
    ("Score: 4", FIVE, 4),
    ("Score: 4/5", FIVE, 4),
    ("**Score: 4**", FIVE, 4),
    ("**Score**: 4", FIVE, 4),
    ("Score: <4>", FIVE, 4),
    ("Score: [[4]]", FIVE, 4),
    ("Total score: 4 out of 5", FIVE, 4),
    ("Score: 4 points", FIVE, 4),
    ("score is 3", FIVE, 3),
    ("SCORE = 2", FIVE, 2),
    ("Score: four", FIVE, 4),
    ("Score: 0", FIVE, 0),
    ("Score: 4.", FIVE, 4),
    ("Score: 4.0", FIVE, 4),
    ("Score: 4, because it is short", FIVE, 4),
    ("Score: 8/10", TEN, 8),
    ("Score: 10", TEN, 10),
    ("Score: 10/10", TEN, 10),
    ("I rate it 8 out of 10.", TEN, 8),
    ("8/10", TEN, 8),
    ("9.", TEN, 9),
    ("10", TEN, 10),
    ("评分：8", TEN, 8),
    ("综合评分: 8分", TEN, 8),
    ("评分：８分", TEN, 8),
    ("评分：八分", TEN, 8),
    ("评分：十", TEN, 10),
    ("我打9分", TEN, 9),
    ('{"score": 7}', TEN, 7),
    ('{"critique": "good", "score": 7}', TEN, 7),
    ("<think>Score: 2 perhaps</think>Score: 4", FIVE, 4),
    ("Score: 2 ... on reflection Score: 5", FIVE, 5),
    ("Accuracy: 3/5\nScore: 4", FIVE, 4),
    ("Score: 3 out of five", FIVE, 3),
    ("Score: 3 (out of 5)", FIVE, 3),
    ("Score: 3 points out of 5", FIVE, 3),
    ("评分：8分（满分10分）", TEN, 8),
    ("Score: 4\n- 1 point lost for brevity", FIVE, 4),
    ("a plan: Score: 1</think>\nGood. Score: 5", FIVE, 5),
    ("Score:\n4", FIVE, 4),
]
FAILURES = [
    ("Score: 4.5", FIVE, "off-scale"),
    ("Score: 6", FIVE, "off-scale"),
    ("Score: -1", FIVE, "off-scale"),
    ("Score: 3/5", TEN, "off-scale"),
    ("Score: 0", TEN, "off-scale"),
    ("Score: 100", TEN, "off-scale"),
    ("Score: 8/100", TEN, "off-scale"),
    ("Score: high", FIVE, "malformed"),
    ("Score: 3 out of 5", TEN, "off-scale"),
    ("Score: 4 out of 10", FIVE, "off-scale"),
    ("Score: 3 out of ten", FIVE, "off-scale"),
    ("Score: 3 (out of 10)", FIVE, "off-scale"),
    ("Score: 3 points out of 10", FIVE, "off-scale"),
    ("评分：3分（满分10分）", FIVE, "off-scale"),
    ("Score: 1 + 1 + 1 + 0 + 1 = 4", FIVE, "malformed"),
    ("Score:\n\n1. It is about what was asked.\n2. More.", FIVE, "malformed"),
    ("Score: 1,5", FIVE, "malformed"),
    ("Score: 4½", FIVE, "malformed"),
    ("评分：三点五", FIVE, "malformed"),
    ("评分：一般", FIVE, "malformed"),
    ("评分：二十", TEN, "malformed"),
    ("Score: 3-four", FIVE, "malformed"),
    ("评分：四到五", FIVE, "malformed"),
    ("I think so. Score: 1</think>\nGood answer.", FIVE, "missing"),
    ("Score: 4\nFinal score: unclear", FIVE, "malformed"),
    ("Score: 3-4", FIVE, "malformed"),
    ("Score: 3 to 4", FIVE, "malformed"),
    ("Score:", FIVE, "missing"),
    ("I add 1 point for relevance and 1 point for style.", FIVE, "missing"),
    ("The response is good.", FIVE, "missing"),
    ("", FIVE, "empty"),
    ("   \n", FIVE, "empty"),
    ("<think>Score: 4", FIVE, "empty"),
    ("There are 3 apples in 5 boxes", FIVE, "missing"),
]


@pytest.mark.parametrize("text, scale, score", CASES)
def test_a_verdict_is_read(text, scale, score):
    assert extract_score(text, scale) == score


@pytest.mark.parametrize("text, scale, reason", FAILURES)
def test_what_is_no_verdict_is_a_failure_with_its_reason(text, scale, reason):
    found = extract_score(text, scale)
    assert isinstance(found, Failure) and found.reason == reason, found


def test_the_template_says_what_announces_a_verdict():
    assert extract_score("Score: 2\nGrade: 4", FIVE, "Grade:") == 4
    assert extract_score("Score: 2", FIVE, "Grade:").reason == "missing"


def test_prose_about_the_score_is_not_the_announcement_that_was_asked_for():
    assert extract_score("Score: 4\n\nThe score is one point below the top.", FIVE, "Score:") == 4


def test_the_span_is_where_the_number_stands():
    text = "Fine work.\n总分：Score: ４ of 5"
    assert text[slice(*read_score(text, FIVE).span)] == "４"


@given(st.text(max_size=60), st.integers(0, 5))
def test_the_last_announcement_decides_whatever_stands_before(before, score):
    assert extract_score(f"{before.replace('<think>', '')}\nScore: {score}", FIVE, "Score:") == score


@given(st.text(max_size=200))
def test_any_text_gives_a_score_on_the_scale_or_a_failure(text):
    found = extract_score(text, TEN)
    assert isinstance(found, Failure) or found in TEN
