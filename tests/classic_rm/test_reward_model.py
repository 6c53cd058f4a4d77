"""Rewards equal those of transformers row by row without padding, of vLLM and of TRL."""

from __future__ import annotations

import pytest
import torch

from classic_rm.data import encode
from classic_rm.model import initialise_model, load_tokenizer, save_model
from classic_rm.settings import ModelSettings
from judges import Item, load_scorer
from judges.engines.embedded import resolve_model
from judges.errors import CannotRun

TEXTS = ["Yes.", "It is four, since two and two make four.", "I would rather talk about the weather " * 8, "No"]
CUSTOM_CODE = """
from dataclasses import dataclass

import torch
from transformers import LlamaModel, LlamaPreTrainedModel
from transformers.utils import ModelOutput


@dataclass
class Out(ModelOutput):
    score: torch.Tensor = None


class Own(LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        return Out(score=self.model(input_ids, attention_mask=attention_mask).last_hidden_state[:, 0].sum(-1))
"""
ITEMS = [Item(id=str(i), prompt=f"What is {i} + {i}? " * (1 + 5 * i), responses=TEXTS) for i in range(3)]


@pytest.fixture(scope="module", params=["decoder", "encoder"])
def checkpoint(request, tmp_path_factory):
    base = {"decoder": "embedded:smollm2-135m", "encoder": "embedded:minilm"}[request.param]
    model, tokenizer = initialise_model(ModelSettings(base=base), seed=1)
    folder = tmp_path_factory.mktemp("rm") / request.param
    save_model(model, tokenizer, folder, {})
    return folder


@pytest.fixture(scope="module")
def reference(checkpoint):
    return _row_by_row(checkpoint)


def _row_by_row(folder):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(str(folder))
    rewards = []
    for item in ITEMS:
        for response in item.responses:
            if tokenizer.chat_template:
                turns = [*item.messages, {"role": "assistant", "content": response}]
                batch = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
            else:
                batch = tokenizer(item.prompt, response, return_tensors="pt")
            with torch.no_grad():
                rewards.append(float(model(**batch).logits))
    return rewards


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_rewards_equal_transformers_row_by_row(checkpoint, reference, side, batch_size, share):
    if share and side == "left":
        pytest.skip("a packed batch has no padding")
    with load_scorer(
        "bradley-terry", model=str(checkpoint), batch_size=batch_size, padding_side=side, share_prompts=share
    ) as scorer:
        cards = scorer.score(ITEMS)
    assert [j.score for c in cards for j in c.judgments] == pytest.approx(reference, abs=1e-4)
    assert len({round(r, 6) for r in reference}) == len(reference)


def test_rewards_do_not_depend_on_the_order_or_the_batch(checkpoint, reference):
    split = [
        Item(id=f"{item.id}-{k}", prompt=item.prompt, responses=[text])
        for item in reversed(ITEMS)
        for k, text in enumerate(item.responses)
    ]
    with load_scorer("bradley-terry", model=str(checkpoint), batch_size=5) as scorer:
        rewards = {card.id: card.judgments[0].score for card in scorer.stream(iter(split))}
    scores = [rewards[f"{item.id}-{k}"] for item in ITEMS for k in range(len(TEXTS))]
    assert scores == pytest.approx(reference, abs=1e-4)


def test_an_encoder_gets_the_token_types_of_its_tokenizer(tiny_encoder, tmp_path):
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path / "pairs"
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1).save_pretrained(folder)
    load_tokenizer(str(tiny_encoder)).save_pretrained(folder)
    expected = _row_by_row(folder)
    with load_scorer("bradley-terry", model=str(folder)) as scorer:
        scores = [j.score for card in scorer.score(ITEMS) for j in card.judgments]
    assert scores == pytest.approx(expected, abs=1e-5)


def test_an_empty_response_is_a_failure_and_the_rest_is_scored(checkpoint):
    with load_scorer("bradley-terry", model=str(checkpoint)) as scorer:
        (card,) = scorer.score([Item(id="a", prompt="q", responses=["fine", " "])])
    assert card.judgments[0].score is not None and card.judgments[1].failure.reason == "empty"
    assert card.preference is None


def test_a_temperature_softens_the_preference(checkpoint):
    item = Item(id="a", prompt="q", responses=["fine", "no"])
    with load_scorer("bradley-terry", model=str(checkpoint), temperature=0.01) as scorer:
        sharp = scorer.score([item])[0]
    with load_scorer("bradley-terry", model=str(checkpoint), temperature=100) as scorer:
        soft = scorer.score([item])[0]
    assert [j.score for j in sharp.judgments] == [j.score for j in soft.judgments]
    assert abs(soft.preference[0] - 0.5) < abs(sharp.preference[0] - 0.5)


@pytest.mark.parametrize(
    "wrong", [{"engine": "paper"}, {"dtype": "int8"}, {"temperature": 0}, {"conservative": 1}, {"batch_size": 0}]
)
def test_a_wrong_setting_is_refused_before_anything_is_loaded(checkpoint, wrong):
    with pytest.raises(CannotRun):
        load_scorer("bradley-terry", model=str(checkpoint), **wrong)


def test_a_checkpoint_without_its_head_is_refused(tiny_decoder, tmp_path):
    from safetensors.torch import load_file, save_file

    model, tokenizer = initialise_model(ModelSettings(base=str(tiny_decoder)))
    save_model(model, tokenizer, tmp_path, {})
    weights = load_file(tmp_path / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with (
        pytest.raises(CannotRun, match=r"lacks weights.*score\.weight"),
        load_scorer("bradley-terry", model=str(tmp_path)) as scorer,
    ):
        scorer.score(ITEMS[:1])


def test_custom_code_runs_with_remote_code_only(tiny_decoder, tmp_path):
    import json
    import shutil

    folder = tmp_path / "own"
    shutil.copytree(tiny_decoder, folder)
    (folder / "own.py").write_text(CUSTOM_CODE)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "own.Own"}
    config["architectures"] = ["Own"]
    (folder / "config.json").write_text(json.dumps(config))
    with (
        pytest.raises(CannotRun, match="not a reward model"),
        load_scorer("bradley-terry", model=str(folder)) as closed,
    ):
        closed.score(ITEMS[:1])
    with load_scorer("bradley-terry", model=str(folder), remote_code=True) as scorer:
        card = scorer.score(ITEMS[:1])[0]
    assert all(j.score is not None for j in card.judgments)


def test_trl_evaluates_to_the_same_rewards(checkpoint, reference, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    tokenizer = load_tokenizer(str(checkpoint))
    ids = [encode(tokenizer, item.messages, text, 512).ids for item in ITEMS for text in item.responses]
    data = Dataset.from_list([{"chosen_ids": a, "rejected_ids": b} for a, b in zip(ids[::2], ids[1::2], strict=True)])
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(checkpoint),
        args=RewardConfig(
            output_dir=str(tmp_path), per_device_eval_batch_size=3, report_to="none", disable_tqdm=True, bf16=False
        ),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
    )
    batch = trainer.data_collator([data[i] for i in range(len(data))])
    with torch.no_grad():
        scores = trainer.model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    chosen, rejected = scores.chunk(2)
    assert chosen.tolist() == pytest.approx(reference[::2], abs=1e-3)
    assert rejected.tolist() == pytest.approx(reference[1::2], abs=1e-3)
    measured = trainer.evaluate()
    expected = sum(a > b for a, b in zip(reference[::2], reference[1::2], strict=True)) / len(data)
    assert measured["eval_accuracy"] == pytest.approx(expected)
    mean = sum(a - b for a, b in zip(reference[::2], reference[1::2], strict=True)) / len(data)
    assert measured["eval_margin"] == pytest.approx(mean, abs=1e-3)


def test_the_template_as_text_tokenized_again_gives_the_same_ids(tmp_path):
    """As RewardBench tokenizes, for a tokenizer that adds no BOS."""
    tokenizer = load_tokenizer(resolve_model("embedded:smollm2-135m"))
    for item in ITEMS:
        for response in item.responses:
            turns = [*item.messages, {"role": "assistant", "content": response}]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            assert tokenizer(text)["input_ids"] == encode(tokenizer, item.messages, response, 4096).ids


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(
    "checkpoint", ["decoder", pytest.param("encoder", marks=pytest.mark.slow)], indirect=True, scope="module"
)
def test_vllm_pools_to_the_same_rewards(checkpoint, reference):
    with load_scorer("bradley-terry", model=str(checkpoint), engine="vllm") as scorer:
        scores = [j.score for card in scorer.score(ITEMS) for j in card.judgments]
    assert scores == pytest.approx(reference, abs=1e-3)
