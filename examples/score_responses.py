"""Score two responses to one prompt and print the score, or the reason why there is none.

Run with `python examples/score_responses.py [SCORER]`; the default scorer reads nothing and needs no model.
Try `self-rewarding` for a judge on the embedded model.
"""

import sys

from judges import Item, load_scorer


def main(name: str = "length") -> None:
    item = Item(id="tea", prompt="How do I brew green tea?", responses=["Use water at 80 °C for two minutes.", ""])
    with load_scorer(name) as scorer:
        card = scorer.score([item])[0]
    for response, judgment in zip(item.responses, card.judgments, strict=True):
        print(f"{response!r}: {judgment.failure or judgment.score}")


if __name__ == "__main__":  # vLLM starts its processes by spawn
    main(*sys.argv[1:2])
