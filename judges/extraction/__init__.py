"""Reading a verdict from generated text: a score, the label of a comparison, or a `Failure` with the reason.

Rules that hold for all readers; `score`, `label` and `json_verdict` add their own:

- Only what was GENERATED is read. Nothing is clamped, rescaled or guessed. A text that can be read in two ways is a
  Failure.
- Thinking is not read: a `<think>` block, one that is left open, and everything before an end tag without a start tag.
- The LAST announcement ("Score:", in any case, bold, in brackets, "Score (0-5):") decides, well-formed or not; after a
  malformed one no earlier mention is used. An announcement in a quotation (in quotation marks or backticks within a
  line, or in a line that begins with ">") is malformed too, because it may be quoted from the response.
- An announcement of another kind ("Maximum score:", "Confidence score:", "上次评分") decides only where
  there is no plain one; different verdicts of such announcements are malformed. A verdict that its own sentence takes
  back in a known phrase ("Score: 4; I give 3", "Verdict: A; no, B") is malformed; not every phrase is known.
- The reason is `refused` only for a text that begins with "I cannot rate …", "抱歉，我无法评分" or the like and has no
  verdict.

A span points into the original text. Time is linear in the text's length.
"""

from judges.extraction.expected_score import expected_score, label_probabilities
from judges.extraction.json_verdict import read_json_label, read_json_score
from judges.extraction.label import read_label
from judges.extraction.reading import Reading
from judges.extraction.score import extract_score, read_score
from judges.extraction.thinking import split_thinking

__all__ = [
    "Reading",
    "expected_score",
    "extract_score",
    "label_probabilities",
    "read_json_label",
    "read_json_score",
    "read_label",
    "read_score",
    "split_thinking",
]
