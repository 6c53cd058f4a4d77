"""Small tokenizers and chat templates with the structure of well-known families; nothing is downloaded.

The templates are written here after what each family is known for: which strings open and close a turn, what is
trimmed, where a system turn goes, what is read out of a message. The tokenizers are trained on a few lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A default system turn; old answers lose what stands before </think>; tool results are told by their brackets.
QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a careful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% set content = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if content.startswith('<tool_response>') %}<|im_start|>tool\n{{ content }}<|im_end|>\n"
    "{% elif loop.last and m.role == 'assistant' %}"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n{{ content }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# The system turn goes into the last user turn; answers are trimmed.
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {% if loop.last and system %}{{ system }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
# The system turn goes before the first user turn, all is trimmed, the assistant is called model.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ system if loop.first }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# Nothing stands between a control token and the text; thinking is taken out of old answers.
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# The text stands right beside the control tokens: a combining mark that opens it would change the one before it.
CLOSE = (
    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
WORDS = (
    "The quick brown fox says hello to the world, and im_start im_end end_of_turn start_of_turn INST user model "
    "assistant system |> <| </ [/ think tool_call begin of sentence header_id eot_id Score: 10 评分：十 "
)


@dataclass(frozen=True)
class Family:
    """`special` and `plain` are added tokens, a string or an AddedToken; `bos` and `eos` are among them."""

    template: str
    special: tuple[Any, ...]
    plain: tuple[Any, ...] = ()
    kind: str = "bytes"  # or "sentencepiece"
    normalizer: Any = None
    bos: str | None = None
    eos: str | None = None
    in_vocabulary: bool = False  # the model's own vocabulary holds the control strings too
    ignore_merges: bool = False

    @property
    def control(self) -> list[str]:
        return [str(token) for token in (*self.special, *self.plain)]


FAMILIES = {
    "chatml": Family(CHATML, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), in_vocabulary=True, eos="<|im_end|>"),
    "qwen": Family(
        QWEN,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
        normalizer=normalizers.NFC(),
        eos="<|im_end|>",
    ),
    "llama3": Family(
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        ignore_merges=True,
    ),
    "mistral": Family(
        MISTRAL,
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
        kind="sentencepiece",
        bos="<s>",
        eos="</s>",
    ),
    "mistral-v1": Family(MISTRAL, ("<unk>", "<s>", "</s>"), kind="sentencepiece", bos="<s>", eos="</s>"),
    "gemma": Family(
        GEMMA,
        ("<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        ("<h1>", "<unused0>", "\n\n\n"),
        kind="sentencepiece",
        normalizer=normalizers.Replace(" ", "▁"),
        bos="<bos>",
        eos="<eos>",
    ),
    "deepseek": Family(
        DEEPSEEK,
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁calls▁begin｜>"),
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
    ),
    # Control tokens that swallow the white space beside them.
    "phi": Family(
        PHI,
        tuple(
            AddedToken(f"<|{name}|>", special=True, rstrip=True, lstrip=name == "end", normalized=False)
            for name in ("system", "user", "assistant", "end", "endoftext")
        ),
    ),
    # Control tokens looked for after a normalizer: "<|IM_END|>" and "＜｜im_end｜＞" become one too.
    "folding": Family(
        CLOSE,
        tuple(AddedToken(t, special=True, normalized=True) for t in ("<|im_start|>", "<|im_end|>")),
        (AddedToken("<Tool>", normalized=True),),
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
    ),
}


@cache
def tokenizer_of(name: str) -> Any:
    """The family's tokenizer, with its template."""
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    build = _byte_level if family.kind == "bytes" else _sentencepiece
    named = {key: token for key, token in (("bos_token", family.bos), ("eos_token", family.eos)) if token}
    if "<unk>" in family.control:
        named["unk_token"] = "<unk>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build(family), **named)
    tokenizer.add_tokens(list(family.plain))
    tokenizer.add_tokens(list(family.special), special_tokens=True)
    tokenizer.chat_template = family.template
    return tokenizer


def _byte_level(family: Family) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own = family.control if family.in_vocabulary else []
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=own, show_progress=False, min_frequency=1
    )
    trained.train_from_iterator([WORDS] * 3, trainer)
    trained.model.ignore_merges = family.ignore_merges
    trained.decoder = decoders.ByteLevel()
    if family.normalizer is not None:
        trained.normalizer = family.normalizer
    return trained


def _sentencepiece(family: Family) -> Tokenizer:
    """Spaces are "▁", and what the vocabulary lacks becomes bytes; one of them puts a "▁" before the text."""
    import json

    prefixed = family.normalizer is None
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    learner.train_from_iterator(
        [WORDS] * 3, trainers.BpeTrainer(vocab_size=200, show_progress=False, min_frequency=1, initial_alphabet=["\n"])
    )
    model = json.loads(learner.to_str())["model"]
    first = [*(t for t in family.control if t != "\n\n\n"), *(f"<0x{i:02X}>" for i in range(256))]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*first, *model["vocab"]]))}
    merges = [tuple(pair) for pair in model["merges"]]
    built = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if prefixed:
        built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        built.normalizer = family.normalizer
    built.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if prefixed else [])
    )
    return built
