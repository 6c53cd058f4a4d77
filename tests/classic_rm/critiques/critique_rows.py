"""Items and the prompt of the tests of critique-out-loud."""

from __future__ import annotations

from classic_rm.critiques.training import CritiquePrompt
from judges import Item
from judges.template import load_template
from judges.types import Gold

TEMPLATE = load_template("critique-out-loud")
PROMPT = CritiquePrompt(
    TEMPLATE.name, TEMPLATE.digest, TEMPLATE.path.read_text(), lambda item, i: TEMPLATE.render(item, (i,))
)
WORDS = ["river", "stone", "cloud", "lamp", "bread", "chair", "clock", "grass"]


def item(i: int = 0, responses=("Yes: river", "No")) -> Item:
    return Item(id=str(i), prompt=f"Say {WORDS[i % 8]} {i}", responses=list(responses), gold=Gold(chosen=(0,)))
