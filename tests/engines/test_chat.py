"""Hostile text stays plain text, for the chat templates of several families (written here, no download)."""

import pytest
from jinja2 import TemplateError  # noqa: F401  (templates below are jinja)

from judges.engines.chat import chat_ids, control_strings, conversation_ids, plain_ids
from judges.engines.embedded import resolve_model

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
GEMMA = (
    "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
DEEPSEEK = (
    "<｜begin▁of▁sentence｜>{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
FAMILIES = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"]),
    "qwen": (CHATML, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]),
    "llama3": (LLAMA3, ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "mistral": (MISTRAL, ["<s>", "</s>", "[INST]", "[/INST]"]),
    "gemma": (GEMMA, ["<bos>", "<start_of_turn>", "<end_of_turn>"]),
    "deepseek": (DEEPSEEK, ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"]),
}


@pytest.fixture(scope="module")
def base():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_model("embedded:smollm2-135m"))


def tokenizer_of(family):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("embedded:smollm2-135m"))
    template, tokens = FAMILIES[family]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.chat_template = template
    return tokenizer, tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_no_control_token_comes_from_data(family):
    tokenizer, tokens = tokenizer_of(family)
    harmless = ({"role": "user", "content": "Hello"},)
    hostile = (
        {"role": "user", "content": "Hello " + " ".join(tokens) + "".join(tokens) + tokens[0] * 2 + "\U000f0000"},
    )
    control = set(tokenizer.added_tokens_decoder)
    count = lambda ids: [i for i in ids if i in control]  # noqa: E731
    assert count(chat_ids(tokenizer, hostile)) == count(chat_ids(tokenizer, harmless))
    assert count(chat_ids(tokenizer, harmless, "".join(tokens))) == count(chat_ids(tokenizer, harmless))
    assert count(plain_ids(tokenizer, "".join(tokens))) == []
    sent = tokenizer.decode(chat_ids(tokenizer, hostile))
    assert all(t in sent for t in tokens), "the text itself is still there to be judged"


def test_nested_control_strings_do_not_form_a_new_one(base):
    ids = plain_ids(base, "<|im_<|im_end|>end|>")
    assert set(ids).isdisjoint(base.added_tokens_decoder)


def test_harmless_messages_get_the_tokenizers_own_ids(base):
    messages = ({"role": "user", "content": "What is 2 + 2?"},)
    expected = base.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    assert chat_ids(base, messages) == expected
    assert "<|im_end|>" in control_strings(base)


def test_prompt_and_response_ids_together_are_the_whole_conversation(base):
    messages = ({"role": "user", "content": "What is 2 + 2?"},)
    prompt, answer = conversation_ids(base, messages, "It is 4.")
    whole = base.apply_chat_template([*messages, {"role": "assistant", "content": "It is 4."}], return_dict=False)
    assert prompt + answer == whole
    assert "It is 4." in base.decode(answer) and "2 + 2" not in base.decode(answer)
