"""TRL's own trainers take a step with a scorer as their reward function, and see the scorer's numbers."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from judges import Failure, Item, Judgment, Scorecard, load_scorer
from judges.scorer import Scorer
from judges.types import REAL_LINE

PROMPTS = ["Hi there, who are you?", "Count to three."]


@pytest.fixture(scope="module")
def reward_model(tiny_decoder, tmp_path_factory):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("reward") / "model"
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_pretrained(tiny_decoder, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_decoder).save_pretrained(folder)
    return folder


class FailsOn(Scorer):
    """The length, or a Failure where `fails` says so of it."""

    name = "fails-on"
    scale = REAL_LINE

    def __init__(self, fails) -> None:
        self.fails = fails

    def stream(self, items):
        for item in items:
            yield Scorecard(item.id, tuple(map(self._judgment, item.responses)))

    def _judgment(self, response):
        if self.fails(len(response)):
            return Judgment(failure=Failure("too-long", "too long"))
        return Judgment(score=float(len(response)))


def one_step(kind: str, policy, folder, reward, chat: bool, group: int = 4):
    """One optimisation step; the trainer, and how far its weights moved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the vLLM that TRL does not use here
        import trl
        from datasets import Dataset
        from transformers import AutoTokenizer

        config, trainer_of = {
            "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
            "rloo": (trl.RLOOConfig, trl.RLOOTrainer),
        }[kind]
    rows = [{"prompt": [{"role": "user", "content": p}] if chat else p, "note": "n"} for p in PROMPTS]
    settings = config(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=2 * group,
        num_generations=group,
        max_completion_length=12,
        learning_rate=1e-2,
        beta=0.0,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        seed=0,
    )
    tokenizer = AutoTokenizer.from_pretrained(policy)
    trainer = trainer_of(
        model=str(policy),
        reward_funcs=reward,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    trainer.train()
    after = list(trainer.model.parameters())
    return trainer, max(float((a - b).detach().abs().max()) for a, b in zip(after, before, strict=True))


def rewards_seen(trainer, name):
    """What the trainer noted of each completion: prompt, response and reward."""
    logs = trainer._logs
    texts = [c if isinstance(c, str) else c[0]["content"] for c in logs["completion"]]
    return list(zip(logs["prompt"], texts, logs["rewards"][name], strict=True))


@pytest.mark.parametrize(
    ("kind", "scorer", "chat"),
    [
        ("grpo", "length", True),
        ("grpo", "bradley-terry", True),
        pytest.param("grpo", "bradley-terry", False, marks=pytest.mark.slow),
        pytest.param("rloo", "length", False, marks=pytest.mark.slow),
        ("rloo", "bradley-terry", True),
    ],
)
def test_a_trainer_takes_a_step_by_the_scorer_s_rewards(kind, scorer, chat, tiny_decoder, reward_model, tmp_path):
    settings = {"model": str(reward_model)} if scorer == "bradley-terry" else {}
    with load_scorer(scorer, **settings) as judge:
        trainer, moved = one_step(kind, tiny_decoder, tmp_path, judge.as_reward_function(), chat)
        seen = rewards_seen(trainer, scorer)
        items = [Item(id=str(i), prompt=prompt, responses=[text]) for i, (prompt, text, _) in enumerate(seen)]
        alone = [card.judgments[0].score for card in judge.score(items)]
    assert len(seen) == 8 and len(set(alone)) > 1
    assert [reward for _, _, reward in seen] == pytest.approx(alone, abs=1e-4)
    log = trainer.state.log_history[0]
    assert trainer.state.global_step == 1 and moved > 0 and log["grad_norm"] > 0
    assert log["reward"] == pytest.approx(sum(alone) / 8, abs=1e-3)
    assert log[f"rewards/{scorer}/failed"] == 0


@pytest.mark.parametrize("kind", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_a_completion_without_a_reward_is_left_out_and_not_scored_0(kind, tiny_decoder, tmp_path):
    odd = FailsOn(lambda length: length % 2 == 1)
    trainer, moved = one_step(kind, tiny_decoder, tmp_path, odd.as_reward_function(), True)
    seen = rewards_seen(trainer, "fails-on")
    kept = [len(text) for _, text, _ in seen if len(text) % 2 == 0]
    assert 2 < len(kept) < 8
    assert [None if math.isnan(reward) else reward for _, _, reward in seen] == [
        None if len(text) % 2 else len(text) for _, text, _ in seen
    ]
    log = trainer.state.log_history[0]
    assert log["reward"] == pytest.approx(sum(kept) / len(kept)) and moved > 0
    assert log["rewards/fails-on/failed"] == 1 - len(kept) / 8


@pytest.mark.parametrize("kind", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_when_every_completion_fails_the_policy_stays_as_it_is(kind, tiny_decoder, tmp_path):
    all_of_them = FailsOn(lambda _: True)
    trainer, moved = one_step(kind, tiny_decoder, tmp_path, all_of_them.as_reward_function(), True)
    log = trainer.state.log_history[0]
    assert moved == 0 and log["grad_norm"] == 0 and log["rewards/fails-on/failed"] == 1
    assert log["reward"] is None
