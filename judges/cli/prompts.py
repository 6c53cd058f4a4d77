"""`assay prompts`."""

from rich.console import Console
from rich.table import Table

from judges.errors import CannotRun
from judges.template import load_template, template_names
from judges.types import Item


def show_all() -> None:
    table = Table(box=None)
    for column in ("name", "kind", "verdict", "read", "version", "digest", "what it is"):
        table.add_column(column)
    for name in template_names():
        t = load_template(name)
        verdict = str(t.scale) if t.scaled else ", ".join(t.labels) or "a response's number"
        table.add_row(t.name, t.kind, verdict, t.read, t.version, t.digest, t.description)
    Console().print(table)


def show(name: str) -> None:
    print(load_template(name).path.read_text(encoding="utf-8"), end="")


def render(name: str, prompt: str, responses: list[str]) -> None:
    template = load_template(name)
    if not template.scaled and len(responses) < 2:
        raise CannotRun(f"template {name!r} compares: give --response twice or more")
    shown = tuple(range(len(responses))) if template.kind == "listwise" else (0, 1)[: 1 if template.scaled else 2]
    for message in template.render(Item(id="1", prompt=prompt, responses=responses), shown):
        print(f"[{message['role']}]\n{message['content']}")
