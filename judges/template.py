"""Prompt templates of judges: files of YAML front matter and a jinja body, checked and rendered to chat messages."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.sandbox
import yaml

from judges.engines.base import RequestFailed
from judges.errors import CannotRun
from judges.plugins import unknown_name
from judges.types import Item, Message, Read, Scale

# pointwise: a rationale and its verdict in one completion; score: the verdict alone; critique: a critique, and the
# verdict in a second step; pairwise and listwise: which of two, or of several, responses is the best.
Kind = Literal["pointwise", "score", "critique", "pairwise", "listwise"]
KINDS = ("pointwise", "score", "critique", "pairwise", "listwise")
_KINDS_WITH_SCALE = KINDS[:3]
_REQUIRED = {"name", "kind", "language", "announcement", "version", "source"}
_OPTIONAL = {"description", "system", "scale", "labels", "read"}
# How a verdict may be read, by kind; the first is the default.
READS: dict[str, tuple[Read, ...]] = {
    "pointwise": ("text", "json", "expected", "forced"),
    "score": ("expected", "forced", "text"),
    "critique": ("expected", "text", "forced", "head"),
    "pairwise": ("text", "json", "expected", "forced"),
    "listwise": ("text", "json", "expected", "forced"),
}
_FENCE = "=" * 8
# Equals signs, characters that look like them, and invisible ones between them: combining marks, joiners.
_EQUALS = "=\u1400\u207c\u208c\u2261\u2263\u2550\u268c\u2a75\u2a76\u2e40\u30a0\ua4ff\ua78a\ufe66\uff1d\U0001f7f0"
_INVISIBLE = (
    "\u00ad\u0300-\u036f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff"
)
_SIGN = f"[{_EQUALS}][{_INVISIBLE}]*"
_RUN = re.compile(f"(?:{_SIGN}){{4,}}")
_THREE_SIGNS = re.compile(f"(?:{_SIGN}){{3}}(?=[{_EQUALS}])")


@dataclass(frozen=True)
class Template:
    """A prompt file. `announcement` precedes the verdict, which is one of `labels`.

    Pointwise, score and critique templates have the labels of their `scale`. A pairwise template has the labels of
    the first response, the second one, and a tie (where it has ties). A listwise one has none: its labels are the
    numbers of the responses. `read` is how the verdict is read: "text", "json", "expected", "forced", or several
    joined by "+", of which the first gives the score.
    """

    name: str
    kind: Kind
    language: str
    scale: Scale
    labels: tuple[str, ...]
    read: str
    announcement: str
    version: str
    source: str
    description: str
    system: str | None
    body: str
    path: Path

    @property
    def scaled(self) -> bool:
        """Whether the verdict is a number on a scale."""
        return self.kind in _KINDS_WITH_SCALE

    @property
    def digest(self) -> str:
        """Twelve hex digits of everything that a judge reads: it changes when a word of the prompt does."""
        labels = ",".join(self.labels)
        parts = [self.kind, str(self.scale), labels, self.read, self.announcement, self.system or "", self.body]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]

    def render(self, item: Item, responses: tuple[int, ...]) -> tuple[Message, ...]:
        """The chat messages that ask to judge the responses with these indices.

        Every text under judgment is fenced, and a run of what looks like the fence inside it is broken, so that it
        cannot close the fence. Raises CannotRun where the body cannot be rendered, RequestFailed for an invalid role.
        """
        texts = [_fenced(item.responses[i]) for i in responses]
        values: dict[str, Any] = {
            "question": _question(item),
            "response": texts[0],
            "responses": texts,
            "reference": None if item.reference is None else _fenced(item.reference),
            "rubric": None if item.rubric is None else _fenced(item.rubric),
            "scale": self.scale,
            "labels": self.labels,
            "announcement": self.announcement,
        }
        try:
            text = _compiled(self.body).render(values)
        except jinja2.TemplateError as error:
            raise CannotRun(f"template {self.path}: {error}") from error
        user: Message = {"role": "user", "content": text.strip()}
        return ({"role": "system", "content": self.system}, user) if self.system else (user,)

    def verdict_question(self, labels: tuple[str, ...], as_json: bool) -> str:
        """The user turn that asks for the verdict alone, after a rationale, in the template's language.

        As JSON the verdict is the value of the key "verdict".
        """
        zh = self.language == "zh"
        listed = ("、" if zh else ", ").join(f'"{label}"' if as_json else label for label in labels)
        announcement = self.announcement if self.announcement.rstrip().endswith((":", "：")) else ""
        if as_json:
            text = _JSON_QUESTION_ZH if zh else _JSON_QUESTION
        else:
            text = (_QUESTION_ZH if zh else _QUESTION) if announcement else (_BARE_ZH if zh else _BARE)
        return text.format(labels=listed, announcement=announcement.strip())


_QUESTION = 'Now give your verdict. Write one line and nothing else: "{announcement}" and one of {labels}.'
_BARE = "Now give your verdict. Write one of these and nothing else: {labels}."
_JSON_QUESTION = 'Now give your verdict as a JSON object with the single key "verdict"; its value is one of {labels}.'
_QUESTION_ZH = "现在请给出结论。只写一行：“{announcement}”加上以下之一：{labels}。不要写其他内容。"
_BARE_ZH = "现在请给出结论。只写以下之一，不要写其他内容：{labels}。"
_JSON_QUESTION_ZH = '现在请给出结论：一个 JSON 对象，唯一的键是 "verdict"，其值为以下之一：{labels}。'


def _fenced(text: str) -> str:
    """Text between two fences. A run of four or more equals signs or similar characters in it is broken by spaces.

    >>> _fenced("a == b\\n=====\\n＝＝＝＝").splitlines()
    ['========', 'a == b', '=== ==', '＝＝＝ ＝', '========']
    """
    broken = _RUN.sub(lambda run: _THREE_SIGNS.sub(lambda signs: f"{signs[0]} ", run[0]), text)
    return f"{_FENCE}\n{broken}\n{_FENCE}"


def _question(item: Item) -> str:
    """The prompt, fenced. Of several turns each is fenced by itself, so that none can imitate two.

    Raises RequestFailed for a role that is not a single word.
    """
    if len(item.messages) == 1:
        return _fenced(item.messages[0]["content"])
    if invalid := [m["role"] for m in item.messages if not m["role"].isidentifier()]:
        raise RequestFailed("malformed", f"{invalid[0]!r} is not a role")
    return "\n\n".join(f"[{m['role']}]\n{_fenced(m['content'])}" for m in item.messages)


@lru_cache(maxsize=32)
def _compiled(body: str) -> jinja2.Template:
    return _environment().from_string(body)


@lru_cache(maxsize=1)
def _environment() -> jinja2.sandbox.SandboxedEnvironment:
    return jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)


def prompts_folder() -> Path:
    """The folder of the templates: inside an installed wheel, or at the root of a checkout."""
    installed = Path(__file__).parent / "prompts"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "prompts"


def template_names() -> list[str]:
    return sorted(path.stem for path in prompts_folder().glob("*.md"))


def load_template(name: str) -> Template:
    """A template by name, or by the path of a file. Raises CannotRun with the file and its error."""
    path = Path(name) if name.endswith(".md") else prompts_folder() / f"{name}.md"
    if not path.is_file():
        raise CannotRun(unknown_name("no template", name, template_names(), "Give a file.md, or one of"))
    text = path.read_text(encoding="utf-8")
    head, front, body = (*text.split("---\n", 2), "", "")[:3]
    if head.strip() or not body.strip():
        raise CannotRun(f"{path}: no front matter: a template is YAML between two lines '---', then the prompt")
    try:
        fields = yaml.safe_load(front)
    except yaml.YAMLError as error:
        raise CannotRun(f"{path}: front matter is not YAML: {error}") from error
    if not isinstance(fields, dict):
        raise CannotRun(f"{path}: front matter is not 'key: value' lines")
    if missing := _REQUIRED - set(fields):
        raise CannotRun(f"{path}: front matter lacks {', '.join(sorted(missing))}")
    if unknown := set(fields) - _REQUIRED - _OPTIONAL:
        keys = sorted(_REQUIRED | _OPTIONAL)
        raise CannotRun(unknown_name(f"{path}: unknown front-matter key", min(map(str, unknown)), keys))
    if fields["kind"] not in KINDS:
        raise CannotRun(f"{path}: kind {fields['kind']!r} is not one of {', '.join(KINDS)}")
    kind: Kind = fields["kind"]
    labels = _parse_labels(path, kind, fields)
    try:
        scale = Scale(**fields["scale"]) if kind in _KINDS_WITH_SCALE else Scale(0, 1)
    except (KeyError, TypeError, ValueError) as error:
        raise CannotRun(f"{path}: a {kind} template needs scale: {{low: …, high: …, step: …}} ({error})") from error
    if kind in _KINDS_WITH_SCALE and scale.step is not None:
        labels = scale.labels()
    read = str(fields.get("read", READS[kind][0]))
    parse_read(read, kind, str(path))
    try:
        _environment().parse(body)
    except jinja2.TemplateSyntaxError as error:
        line = text[: len(text) - len(body)].count("\n") + error.lineno
        raise CannotRun(f"{path}, line {line}: {error.message}") from error
    return Template(
        name=str(fields["name"]),
        kind=kind,
        language=str(fields["language"]),
        scale=scale,
        labels=labels,
        read=read,
        announcement=str(fields["announcement"]),
        version=str(fields["version"]),
        source=str(fields["source"]),
        description=str(fields.get("description", "")),
        system=fields.get("system"),
        body=body,
        path=path,
    )


def parse_read(read: str, kind: Kind, where: str) -> tuple[Read, ...]:
    """The ways of reading a verdict in "text+expected", in their order. Raises CannotRun for one that `kind` lacks."""
    names = [name.strip() for name in read.split("+")]
    if unknown := [name for name in names if name not in READS[kind]]:
        raise CannotRun(f"{where}: a {kind} judge is not read by {unknown[0]!r}; by {', '.join(READS[kind])}")
    return tuple(way for name in names for way in READS[kind] if way == name)


def _parse_labels(path: Path, kind: Kind, fields: dict[str, Any]) -> tuple[str, ...]:
    if kind != "pairwise":
        if "labels" in fields:
            raise CannotRun(f"{path}: only a pairwise template has labels")
        return ()
    value = fields.get("labels")
    labels = tuple(map(str, value)) if isinstance(value, list) else ()
    if len(labels) not in (2, 3) or len(set(labels)) != len(labels) or not all(label.strip() for label in labels):
        raise CannotRun(f"{path}: a pairwise template needs two or three different labels: [FIRST, SECOND, TIE]")
    return labels
