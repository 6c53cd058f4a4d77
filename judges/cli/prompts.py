"""`assay prompts`: the prompt templates."""

from rich.console import Console

from judges.cli.terminal import plain_table
from judges.errors import CannotRun
from judges.template import load_template, template_names
from judges.types import Item


def print_list() -> None:
    columns = ("name", "kind", "verdict", "read", "version", "digest", "description")
    table = plain_table(*columns, left=len(columns))
    for name in template_names():
        t = load_template(name)
        verdict = str(t.scale) if t.scaled else ", ".join(t.labels) or "a response's number"
        table.add_row(t.name, t.kind, verdict, t.read, t.version, t.digest, t.description)
    Console().print(table)


def print_template(name: str) -> None:
    print(load_template(name).path.read_text(encoding="utf-8"), end="")


def print_messages(name: str, prompt: str, responses: list[str]) -> None:
    template = load_template(name)
    if not template.scaled and len(responses) < 2:
        raise CannotRun(f"template {name!r} compares responses: give --response twice or more")
    count = len(responses) if template.kind == "listwise" else 1 if template.scaled else 2
    for message in template.render(Item(id="1", prompt=prompt, responses=responses), tuple(range(count))):
        print(f"[{message['role']}]\n{message['content']}")
