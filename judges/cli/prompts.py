"""`assay prompts`."""

from rich.console import Console
from rich.table import Table

from judges.template import load_template, template_names
from judges.types import Item


def show_all() -> None:
    table = Table(box=None)
    for column in ("name", "kind", "scale", "version", "digest", "what it is"):
        table.add_column(column)
    for name in template_names():
        t = load_template(name)
        table.add_row(t.name, t.kind, str(t.scale), t.version, t.digest, t.description)
    Console().print(table)


def show(name: str) -> None:
    print(load_template(name).path.read_text(encoding="utf-8"), end="")


def render(name: str, prompt: str, response: str) -> None:
    for message in load_template(name).render(Item(id="1", prompt=prompt, responses=[response]), (0,)):
        print(f"[{message['role']}]\n{message['content']}")
