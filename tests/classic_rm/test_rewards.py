"""Rewards equal transformers' own, read row by row without padding."""

from __future__ import annotations

import pytest
import torch

from classic_rm.data import Pair, encode, split_by_prompt
from classic_rm.losses import bradley_terry
from classic_rm.model import load_model, save_model
from judges import Item, load_scorer
from judges.engines.embedded import resolve_model
from judges.types import Failure

TEXTS = ["Yes.", "It is four, since two and two make four.", "I would rather talk about the weather " * 8, "No"]
ITEMS = [Item(id=str(i), prompt=f"What is {i} + {i}? " * (1 + 5 * i), responses=TEXTS) for i in range(3)]


@pytest.fixture(scope="module", params=["decoder", "encoder"])
def checkpoint(request, tmp_path_factory):
    base = {"decoder": "embedded:smollm2-135m", "encoder": "embedded:minilm"}[request.param]
    model, tokenizer = load_model(base, fresh_head=True, seed=1)
    folder = tmp_path_factory.mktemp("rm") / request.param
    save_model(model, tokenizer, folder, {})
    return folder


@pytest.fixture(scope="module")
def reference(checkpoint):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    found = []
    for item in ITEMS:
        for response in item.responses:
            if tokenizer.chat_template:
                turns = [*item.messages, {"role": "assistant", "content": response}]
                ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
            else:
                ids = tokenizer(item.prompt, response, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                found.append(float(model(ids).logits))
    return found


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_rewards_equal_transformers_row_by_row(checkpoint, reference, side, batch_size):
    scorer = load_scorer("bradley-terry", model=str(checkpoint), batch_size=batch_size, padding_side=side)
    cards = scorer.score(ITEMS)
    assert [j.score for c in cards for j in c.judgments] == pytest.approx(reference, abs=1e-4)
    assert len({round(r, 6) for r in reference}) == len(reference)


def test_a_trained_checkpoint_has_a_pad_token_of_its_own(checkpoint):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_prompt_is_cut_from_the_left_and_the_response_never():
    from transformers import AutoTokenizer

    for name in ("embedded:smollm2-135m", "embedded:minilm"):
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(name))
        messages = ({"role": "user", "content": "first " + "word " * 200 + "last"},)
        whole = encode(tokenizer, messages, "the answer ends here", 10_000)
        cut = encode(tokenizer, messages, "the answer ends here", 64)
        assert len(cut.ids) == 64 and cut.ids[-30:] == whole.ids[-30:] and cut.cut == len(whole.ids) - 64
        assert "last" in tokenizer.decode(cut.ids) and "ends here" in tokenizer.decode(cut.ids)
        assert "first" not in tokenizer.decode(cut.ids)
        too_long = encode(tokenizer, messages, "word " * 100, 64)
        assert isinstance(too_long, Failure) and too_long.reason == "too-long"


def test_an_empty_response_is_a_failure_and_the_rest_is_scored(checkpoint):
    scorer = load_scorer("bradley-terry", model=str(checkpoint))
    (card,) = scorer.score([Item(id="a", prompt="q", responses=["fine", " "])])
    assert card.judgments[0].score is not None and card.judgments[1].failure.reason == "empty"
    assert card.preference is None


def test_the_loss_by_hand():
    # -log sigmoid(1 - 0.5) = 0.474077; (1 + 0)^2 * 0.01 = 0.01
    one, zero = torch.tensor([1.0]), torch.tensor([0.0])
    assert float(bradley_terry(one, zero, margin=0.5, centring=0.01)) == pytest.approx(0.484077, abs=1e-6)


def test_train_and_validation_share_no_prompt():
    pairs = [Pair(f"p{i % 10}", [1], [2]) for i in range(50)]
    train, held = split_by_prompt(pairs, 0.2, 0)
    assert len(train) == 40 and len(held) == 10
    assert not {p.prompt for p in train} & {p.prompt for p in held}


def test_training_learns_what_can_be_learned_and_the_checkpoint_says_the_same(tmp_path):
    from classic_rm.trainer import TrainingSettings, train
    from judges.types import Gold

    words = ["river", "stone", "cloud", "lamp", "bread", "chair", "clock", "grass"]
    items = [
        Item(id=str(i), prompt=f"Say {w} {i}", responses=[f"Yes: {w}", f"No, {w} never"], gold=Gold(chosen=(0,)))
        for i, w in enumerate(words * 6)
    ]
    settings = TrainingSettings(epochs=4, learning_rate=2e-4, batch_size=8)
    trained = train(items, settings, tmp_path / "rm")
    assert trained.validation_accuracy == 1.0 and trained.validation_loss < 0.5
    with load_scorer("bradley-terry", model=str(tmp_path / "rm")) as scorer:
        cards = scorer.score(items[:8])
    assert all(c.judgments[0].score > c.judgments[1].score for c in cards)
