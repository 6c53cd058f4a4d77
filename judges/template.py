"""A judge is a prompt file: YAML front matter and a jinja body, checked and rendered to chat messages."""

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
from judges.types import Item, Message, Read, Scale

# pointwise: a rationale and its verdict in one completion; score: the verdict alone; critique: a critique, then
# the verdict as a second step; pairwise and listwise: which of two, or of several, responses is the best.
Kind = Literal["pointwise", "score", "critique", "pairwise", "listwise"]
KINDS = ("pointwise", "score", "critique", "pairwise", "listwise")
_SCALED = KINDS[:3]
_REQUIRED = {"name", "kind", "language", "announcement", "version", "source"}
_OPTIONAL = {"description", "system", "scale", "labels", "read"}
# How a verdict may be read, by kind; the first is what a template gets that does not say.
READS: dict[str, tuple[Read, ...]] = {
    "pointwise": ("text", "json", "expected", "forced"),
    "score": ("expected", "forced", "text"),
    "critique": ("expected", "text", "forced", "head"),
    "pairwise": ("text", "json", "expected", "forced"),
    "listwise": ("text", "json", "expected", "forced"),
}
_FENCE = "=" * 8
# Equals signs, what looks like them in a row, and what stands between them unseen: combining marks, joiners.
_EQUALS = "=\u1400\u207c\u208c\u2261\u2263\u2550\u268c\u2a75\u2a76\u2e40\u30a0\ua4ff\ua78a\ufe66\uff1d\U0001f7f0"
_UNSEEN = (
    "\u00ad\u0300-\u036f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff"
)
_SIGN = f"[{_EQUALS}][{_UNSEEN}]*"
_RUN = re.compile(f"(?:{_SIGN}){{4,}}")
_THREE = re.compile(f"(?:{_SIGN}){{3}}(?=[{_EQUALS}])")


@dataclass(frozen=True)
class Template:
    """A prompt file. `announcement` stands before the verdict, which is one of `labels`.

    The labels of a scaled kind are its `scale`'s; of a pairwise one what is said for the first response, the
    second, and a tie (where it has one); a listwise one has none of its own: they are the responses' numbers.
    `read` names how the verdict is read: "text", "json", "expected", "forced", or several joined by "+", of
    which the first gives the score.
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
        """Whether its verdict is a number on a scale."""
        return self.kind in _SCALED

    @property
    def digest(self) -> str:
        """Twelve hex digits of the file's meaning: changes when a word of the prompt does."""
        labels = ",".join(self.labels)
        parts = [self.kind, str(self.scale), labels, self.read, self.announcement, self.system or "", self.body]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]

    def render(self, item: Item, responses: tuple[int, ...]) -> tuple[Message, ...]:
        """Chat messages that ask about the responses with these indices."""
        # Data is fenced, and a run of what looks like the fence inside data is broken: it cannot close it.
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


def _fenced(text: str) -> str:
    """Text between two fences, with a space after every third of four or more equals signs, or their like, in it.

    >>> _fenced("a == b\\n=====\\n＝＝＝＝").splitlines()
    ['========', 'a == b', '=== ==', '＝＝＝ ＝', '========']
    """
    broken = _RUN.sub(lambda run: _THREE.sub(lambda three: f"{three[0]} ", run[0]), text)
    return f"{_FENCE}\n{broken}\n{_FENCE}"


def _question(item: Item) -> str:
    """The prompt, fenced; of several turns each by itself, so that none can pretend to be two.

    Raises RequestFailed for a role that is more than a word.
    """
    if len(item.messages) == 1:
        return _fenced(item.messages[0]["content"])
    if strange := [m["role"] for m in item.messages if not m["role"].isidentifier()]:
        raise RequestFailed("malformed", f"{strange[0]!r} is not a role")
    return "\n\n".join(f"[{m['role']}]\n{_fenced(m['content'])}" for m in item.messages)


@lru_cache(maxsize=32)
def _compiled(body: str) -> jinja2.Template:
    return _environment().from_string(body)


@lru_cache(maxsize=1)
def _environment() -> jinja2.sandbox.SandboxedEnvironment:
    return jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)


def prompts_folder() -> Path:
    """Where the templates are: inside an installed wheel, or at the root of a checkout."""
    inside = Path(__file__).parent / "prompts"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "prompts"


def template_names() -> list[str]:
    return sorted(path.stem for path in prompts_folder().glob("*.md"))


def load_template(name: str) -> Template:
    """A template by name, or by the path of a file. Raises CannotRun with the file and what is wrong."""
    path = Path(name) if name.endswith(".md") else prompts_folder() / f"{name}.md"
    if not path.is_file():
        raise CannotRun(f"no template {name!r}; there are {', '.join(template_names())}, or give a file.md")
    text = path.read_text(encoding="utf-8")
    head, front, body = (*text.split("---\n", 2), "", "")[:3]
    if head.strip() or not body.strip():
        raise CannotRun(f"{path}: a template is YAML between two lines '---', then the prompt")
    try:
        fields = yaml.safe_load(front)
    except yaml.YAMLError as error:
        raise CannotRun(f"{path}: front matter is not YAML: {error}") from error
    if not isinstance(fields, dict):
        raise CannotRun(f"{path}: front matter is not a list of 'key: value'")
    if missing := _REQUIRED - set(fields):
        raise CannotRun(f"{path}: front matter lacks {', '.join(sorted(missing))}")
    if unknown := set(fields) - _REQUIRED - _OPTIONAL:
        raise CannotRun(f"{path}: unknown key {', '.join(sorted(map(str, unknown)))} in the front matter")
    if fields["kind"] not in KINDS:
        raise CannotRun(f"{path}: kind {fields['kind']!r} is not one of {', '.join(KINDS)}")
    kind: Kind = fields["kind"]
    labels = _labels(path, kind, fields)
    try:
        scale = Scale(**fields["scale"]) if kind in _SCALED else Scale(0, 1)
    except (KeyError, TypeError, ValueError) as error:
        raise CannotRun(f"{path}: a {kind} template needs scale: {{low: …, high: …, step: …}}: {error}") from error
    if kind in _SCALED and scale.step is not None:
        labels = scale.labels()
    read = str(fields.get("read", READS[kind][0]))
    check_read(read, kind, str(path))
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


def check_read(read: str, kind: Kind, where: str) -> tuple[Read, ...]:
    """The ways of reading in "text+expected", the first deciding. Raises CannotRun for what the kind has not."""
    asked = [way.strip() for way in read.split("+")]
    if unknown := [way for way in asked if way not in READS[kind]]:
        raise CannotRun(f"{where}: a {kind} judge is not read by {unknown[0]!r}; by {', '.join(READS[kind])}")
    return tuple(known for way in asked for known in READS[kind] if known == way)


def _labels(path: Path, kind: Kind, fields: dict[str, Any]) -> tuple[str, ...]:
    if kind != "pairwise":
        if "labels" in fields:
            raise CannotRun(f"{path}: labels belong to a pairwise template")
        return ()
    given = fields.get("labels")
    texts = tuple(map(str, given)) if isinstance(given, list) else ()
    if len(texts) not in (2, 3) or len(set(texts)) != len(texts) or not all(t.strip() for t in texts):
        raise CannotRun(f"{path}: a pairwise template needs labels: [FIRST, SECOND] or [FIRST, SECOND, TIE], unlike")
    return texts
