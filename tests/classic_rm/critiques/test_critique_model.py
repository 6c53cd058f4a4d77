"""Critique-out-loud's trained head: where it is read, how it is kept and scored with."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from critique_rows import PROMPT, TEMPLATE, item
from fakes import FakeEngine, use

from classic_rm.critiques.model import (
    CritiqueNetwork,
    CritiqueRewardModel,
    encode_critique,
    initialise_lm,
    load_critique_reward_model,
    load_lm,
    save_critique_model,
)
from classic_rm.model import write_statistics
from judges import load_scorer
from judges.engines.base import Completion, Generation
from judges.errors import CannotRun
from judges.template import load_template
from judges.types import Failure, Usage

CRITIQUES = ["Right.", "The answer is not what was asked for.", "It names the word, and stops there. Good enough."]


def save_random_model(base, folder: Path, seed: int = 0) -> Path:
    """A critique model with a random head, as training would leave it."""
    lm, tokenizer = initialise_lm(str(base))
    torch.manual_seed(seed)
    folder.mkdir()
    about = {"kind": "critique-out-loud", "max_tokens": 48, "template": {"digest": TEMPLATE.digest}}
    save_critique_model(CritiqueNetwork(lm), tokenizer, folder, PROMPT.text, about)
    write_statistics(folder, {"heads": 1, "temperature": 2.0})
    return folder


@pytest.fixture(scope="module")
def model(tiny_decoder, tmp_path_factory) -> Path:
    return save_random_model(tiny_decoder, tmp_path_factory.mktemp("critiques") / "model")


@cache
def loaded(folder: Path):
    lm, tokenizer = load_lm(str(folder))
    return lm.eval(), tokenizer


def turns_of(folder: Path, critiques=CRITIQUES):
    _, tokenizer = loaded(folder)
    return [encode_critique(tokenizer, TEMPLATE.render(item(i), (0,)), c, 512) for i, c in enumerate(critiques)]


def alone(folder: Path, ids) -> float:
    """The reward by its definition: one sequence, no padding, the head's formula written out."""
    from safetensors.torch import load_file

    lm, _ = loaded(folder)
    w = load_file(folder / "head.safetensors")
    with torch.no_grad():
        state = lm(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states[-1][0, -1]
        return float(w["out.weight"] @ torch.tanh(w["dense.weight"] @ state + w["dense.bias"]) + w["out.bias"])


# -- the network ----------------------------------------------------------------------------------------------


def test_the_reward_is_read_at_the_last_token_that_the_template_writes(model):
    _, tokenizer = loaded(model)
    (turn, *_) = turns_of(model)
    whole = [*TEMPLATE.render(item(0), (0,)), {"role": "assistant", "content": CRITIQUES[0]}]
    assert turn.ids == tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False)
    assert tokenizer.decode(turn.ids[turn.start :]) == "Right.<|im_end|>\n"
    assert CritiqueRewardModel(str(model)).rewards([[turn.ids]])[0][0][0] == pytest.approx(
        alone(model, turn.ids), abs=1e-5
    )


@pytest.mark.parametrize("share", [True, False])
def test_rewards_do_not_depend_on_batch_padding_or_sharing(model, share):
    expected = [alone(model, turn.ids) for turn in turns_of(model)]
    assert max(expected) - min(expected) > 1e-3, "equal rewards would prove nothing"
    reader = CritiqueRewardModel(str(model), share_prompts=share)
    assert bool(reader.unshared_reason) is not share
    for size, reader.padding_side in ((1, "left"), (2, "left"), (8, "left"), (2, "right"), (8, "right")):
        reader.batch_size = size
        found = reader.rewards([[turn.ids] for turn in turns_of(model)])
        assert [reward for ((reward,),) in found] == pytest.approx(expected, abs=1e-5)


def test_a_saved_model_is_a_plain_checkpoint_with_a_head_beside_it(model, tiny_decoder):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model).state_dict()
    before = AutoModelForCausalLM.from_pretrained(tiny_decoder).state_dict()
    assert all(torch.equal(plain[name], before[name]) for name in before)
    named = set(json.loads((model / "model.safetensors.index.json").read_text())["weight_map"].values())
    assert named == {"model.safetensors"} and (model / "head.safetensors").is_file()
    assert load_template(str(model / "template.md")).digest == TEMPLATE.digest


def test_a_critique_that_does_not_fit_is_a_failure_not_cut(model):
    _, tokenizer = loaded(model)
    messages = TEMPLATE.render(item(), (0,))
    fits = encode_critique(tokenizer, messages, "Right.", 512)
    assert encode_critique(tokenizer, messages, "Right.", len(fits.ids)) == fits
    assert encode_critique(tokenizer, messages, "Right.", len(fits.ids) - 1).reason == "too-long"


def test_control_strings_in_a_critique_stay_text(model):
    _, tokenizer = loaded(model)
    turn = encode_critique(tokenizer, TEMPLATE.render(item(), (0,)), "Ends <|im_end|> here.", 512)
    assert turn.ids[turn.start :].count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


def bare(base, folder: Path, template: str | None) -> Path:
    lm, tokenizer = load_lm(str(base))
    lm.generation_config.eos_token_id = None
    lm.config.eos_token_id = None
    tokenizer.chat_template = template
    tokenizer.eos_token = "<|endoftext|>"
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_turns_end_where_the_models_own_template_ends_them(tiny_decoder, tmp_path):
    template = "{% for m in messages %}{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    lm, tokenizer = initialise_lm(str(bare(tiny_decoder, tmp_path / "other", template)))
    assert lm.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_a_model_without_a_chat_template_gets_a_plain_one(tiny_decoder, tmp_path):
    lm, tokenizer = initialise_lm(str(bare(tiny_decoder, tmp_path / "base", None)))
    turn = encode_critique(tokenizer, ({"role": "user", "content": "Why?"},), "So.", 512)
    assert tokenizer.decode(turn.ids) == "user:\nWhy?\n\nassistant:\nSo.<|endoftext|>\n\n"
    assert lm.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids("<|endoftext|>")]


def test_an_encoder_is_refused(tiny_encoder):
    with pytest.raises(CannotRun, match="causal LM"):
        initialise_lm(str(tiny_encoder))


# -- scoring --------------------------------------------------------------------------------------------------


class Cut(FakeEngine):
    """Writes `parts` one after the other; all but the last are cut off by the limit."""

    def __init__(self, *parts):
        super().__init__(lambda request: "")
        self.parts = parts

    async def complete(self, request):
        self.requests.append(request)
        at = sum(request.prefix.startswith("".join(self.parts[: n + 1])) for n in range(len(self.parts)))
        finish = "stop" if at == len(self.parts) - 1 else "length"
        return Completion((Generation(self.parts[at], finish),), Usage(10, 0, 5, 0.0))


def scorer(model, engine, **settings):
    with pytest.warns(UserWarning, match="second copy of the same weights: 0.0 GiB"):
        judge = load_scorer("critique-out-loud", model=str(model), engine="transformers", **settings)
        judge.head.open()
    return use(judge, engine)


def test_k_critiques_are_averaged_and_kept(model):
    seeds = {}
    engine = FakeEngine(lambda r: CRITIQUES[seeds.setdefault(r.seed, len(seeds)) % 3] + "\n")
    judge = scorer(model, engine, critiques=3)
    (card,) = judge.score([item(0, ["Yes: river"])])
    (j,) = card.judgments
    expected = [
        alone(
            model,
            encode_critique(
                judge.head._model.tokenizer, TEMPLATE.render(item(0, ["Yes: river"]), (0,)), c.strip(), 512
            ).ids,
        )
        for c in j.completions
    ]
    assert sorted(c.strip() for c in j.completions) == sorted(CRITIQUES)
    assert list(j.votes) == pytest.approx(expected, abs=1e-5)
    assert j.score == pytest.approx(sum(expected) / 3, abs=1e-5) and j.read == "head" and j.critique in CRITIQUES
    assert {r.temperature for r in engine.requests} == {0.5} and {r.max_tokens for r in engine.requests} == {48}
    judge.close()


def test_preference_is_the_softmax_of_rewards_over_the_stored_temperature(model):
    judge = scorer(model, FakeEngine(lambda r: CRITIQUES["Yes: river" in r.messages[-1]["content"]]))
    (card,) = judge.score([item()])
    a, b = (j.score for j in card.judgments)
    assert card.preference[0] == pytest.approx(1 / (1 + math.exp((b - a) / 2.0)), abs=1e-9) and a != b
    assert judge.scale.low == -math.inf
    judge.close()


def test_critiques_that_finish_together_are_read_in_one_batch_by_prompt(model):
    judge = scorer(model, FakeEngine(lambda r: f"Right, {r.seed}.", delay=0.01), critiques=4)
    calls = []
    read = judge.head._model.rewards
    judge.head._model.rewards = lambda groups: calls.append([len(g) for g in groups]) or read(groups)
    judge.score([item(i) for i in range(3)])
    assert sum(map(sum, calls)) == 24 and len(calls) < 12 and max(len(g) for g in calls) > 1
    assert any(size > 1 for groups in calls for size in groups), "critiques of one response share their prompt"
    judge.close()


def test_a_critique_that_stays_cut_is_a_failure_with_the_critique_kept(model):
    judge = scorer(model, Cut("It is", " not", " whole"))
    (j, *_) = judge.score([item()])[0].judgments
    assert j.score is None and j.failure.reason == "truncated" and j.truncated
    assert j.critique == "It is not" and len(judge.engine.requests) == 4
    judge.close()


def test_a_cut_critique_is_finished_before_it_is_scored_unless_that_was_refused(model):
    judge = scorer(model, Cut("It is", " right."))
    j = judge.score([item(0, ["x"])])[0].judgments[0]
    messages = TEMPLATE.render(item(0, ["x"]), (0,))
    ids = encode_critique(judge.head._model.tokenizer, messages, "It is right.", 512).ids
    assert j.score == pytest.approx(alone(model, ids), abs=1e-5) and not j.truncated
    judge.close()
    judge = scorer(model, Cut("It is", " right."), finish=False)
    assert judge.score([item(0, ["x"])])[0].judgments[0].failure.reason == "truncated"
    judge.close()


def test_a_reward_that_cannot_be_computed_is_that_rows_failure(model):
    judge = scorer(model, FakeEngine(lambda r: "Right." if "river" in r.messages[-1]["content"] else "x " * 600))
    cards = judge.score([item(0, ["a"]), item(1, ["b"])])
    assert cards[0].judgments[0].score is not None and cards[1].judgments[0].failure.reason == "too-long"
    judge.head._model.rewards = lambda groups: 1 / 0
    assert judge.score([item(0, ["a"])])[0].judgments[0].failure == Failure("engine", "division by zero")
    judge.head._model.rewards = lambda groups: [[(math.nan,)]]
    assert judge.score([item(0, ["a"])])[0].judgments[0].failure.reason == "engine"
    judge.close()


def test_another_template_or_a_missing_head_is_refused(model, tiny_decoder, tmp_path):
    other = tmp_path / "other.md"
    other.write_text(PROMPT.text.replace("You review", "You look at"))
    with pytest.raises(CannotRun, match="was trained with"):
        load_scorer("critique-out-loud", model=str(model), template=str(other))
    same = load_scorer("critique-out-loud", model=str(model), template="critique-out-loud")
    assert same.identity()["read"] == "head" and same.identity()["template"].endswith(TEMPLATE.digest)
    assert load_scorer("critique-out-loud", model=str(model), read="expected", template=str(other)).head is None
    for settings in ({"model": str(tiny_decoder), "read": "head"}, {"model": str(model), "read": "head+expected"}):
        with pytest.raises(CannotRun, match="a folder with a trained head"):
            load_scorer("critique-out-loud", **settings)


# -- vLLM -----------------------------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.slow
def test_the_reward_through_vllm_is_that_of_transformers(tmp_path):
    """The embedded model with a random head: vLLM writes two critiques and reads each, transformers reads them."""
    folder = save_random_model("embedded:smollm2-135m", tmp_path / "model")
    items = [item(i, ["Yes: the river is long.", "No."]) for i in range(2)]
    settings = {"critiques": 2, "max_tokens": 128, "head_engine": "vllm", "engine": "vllm"}
    with (
        pytest.warns(UserWarning, match="a second engine on the same weights: 0.5 GiB, and its cache"),
        load_scorer("critique-out-loud", model=str(folder), **settings) as judge,
    ):
        judgments = [j for card in judge.score(items) for j in card.judgments]
    reader = load_critique_reward_model(str(folder), "transformers")
    prompts = [TEMPLATE.render(scored, (i,)) for scored in items for i in range(2)]
    compared = 0
    for messages, j in zip(prompts, judgments, strict=True):
        for vote, text in zip(j.votes, j.completions, strict=True):
            if not isinstance(vote, Failure):
                ids = reader.encode(messages, text.strip()).ids
                assert vote == pytest.approx(reader.rewards([[ids]])[0][0][0], abs=1e-3)
                compared += 1
        votes = [v for v in j.votes if not isinstance(v, Failure)]
        assert not votes or j.score == pytest.approx(sum(votes) / len(votes))
    assert compared >= 4
