"""Training critique-out-loud: its loss worked out, its rows, its stages and how they go on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from critique_rows import PROMPT, TEMPLATE, WORDS, item

from classic_rm.critiques.model import (
    CritiqueNetwork,
    CritiqueRewardModel,
    encode_critique,
    initialise_lm,
    load_lm,
)
from classic_rm.critiques.trainer import CritiqueCollator, CritiqueExample, CritiqueTrainer, TrainingNetwork
from classic_rm.critiques.training import train_critiques
from classic_rm.data import Example
from classic_rm.model import read_statistics
from classic_rm.settings import CritiqueSettings, ModelSettings, TrainingSettings
from judges import load_scorer
from judges.cli.train_critiques import read_critique_rows, run
from judges.errors import CannotRun
from judges.types import Failure

# -- the loss -------------------------------------------------------------------------------------------------


def make_trainer(weight, centring=0.0, network=None):
    trainer = object.__new__(CritiqueTrainer)  # its loss needs nothing else of the Trainer
    trainer._settings, trainer._weight, trainer._train_metrics = TrainingSettings(centring=centring), weight, []
    return trainer


class Given(torch.nn.Module):
    """A network whose outputs are given."""

    def __init__(self, rewards, nll, tokens):
        super().__init__()
        self.rewards, self.nll = torch.nn.Parameter(rewards), torch.nn.Parameter(nll)
        self.tokens = tokens

    def forward(self, **_):
        return self.rewards, self.rewards, self.nll, self.tokens


def test_loss_and_gradient_are_those_worked_out_by_hand():
    # L = log(1 + e^-1) + 1.25 * (3 + 5) / (2 + 2);  dL/dr = -/+ 1 / (1 + e);  dL/d(-log P) = 1.25 / 4
    network = Given(torch.tensor([[1.0], [0.0]]), torch.tensor([3.0, 5.0]), torch.tensor([2, 2]))
    examples = [CritiqueExample(1, Example("p", [[1, 2], [1, 3]], [(0, 1)]), (1.0,), (1, 1))]
    loss = make_trainer(1.25).compute_loss(network, CritiqueCollator(0)(examples))
    loss.backward()
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)) + 2.5, abs=1e-6)
    part = 1 / (1 + math.e)
    assert network.rewards.grad.flatten().tolist() == pytest.approx([-part, part], abs=1e-6)
    assert network.nll.grad.tolist() == pytest.approx([0.3125, 0.3125])


def test_without_comparisons_the_loss_is_the_critiques_alone():
    network = Given(torch.tensor([[1.0], [0.0]]), torch.tensor([3.0, 5.0]), torch.tensor([2, 3]))
    critique_trainer = make_trainer(1.25)
    loss = critique_trainer.compute_loss(
        network, CritiqueCollator(0)([CritiqueExample(1, Example("p", [[1], [2]], []), (1.0,), (1, 1))])
    )
    assert loss.item() == pytest.approx(8 / 5)
    means = critique_trainer.summarise(critique_trainer._train_metrics)
    assert means == pytest.approx({"loss": 1.6, "critique_loss": 1.6})


def test_each_prompt_weighs_as_one_in_the_preference_loss():
    # Two comparisons of one prompt and one of another: (mean of two + one) / 2.
    rewards = torch.tensor([[2.0], [0.0], [1.0], [0.5], [0.5]])
    network = Given(rewards, torch.zeros(5), torch.ones(5, dtype=torch.long))
    examples = [
        CritiqueExample(1, Example("p", [[1]] * 3, [(0, 1), (0, 2)]), (1.0,), (1,) * 3),
        CritiqueExample(2, Example("q", [[1]] * 2, [(0, 1)]), (1.0,), (1,) * 2),
    ]
    critique_trainer = make_trainer(1.25)
    loss = critique_trainer.compute_loss(network, CritiqueCollator(0)(examples)).item()
    first = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert loss == pytest.approx((first + math.log(2)) / 2, abs=1e-6)
    assert critique_trainer.summarise(critique_trainer._train_metrics)["loss"] == pytest.approx(loss, abs=1e-6)


def families():
    from transformers import GPT2Config, LlamaConfig

    small = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    yield GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **small)
    yield LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
        **small,
    )


@pytest.mark.parametrize("config", families(), ids=lambda c: c.model_type)
def test_training_sees_the_rewards_of_scoring_and_the_critiques_tokens_alone(config):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    network = CritiqueNetwork(AutoModelForCausalLM.from_config(config)).eval()
    learning = TrainingNetwork(network).eval()
    assert not [name for name in learning.state_dict() if "lm_head" in name], "tied weights are written once"
    rows, begins = [[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 12], [20, 21, 22, 23, 24]], (3, 2, 4)
    examples = [
        CritiqueExample(1, Example("p", rows[:2], []), (1.0,), begins[:2]),
        CritiqueExample(2, Example("q", rows[2:], []), (1.0,), begins[2:]),
    ]
    batch = CritiqueCollator(0)(examples)
    with torch.no_grad():
        rewards, _, nll, tokens = learning(batch["input_ids"], batch["attention_mask"], batch["starts"])
        for i, (row, start) in enumerate(zip(rows, begins, strict=True)):
            logp = network.lm(torch.tensor([row])).logits[0].log_softmax(-1)
            expected = -sum(float(logp[place - 1, row[place]]) for place in range(start, len(row)))
            assert float(nll[i]) == pytest.approx(expected, abs=1e-4) and int(tokens[i]) == len(row) - start
            assert float(rewards[i]) == pytest.approx(float(network(torch.tensor([row]))[0]), abs=1e-5)


# -- training -------------------------------------------------------------------------------------------------


def preference_rows(count=24, given=True) -> list[dict]:
    critiques = {"chosen_critique": "It says yes. Right.", "rejected_critique": "It says no. Wrong."} if given else {}
    return [
        {"prompt": f"Say {WORDS[i % 8]} {i}", "chosen": f"Yes: {WORDS[i % 8]}", "rejected": f"No, {WORDS[i % 8]}"}
        | critiques
        for i in range(count)
    ]


def write_rows(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings_of(base, **more) -> CritiqueSettings:
    plain = {"learning_rate": 3e-3, "batch_size": 4, "max_length": 400, "validation_share": 0.25, "epochs": 4}
    return CritiqueSettings(
        TrainingSettings(start=ModelSettings(base=str(base), dropout=0.0), **plain | more), 1.25, 24, 0.5
    )


def own(folder, rows):
    """An engine's critiques that say which side it was, as a good model's would."""
    for number, item_ in rows:
        yield number, tuple("A fine yes." if r.startswith("Yes") else "A poor no." for r in item_.responses)


def test_rows_bring_their_critiques_and_may_lack_them(tmp_path):
    rows = preference_rows(3)
    del rows[1]["chosen_critique"], rows[1]["rejected_critique"]
    rows[2]["rejected_critique"] = 5
    rows.append({"prompt": "a", "responses": ["x", "y"], "scores": [2, 1], "critiques": [None, "Wrong."]})
    found = dict(read_critique_rows(write_rows(tmp_path / "r.jsonl", rows), {}, None))
    assert found[1].meta["critiques"] == ("It says yes. Right.", "It says no. Wrong.")
    assert "critiques" not in found[2].meta and found[4].meta["critiques"] == (None, "Wrong.")
    assert found[3] == Failure("malformed", "a critique is not text")


def test_a_file_without_critiques_is_refused_with_the_row(tmp_path):
    file = write_rows(tmp_path / "r.jsonl", preference_rows(3, given=False))
    with pytest.raises(CannotRun, match="row 1: no 'chosen_critique'; stage 1"):
        list(read_critique_rows(file, {}, None))
    with pytest.raises(CannotRun, match="row 1: no 'why'"):
        list(read_critique_rows(file, {"chosen_critique": "why"}, None))


def test_incomplete_critiques_are_left_out_and_counted(tiny_decoder, tmp_path):
    items = read_critique_rows(write_rows(tmp_path / "r.jsonl", preference_rows(8)), {}, None)

    def write(folder, rows):
        for number, critiques in own(folder, rows):
            yield number, (critiques[0], Failure("truncated", "cut")) if number == 3 else critiques

    chosen = settings_of(tiny_decoder, epochs=1)
    trained = train_critiques(list(items), chosen, PROMPT, tmp_path / "m", write)
    assert trained.failures == {"truncated": 1} and trained.own_critiques == 16
    assert (
        trained.stages[1].counts == "8 rows, 7 comparisons, 0 prompts cut; dropped 1: a critique is incomplete (row 3)"
    )


def test_a_killed_run_resumes_after_the_last_complete_stage(tiny_decoder, tmp_path):
    items = list(read_critique_rows(write_rows(tmp_path / "r.jsonl", preference_rows(8)), {}, None))
    chosen, events = settings_of(tiny_decoder, epochs=1), []

    def killed(folder, rows):
        yield from list(own(folder, rows))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_critiques(items, chosen, PROMPT, tmp_path / "m", killed)
    assert not (tmp_path / "m").exists()

    def report(kind, values):
        events.append(values.get("name", kind))

    train_critiques(items, chosen, PROMPT, tmp_path / "m", own, report)
    assert "given critiques" not in events and "write" in events and "reward at the end" in events
    assert not (tmp_path / "m.training").exists() and (tmp_path / "m" / "head.safetensors").is_file()


def test_a_killed_stage_resumes_from_its_last_checkpoint_with_tied_weights(tiny_decoder, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    _, tokenizer = load_lm(str(tiny_decoder))
    config = AutoConfig.from_pretrained(tiny_decoder, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "tied")
    tokenizer.save_pretrained(tmp_path / "tied")
    items = list(read_critique_rows(write_rows(tmp_path / "r.jsonl", preference_rows(12)), {}, None))
    chosen = settings_of(tmp_path / "tied", epochs=4)

    def killed(kind, values):
        if kind == "evaluation" and values["step"] >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_critiques(items, chosen, PROMPT, tmp_path / "m", own, killed)
    steps: dict[str, list[int]] = {}

    def report(kind, values):
        if kind == "stage":
            steps[values["name"]] = []
        elif kind == "step":
            steps[list(steps)[-1]].append(values["step"])

    trained = train_critiques(items, chosen, PROMPT, tmp_path / "m", own, report)
    assert 1 < steps["given critiques"][0] <= 8 and steps["reward at the end"][0] == 1
    assert (
        trained.stages[0].history[0]["step"] == 0 and trained.stages[0].after["loss"] < trained.stages[0].before["loss"]
    )
    lm, _ = load_lm(str(tmp_path / "m"))
    assert lm.get_output_embeddings().weight is lm.get_input_embeddings().weight


def test_rows_that_do_not_fit_are_left_out_with_their_numbers(tiny_decoder, tmp_path):
    rows = preference_rows(8)
    rows[4]["chosen_critique"] = rows[4]["rejected_critique"] = "Right. " * 200
    items = list(read_critique_rows(write_rows(tmp_path / "r.jsonl", rows), {}, None))
    trained = train_critiques(items, settings_of(tiny_decoder, epochs=1), PROMPT, tmp_path / "m", own)
    assert trained.stages[0].counts.endswith("dropped 1: prompt and critique are too long (row 5)")
    assert "dropped" not in trained.stages[1].counts


def test_a_stage_of_other_rows_is_refused(tiny_decoder, tmp_path):
    items = list(read_critique_rows(write_rows(tmp_path / "r.jsonl", preference_rows(8)), {}, None))

    def killed(folder, rows):
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        train_critiques(items, settings_of(tiny_decoder, epochs=1), PROMPT, tmp_path / "m", killed)
    with pytest.raises(CannotRun, match="other rows or settings"):
        train_critiques(items[1:], settings_of(tiny_decoder, epochs=1), PROMPT, tmp_path / "m", own)


def losses_on(network, rows, critiques, compare):
    """(preference, critique) loss over rows, each conversation by itself, from their definitions."""
    _, tokenizer = load_lm(network["folder"])
    lm, head = network["lm"], network["head"]
    preference, nll, tokens = [], 0.0, 0
    with torch.no_grad():
        for number, item_ in rows:
            rewards = []
            for i, text in enumerate(critiques[number]):
                turn = encode_critique(tokenizer, TEMPLATE.render(item_, (i,)), text, 512)
                out = lm(torch.tensor([turn.ids]), output_hidden_states=True)
                logp = out.logits[0].log_softmax(-1)
                nll -= sum(float(logp[p - 1, turn.ids[p]]) for p in range(turn.start, len(turn.ids)))
                tokens += len(turn.ids) - turn.start
                rewards.append(float(head(out.hidden_states[-1][:, -1])) if compare else 0.0)
            preference.append(math.log1p(math.exp(rewards[1] - rewards[0])))
    return sum(preference) / len(preference), nll / tokens


@pytest.mark.slow
def test_each_stage_lowers_its_loss_on_what_it_trains_on(tiny_decoder, tmp_path):
    """End to end, with the model's own critiques by an engine; then its folder scores."""
    file = write_rows(tmp_path / "r.jsonl", preference_rows(24))
    kept = {}

    def keep(folder, trained):
        kept["stages"] = trained.stages
        kept["held"] = trained.held_out_rows

    items = list(read_critique_rows(file, {}, None))
    chosen = settings_of(tiny_decoder, epochs=12)
    from judges.cli.train_critiques import _critique_sampler

    engine = _critique_sampler(
        "critique-out-loud", "transformers", chosen, tmp_path / "m.training" / "completions.sqlite"
    )

    def write(folder, rows):
        kept["first"] = load_lm(str(folder))[0].eval()
        kept["own"] = dict(engine(folder, rows))
        yield from kept["own"].items()

    train_critiques(items, chosen, PROMPT, tmp_path / "m", write, finish=keep)
    base, first = initialise_lm(str(tiny_decoder))[0].eval(), kept["first"]
    learned = [(number, item_) for number, item_ in items if number not in kept["held"]]
    given = {number: item_.meta["critiques"] for number, item_ in learned}
    folder = str(tmp_path / "m")
    before = losses_on({"folder": folder, "lm": base, "head": None}, learned, given, False)[1]
    after = losses_on({"folder": folder, "lm": first, "head": None}, learned, given, False)[1]
    assert after < 0.5 * before

    whole = [(n, i) for n, i in learned if all(isinstance(c, str) for c in kept["own"][n])]
    assert len(whole) > len(learned) / 2, "most of its own critiques end"
    torch.manual_seed(chosen.training.seed)
    fresh = CritiqueNetwork(first).eval()
    last = CritiqueRewardModel(folder).network
    was = losses_on({"folder": folder, "lm": first, "head": fresh.head}, whole, kept["own"], True)
    now = losses_on({"folder": folder, "lm": last.lm, "head": last.head}, whole, kept["own"], True)
    assert now[0] < was[0] and now[0] + 1.25 * now[1] < was[0] + 1.25 * was[1]
    for stage in kept["stages"]:
        assert stage.after["loss"] < stage.before["loss"], "held-out prompts"
    assert read_statistics(folder)["deviation"] > 0


@pytest.mark.slow
def test_the_command_leaves_a_model_a_plot_and_a_card_and_the_model_scores(tiny_decoder, tmp_path, capsys):
    file = write_rows(tmp_path / "r.jsonl", preference_rows(16))
    out = tmp_path / "m"
    run(
        file,
        out,
        {"base": str(tiny_decoder), "learning_rate": 3e-3, "batch_size": 4, "max_length": 400, "epochs": 10},
        critique_weight=1.25,
        critique_tokens=24,
        critique_temperature=0.0,
        template="",
        engine="transformers",
        mapping={},
        test=write_rows(tmp_path / "t.jsonl", preference_rows(4)),
        limit=None,
        quality=False,
        if_missing=False,
        quiet=False,
    )
    card = (out / "README.md").read_text()
    for expected in ("16 rows, 16 comparisons", "incomplete and left out:", "given critiques, before", "bag of words"):
        assert expected in card
    output = capsys.readouterr()
    assert "own critiques: 32 to write" in output.err and "held-out" in output.err and "| all | 4 |" in output.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "r.jsonl", "t.jsonl"]
    assert (out / "training.png").read_bytes()[:4] == b"\x89PNG"
    with load_scorer("critique-out-loud", model=str(out), engine="transformers") as judge:
        (card,) = judge.score([item()])
    assert all(j.read == "head" and j.critique for j in card.judgments if j.score is not None)
    assert any(j.score is not None for j in card.judgments)


@pytest.mark.parametrize("wrong", [["--lora", "4"], ["--kind", "bradley-terry", "--critique-weight", "1"]])
def test_an_option_of_the_other_kind_is_refused(wrong, tmp_path):
    from typer.testing import CliRunner

    from judges.cli.app import app

    done = CliRunner().invoke(app, ["train", "x.jsonl", "-o", str(tmp_path), "--kind", "critique-out-loud", *wrong])
    assert isinstance(done.exception, CannotRun) and wrong[-2] in str(done.exception)
