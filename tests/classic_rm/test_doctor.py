"""The doctor finds each defect of broken models, and none in a sound one."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from classic_rm.doctor import examine
from classic_rm.model import initialise_model, reward_head, save_model
from classic_rm.settings import ModelSettings
from judges.cli.app import app
from judges.errors import CannotRun

WORSE = ("warning", "fault")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """A second thread slows models of this size down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def checkpoint(tiny_decoder, tmp_path):
    """(model, tokenizer, save): save() writes their current state and returns the folder."""
    model, tokenizer = initialise_model(ModelSettings(base=str(tiny_decoder)))

    def save():
        folder = tmp_path / "model"
        save_model(model, tokenizer, folder, {})
        return folder

    return model, tokenizer, save


def findings(folder, **more):
    """The worst finding of each check."""
    order = ("ok", "note", "warning", "fault")
    found = {}
    for finding in examine(str(folder), **more):
        assert finding.message.endswith(".") and finding.advice.endswith("."), finding
        if finding.check not in found or order.index(finding.level) > order.index(found[finding.check].level):
            found[finding.check] = finding
    return found


def set_in(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def wrong(found):
    return {check for check, finding in found.items() if finding.level in WORSE}


def test_a_healthy_model_has_nothing_worse_than_a_note(checkpoint):
    found = findings(checkpoint[2]())
    assert not wrong(found), found
    assert {"head", "pad", "template", "bos", "truncation", "weights", "position", "batch", "dtype", "ties"} < set(
        found
    )
    assert found["assay"].level == "ok" and "computed each prompt once" in found["assay"].message


def test_pad_equal_to_eos_is_found_with_the_difference_of_rewards(checkpoint):
    model, tokenizer, save = checkpoint
    tokenizer.chat_template = tokenizer.chat_template.replace("'<|im_end|>' + '\n'", "'<|im_end|>'")
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    found = findings(save())
    assert found["pad"].level == "fault" and "also eos" in found["pad"].message
    assert "1 too early" in found["pad"].message and "% of their spread" in found["pad"].message
    assert found["assay"].level == "ok"  # which reads the last attended token


def test_pad_equal_to_eos_behind_a_template_that_hides_it_is_a_warning(checkpoint):
    model, tokenizer, save = checkpoint
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    assert findings(save())["pad"].level == "warning"


def remove_config_pad(model, tokenizer):
    model.config.pad_token_id = None


def remove_pad(model, tokenizer):
    model.config.pad_token_id = tokenizer.pad_token = None


def remove_template(model, tokenizer):
    tokenizer.chat_template = None


def limit_on_the_right(model, tokenizer):
    tokenizer.model_max_length = 40
    tokenizer.truncation_side = "right"


def bos_in_template_and_tokenizer(model, tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )


def two_bos_in_template(model, tokenizer):
    bos_in_template_and_tokenizer(model, tokenizer)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template


def bos_in_tokenizer_alone(model, tokenizer):
    bos_in_template_and_tokenizer(model, tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.removeprefix("{{ bos_token }}")


def zero_head(model, tokenizer):
    with torch.no_grad():
        reward_head(model).weight.zero_()


def round_weights(model, tokenizer):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                steps, scale = rounded(module.weight)
                module.weight.copy_(steps * scale)


@pytest.mark.parametrize(
    ("change", "check", "level", "fragments"),
    [
        (remove_config_pad, "pad", "fault", ["no pad token"]),
        (remove_config_pad, "batch", "fault", []),
        (remove_pad, "pad", "fault", ["no pad token"]),
        (remove_pad, "batch", "fault", []),
        (remove_template, "template", "fault", ["no chat template", "TRL", "RewardBench", "pairs in another order"]),
        (bos_in_template_and_tokenizer, "bos", "warning", ["doubled", "rewards then differ"]),
        (two_bos_in_template, "bos", "fault", ["writes 2 BOS"]),
        (bos_in_tokenizer_alone, "bos", "warning", ["add_bos=true"]),
        (limit_on_the_right, "truncation", "fault", ["cut to 40 on the right", "0 % of the response is left"]),
        (zero_head, "head", "fault", ["weights of the head are 0"]),
        (round_weights, "weights", "warning", ["8 bits a row"]),
    ],
)
def test_a_defect_is_found(checkpoint, change, check, level, fragments):
    model, tokenizer, save = checkpoint
    change(model, tokenizer)
    finding = findings(save())[check]
    assert finding.level == level
    assert all(fragment in finding.message + finding.advice for fragment in fragments)


def test_a_pad_token_that_the_config_does_not_know_is_found(checkpoint):
    model, _, save = checkpoint
    model.config.pad_token_id = 5
    found = findings(save())
    assert found["pad"].level == found["position"].level == "fault" and "read at its padding" in found["pad"].message
    assert "padding tokens change it" in found["position"].message and found["assay"].level == "ok"


def test_a_template_that_fails_is_the_only_finding(checkpoint):
    _, tokenizer, save = checkpoint
    tokenizer.chat_template = "{{ raise_exception('only prompts') }}"
    found = findings(save())
    assert set(found) == {"template"} and "only prompts" in found["template"].message


COUNTS = '''
import torch
from transformers import LlamaForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput


class Counting(LlamaForSequenceClassification):
    """Reads where the count of attended tokens points: right only where padding is on the right."""

    def forward(self, input_ids, attention_mask, **kwargs):
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = attention_mask.sum(-1) - 1
        return SequenceClassifierOutput(logits=self.score(states[torch.arange(len(last)), last]))
'''


def test_left_padding_read_as_if_it_were_on_the_right_is_found(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = checkpoint[2]()
    (folder / "counting.py").write_text(COUNTS)
    set_in(folder / "config.json", auto_map={"AutoModelForSequenceClassification": "counting.Counting"})
    set_in(folder / "tokenizer_config.json", padding_side="left")
    found = findings(folder, remote_code=True)
    assert found["position"].level == found["batch"].level == "fault"
    assert "padded on the right, token 10 of 10 is the last that changes it" in found["position"].message
    assert "padded on the left, token 6 of 10 is the last that changes it" in found["position"].message
    assert "padding_side to right" in found["position"].advice
    assert found["padding"].level == "ok"  # on the right


def test_an_encoder_that_its_tokenizer_pads_on_the_left_is_found(tiny_encoder, tmp_path):
    model, tokenizer = initialise_model(ModelSettings(base=str(tiny_encoder)))
    save_model(model, tokenizer, tmp_path / "right", {})
    assert not wrong(findings(tmp_path / "right"))
    tokenizer.padding_side = "left"
    save_model(model, tokenizer, tmp_path / "left", {})
    found = findings(tmp_path / "left")
    assert found["position"].level == "fault" and "padding tokens change it" in found["position"].message


def rounded(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round(), scale


def as_int8(folder, scales):
    """The checkpoint's layers as int8 tensors, with or without their scales."""
    from safetensors.torch import load_file, save_file

    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensors[name] = tensor
        if name.endswith("proj.weight"):
            steps, scale = rounded(tensor)
            tensors[name] = steps.to(torch.int8)
            if scales:
                tensors[f"{name}_scale"] = scale
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_int8_tensors_without_a_scale_are_found(checkpoint):
    folder = checkpoint[2]()
    as_int8(folder, scales=False)
    found = findings(folder)
    assert (
        found["weights"].level == "fault" and "I8" in found["weights"].message and "scale" in found["weights"].message
    )


def test_an_int8_checkpoint_is_found(checkpoint):
    pytest.importorskip("compressed_tensors")
    folder = checkpoint[2]()
    as_int8(folder, scales=True)
    eight = {"num_bits": 8, "type": "int", "symmetric": True}
    layers = {
        "targets": ["Linear"],
        "weights": {**eight, "strategy": "channel"},
        "input_activations": {**eight, "strategy": "token", "dynamic": True},
    }
    how = {"quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed"}
    how |= {"ignore": ["score"], "config_groups": {"group_0": layers}}
    set_in(folder / "config.json", quantization_config=how)
    found = findings(folder)
    assert (
        found["weights"].level == "warning" and "8-bit quantisation by 'compressed-tensors'" in found["weights"].message
    )
    assert found["head"].level == found["batch"].level == "ok"


def test_a_missing_quantisation_library_is_reported(checkpoint, monkeypatch):
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_8bit.is_accelerate_available", lambda *_: False)
    folder = checkpoint[2]()
    set_in(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    found = findings(folder)
    assert found["load"].level == "fault" and "bitsandbytes" in found["weights"].message
    assert found["template"].level == "ok"  # what needs no weights is examined all the same


def test_ties_of_bfloat16_are_found(checkpoint):
    model, _, save = checkpoint
    with torch.no_grad():  # a reward far from 0 leaves few bits for what differs
        model.get_input_embeddings().weight[:, 0] = 0.5
        reward_head(model).weight[0] *= 10
        reward_head(model).weight[0, 0] = 1.0
    found = findings(save())
    assert found["ties"].level not in WORSE and found["dtype"].level == "ok"
    model.to(torch.bfloat16)
    found = findings(save())
    assert found["ties"].level == "fault" and "share their reward exactly" in found["ties"].message
    assert found["ties"].message.endswith(("in float32 0.", "in float32 2.")) and "float32" in found["ties"].advice
    assert found["dtype"].level in WORSE and "bfloat16" in found["dtype"].message
    assert found["assay"].level == "ok" and found["head"].level == "ok"


def test_a_head_that_is_not_in_the_checkpoint_is_found(checkpoint):
    from safetensors.torch import load_file, save_file

    folder = checkpoint[2]()
    tensors = load_file(folder / "model.safetensors")
    tensors["v_head.weight"] = tensors.pop("score.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = findings(folder)
    assert found["head"].level == "fault"
    assert "no score.weight" in found["head"].message and "v_head.weight" in found["head"].message
    assert found["assay"].level == "warning" and "lacks weights" in found["assay"].message


def test_a_head_of_two_labels_is_found(tiny_decoder, tmp_path):
    model, tokenizer = initialise_model(ModelSettings(base=str(tiny_decoder), heads=2))
    save_model(model, tokenizer, tmp_path / "two", {})
    found = findings(tmp_path / "two")
    assert found["head"].level == "fault" and "2 labels" in found["head"].message and found["assay"].level == "warning"
    save_model(model, tokenizer, tmp_path / "ensemble", {"heads": 2})
    assert findings(tmp_path / "ensemble")["head"].level == "ok"


def test_a_model_in_the_catalog_is_reported_with_its_quirks(checkpoint, tmp_path, monkeypatch):
    folder = checkpoint[2]()
    (tmp_path / "Skywork").mkdir()
    folder.rename(tmp_path / "Skywork" / "Skywork-Reward-Llama-3.1-8B-v0.2")
    monkeypatch.chdir(tmp_path)
    found = findings("Skywork/Skywork-Reward-Llama-3.1-8B-v0.2")
    assert "skywork-reward" in found["known"].message and "assay models show skywork-reward" in found["known"].advice


def test_a_judge_has_the_checks_of_judges(tiny_decoder):
    found = findings(tiny_decoder)
    assert not wrong(found) and {"end", "template", "bos", "batch", "padding"} < set(found)
    assert "ties" not in found and found["padding"].level == "note"  # its tokenizer pads on the right


def test_a_judge_that_does_not_stop_where_its_template_ends_a_turn_is_found(tiny_decoder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    model.generation_config.eos_token_id = 0
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = findings(tmp_path)
    assert found["end"].level == "warning" and "<|im_end|>" in found["end"].message
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    assert findings(tmp_path)["template"].level == "fault"


def test_the_exit_code_is_1_with_warnings_or_faults(checkpoint, tmp_path):
    model, _, save = checkpoint
    healthy = CliRunner().invoke(app, ["doctor", str(save())])
    assert healthy.exit_code == 0 and "0 warnings, 0 faults" in healthy.output
    with torch.no_grad():
        reward_head(model).weight.zero_()
    broken = CliRunner().invoke(app, ["doctor", str(save()), "--quiet"])
    lines = broken.stdout.splitlines()
    assert broken.exit_code == 1 and lines[0].startswith("fault   head") and "ok" not in broken.stdout.split()
    with pytest.raises(CannotRun, match="no model folder"):
        list(examine(str(tmp_path / "nowhere")))
