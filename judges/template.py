"""A judge is a prompt file: YAML front matter and a jinja body, checked and rendered to chat messages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.sandbox
import yaml

from judges.errors import CannotRun
from judges.types import Item, Message, Scale

Kind = Literal["pointwise", "critique", "pairwise"]
KINDS = ("pointwise", "critique", "pairwise")
_REQUIRED = {"name", "kind", "language", "scale", "announcement", "version", "source"}
_OPTIONAL = {"description", "system"}
_FENCE = "=" * 8


@dataclass(frozen=True)
class Template:
    """A prompt file. `scale` is what its verdict is read on; `announcement` what stands before it."""

    name: str
    kind: Kind
    language: str
    scale: Scale
    announcement: str
    version: str
    source: str
    description: str
    system: str | None
    body: str
    path: Path

    @property
    def digest(self) -> str:
        """Twelve hex digits of the file's meaning: changes when a word of the prompt does."""
        parts = [self.kind, str(self.scale), self.announcement, self.system or "", self.body]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]

    def render(self, item: Item, responses: tuple[int, ...]) -> tuple[Message, ...]:
        """Chat messages that ask about the responses with these indices."""
        # Data is fenced, and a run of the fence's own character inside data is broken: it cannot close it.
        texts = [_fenced(item.responses[i]) for i in responses]
        values: dict[str, Any] = {
            "question": _fenced(_transcript(item)),
            "response": texts[0],
            "responses": texts,
            "reference": None if item.reference is None else _fenced(item.reference),
            "rubric": None if item.rubric is None else _fenced(item.rubric),
            "scale": self.scale,
            "announcement": self.announcement,
        }
        try:
            text = _environment().from_string(self.body).render(values)
        except jinja2.TemplateError as error:
            raise CannotRun(f"template {self.path}: {error}") from error
        user: Message = {"role": "user", "content": text.strip()}
        return ({"role": "system", "content": self.system}, user) if self.system else (user,)


def _fenced(text: str) -> str:
    while "====" in text:
        text = text.replace("====", "=== =")
    return f"{_FENCE}\n{text}\n{_FENCE}"


def _transcript(item: Item) -> str:
    if len(item.messages) == 1:
        return item.messages[0]["content"]
    return "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in item.messages)


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
    try:
        scale = Scale(**fields["scale"])
        _environment().parse(body)
    except (TypeError, ValueError) as error:
        raise CannotRun(f"{path}: scale: {error}") from error
    except jinja2.TemplateSyntaxError as error:
        line = text[: len(text) - len(body)].count("\n") + error.lineno
        raise CannotRun(f"{path}, line {line}: {error.message}") from error
    return Template(
        name=str(fields["name"]),
        kind=fields["kind"],
        language=str(fields["language"]),
        scale=scale,
        announcement=str(fields["announcement"]),
        version=str(fields["version"]),
        source=str(fields["source"]),
        description=str(fields.get("description", "")),
        system=fields.get("system"),
        body=body,
        path=path,
    )
