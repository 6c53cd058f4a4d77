"""The doctor names what is wrong with models made broken for it, and finds nothing in a healthy one."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from classic_rm.doctor import examine
from classic_rm.model import begin, head, save_model
from classic_rm.settings import Start
from judges.cli.app import app
from judges.errors import CannotRun

WORSE = ("warning", "fault")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small only wait for a second thread, most of all beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def made(tiny_decoder, tmp_path):
    """(model, tokenizer, keep): keep() saves them as they then are, and tells the folder."""
    model, tokenizer = begin(Start(base=str(tiny_decoder)))

    def keep():
        folder = tmp_path / "model"
        save_model(model, tokenizer, folder, {})
        return folder

    return model, tokenizer, keep


def findings(folder, **more):
    """By check: the worst finding of each."""
    order = ("ok", "note", "warning", "fault")
    found = {}
    for finding in examine(str(folder), **more):
        assert finding.what.endswith(".") and finding.do.endswith("."), finding
        if finding.check not in found or order.index(finding.level) > order.index(found[finding.check].level):
            found[finding.check] = finding
    return found


def set_in(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def wrong(found):
    return {check for check, finding in found.items() if finding.level in WORSE}


def test_a_healthy_model_has_nothing_worse_than_a_note(made):
    found = findings(made[2]())
    assert not wrong(found), found
    assert {"head", "pad", "template", "bos", "truncation", "weights", "place", "batch", "dtype", "ties"} < set(found)
    assert found["assay"].level == "ok" and "computed each prompt once" in found["assay"].what


def test_pad_equal_to_eos_is_named_with_the_difference(made):
    model, tokenizer, keep = made
    tokenizer.chat_template = tokenizer.chat_template.replace("'<|im_end|>' + '\n'", "'<|im_end|>'")
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    found = findings(keep())
    assert found["pad"].level == "fault" and "also eos" in found["pad"].what
    assert "1 too early" in found["pad"].what and "% of their spread" in found["pad"].what
    assert found["assay"].level == "ok"  # which reads the last attended token


def test_pad_equal_to_eos_behind_a_template_that_hides_it_is_a_warning(made):
    model, tokenizer, keep = made
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    assert findings(keep())["pad"].level == "warning"


@pytest.mark.parametrize("where", ["config", "both"])
def test_a_missing_pad_token_is_named(made, where):
    model, tokenizer, keep = made
    model.config.pad_token_id = None
    if where == "both":
        tokenizer.pad_token = None
    found = findings(keep())
    assert found["pad"].level == found["batch"].level == "fault" and "no pad token" in found["pad"].what


def test_a_pad_token_that_the_config_does_not_know_is_named(made):
    model, _, keep = made
    model.config.pad_token_id = 5
    found = findings(keep())
    assert found["pad"].level == found["place"].level == "fault" and "read at its padding" in found["pad"].what
    assert "padding tokens move it" in found["place"].what and found["assay"].level == "ok"


def test_a_missing_chat_template_is_named(made):
    _, tokenizer, keep = made
    tokenizer.chat_template = None
    found = findings(keep())
    assert found["template"].level == "fault" and "no chat template" in found["template"].what
    assert "TRL" in found["template"].what and "RewardBench" in found["template"].what
    assert "pairs in another order" in found["template"].what


def test_a_template_that_fails_is_told_and_nothing_else_is_tried(made):
    _, tokenizer, keep = made
    tokenizer.chat_template = "{{ raise_exception('only prompts') }}"
    found = findings(keep())
    assert set(found) == {"template"} and "only prompts" in found["template"].what


def with_bos(tokenizer):
    """A BOS of its own, which the template writes once and the tokenizer too."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )


def test_a_bos_that_tokenizing_again_doubles_is_named(made):
    _, tokenizer, keep = made
    with_bos(tokenizer)
    found = findings(keep())
    assert (
        found["bos"].level == "warning" and "doubled" in found["bos"].what and "rewards then move" in found["bos"].what
    )


def test_a_template_that_writes_two_bos_is_named(made):
    _, tokenizer, keep = made
    with_bos(tokenizer)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    found = findings(keep())
    assert found["bos"].level == "fault" and "writes 2 BOS" in found["bos"].what


def test_a_template_without_the_bos_that_the_tokenizer_adds_is_named(made):
    _, tokenizer, keep = made
    with_bos(tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.removeprefix("{{ bos_token }}")
    found = findings(keep())
    assert found["bos"].level == "warning" and "add_bos=true" in found["bos"].do


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


def test_left_padding_read_as_if_it_were_on_the_right_is_named(made, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = made[2]()
    (folder / "counting.py").write_text(COUNTS)
    set_in(folder / "config.json", auto_map={"AutoModelForSequenceClassification": "counting.Counting"})
    set_in(folder / "tokenizer_config.json", padding_side="left")
    found = findings(folder, remote_code=True)
    assert found["place"].level == found["batch"].level == "fault"
    assert "padded on the right, token 10 of 10 is the last that moves it" in found["place"].what
    assert "padded on the left, token 6 of 10 is the last that moves it" in found["place"].what
    assert "padding_side to right" in found["place"].do
    assert found["padding"].level == "ok"  # on the right


def test_an_encoder_that_its_tokenizer_pads_on_the_left_is_named(tiny_encoder, tmp_path):
    model, tokenizer = begin(Start(base=str(tiny_encoder)))
    save_model(model, tokenizer, tmp_path / "right", {})
    assert not wrong(findings(tmp_path / "right"))
    tokenizer.padding_side = "left"
    save_model(model, tokenizer, tmp_path / "left", {})
    found = findings(tmp_path / "left")
    assert found["place"].level == "fault" and "padding tokens move it" in found["place"].what


def rounded(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round(), scale


def test_weights_rounded_to_int8_and_written_back_are_named(made):
    model, _, keep = made
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                steps, scale = rounded(module.weight)
                module.weight.copy_(steps * scale)
    found = findings(keep())
    assert found["weights"].level == "warning" and "8 bits a row" in found["weights"].what


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


def test_int8_tensors_without_a_scale_are_named(made):
    folder = made[2]()
    as_int8(folder, scales=False)
    found = findings(folder)
    assert found["weights"].level == "fault" and "I8" in found["weights"].what and "scale" in found["weights"].what


def test_an_int8_checkpoint_is_named(made):
    pytest.importorskip("compressed_tensors")
    folder = made[2]()
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
    assert found["weights"].level == "warning" and "8-bit quantisation by 'compressed-tensors'" in found["weights"].what
    assert found["head"].level == found["batch"].level == "ok"


def test_weights_that_need_a_library_that_is_not_there_are_told(made, monkeypatch):
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_8bit.is_accelerate_available", lambda *_: False)
    folder = made[2]()
    set_in(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    found = findings(folder)
    assert found["load"].level == "fault" and "bitsandbytes" in found["weights"].what
    assert found["template"].level == "ok"  # what needs no weights is examined all the same


def test_ties_of_bfloat16_are_named(made):
    model, _, keep = made
    with torch.no_grad():  # a reward far from 0 leaves few bits for what differs
        model.get_input_embeddings().weight[:, 0] = 0.5
        head(model).weight[0] *= 10
        head(model).weight[0, 0] = 1.0
    found = findings(keep())
    assert found["ties"].level not in WORSE and found["dtype"].level == "ok"
    model.to(torch.bfloat16)
    found = findings(keep())
    assert found["ties"].level == "fault" and "share their reward exactly" in found["ties"].what
    assert found["ties"].what.endswith(("in float32 0.", "in float32 2.")) and "float32" in found["ties"].do
    assert found["dtype"].level in WORSE and "bfloat16" in found["dtype"].what
    assert found["assay"].level == "ok" and found["head"].level == "ok"


def test_a_head_that_is_not_in_the_checkpoint_is_named(made):
    from safetensors.torch import load_file, save_file

    folder = made[2]()
    tensors = load_file(folder / "model.safetensors")
    tensors["v_head.weight"] = tensors.pop("score.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = findings(folder)
    assert found["head"].level == "fault"
    assert "no score.weight" in found["head"].what and "v_head.weight" in found["head"].what
    assert found["assay"].level == "warning" and "lacks weights" in found["assay"].what


def test_a_head_of_zeros_is_named(made):
    model, _, keep = made
    with torch.no_grad():
        head(model).weight.zero_()
    found = findings(keep())
    assert found["head"].level == "fault" and "weights of the head are 0" in found["head"].what


def test_a_head_of_two_labels_is_named(tiny_decoder, tmp_path):
    model, tokenizer = begin(Start(base=str(tiny_decoder), heads=2))
    save_model(model, tokenizer, tmp_path / "two", {})
    found = findings(tmp_path / "two")
    assert found["head"].level == "fault" and "2 labels" in found["head"].what and found["assay"].level == "warning"
    save_model(model, tokenizer, tmp_path / "ensemble", {"heads": 2})
    assert findings(tmp_path / "ensemble")["head"].level == "ok"


def test_a_known_model_is_told_with_its_quirks(made, tmp_path, monkeypatch):
    folder = made[2]()
    (tmp_path / "Skywork").mkdir()
    folder.rename(tmp_path / "Skywork" / "Skywork-Reward-Llama-3.1-8B-v0.2")
    monkeypatch.chdir(tmp_path)
    found = findings("Skywork/Skywork-Reward-Llama-3.1-8B-v0.2")
    assert "skywork-reward" in found["known"].what and "assay models show skywork-reward" in found["known"].do


def test_truncation_that_takes_the_response_is_named(made):
    _, tokenizer, keep = made
    tokenizer.model_max_length = 40
    tokenizer.truncation_side = "right"
    found = findings(keep())
    assert found["truncation"].level == "fault" and "cut to 40 on the right" in found["truncation"].what
    assert "0 % of the response is left" in found["truncation"].what


def test_a_judge_is_examined_as_one(tiny_decoder):
    found = findings(tiny_decoder)
    assert not wrong(found) and {"end", "template", "bos", "batch", "padding"} < set(found)
    assert "ties" not in found and found["padding"].level == "note"  # its tokenizer pads on the right


def test_a_judge_that_does_not_stop_where_its_template_ends_a_turn_is_named(tiny_decoder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    model.generation_config.eos_token_id = 0
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = findings(tmp_path)
    assert found["end"].level == "warning" and "<|im_end|>" in found["end"].what
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    assert findings(tmp_path)["template"].level == "fault"


def test_the_command_tells_by_its_exit_code(made, tmp_path):
    model, _, keep = made
    healthy = CliRunner().invoke(app, ["doctor", str(keep())])
    assert healthy.exit_code == 0 and "0 warnings, 0 faults" in healthy.output
    with torch.no_grad():
        head(model).weight.zero_()
    broken = CliRunner().invoke(app, ["doctor", str(keep()), "--quiet"])
    lines = broken.stdout.splitlines()
    assert broken.exit_code == 1 and lines[0].startswith("fault   head") and "ok" not in broken.stdout.split()
    with pytest.raises(CannotRun, match="no model folder"):
        list(examine(str(tmp_path / "nowhere")))
