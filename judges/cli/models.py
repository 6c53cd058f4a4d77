"""`assay models`: the catalog of published reward models and judges."""

import textwrap

from judges.catalog import CatalogEntry, catalog_entries, find_entry
from judges.errors import CannotRun
from judges.plugins import unknown_name


def print_list() -> None:
    rows = [("name", "kind", "supported", "models")]
    rows += [(e.name, e.kind, _yes_or_no(e.supported), _first_of(e.models)) for e in catalog_entries()]
    # Plain lines, not a table: hub ids are not wrapped, so they can be copied and searched.
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]))


def print_model(name: str) -> None:
    """Print a model by its name in the list, or by a hub id, which is then used in the SPEC."""
    by_name = {entry.name: entry for entry in catalog_entries()}
    entry = by_name.get(name) or find_entry(name)
    if entry is None:
        raise CannotRun(unknown_name("unknown model", name, by_name, "Known, also by their hub ids"))
    print(_format_model(entry, name if "/" in name else entry.models[0]))


def _format_model(entry: CatalogEntry, model: str) -> str:
    facts = {
        "kind": entry.kind,
        "scorer": entry.spec_for(model),
        "supported": _yes_or_no(entry.supported),
        "remote code": _yes_or_no(entry.remote_code),
        "max length": str(entry.max_length or "not known"),
        "licence": entry.license,
        "tried": _yes_or_no(entry.tried),
    }
    lines = [entry.name, *(f"  {key:<12} {value}" for key, value in facts.items())]
    for title, texts in (("models", entry.models), ("missing", entry.missing), ("quirks", entry.quirks)):
        lines += [title, *(_list_entry("-", text) for text in texts)] if texts else []
    lines += ["sources", *(_list_entry(f"[{number}]", text) for number, text in enumerate(entry.sources, 1))]
    return "\n".join(lines)


def _list_entry(mark: str, text: str) -> str:
    # A long URL is not broken, so that it can be copied.
    lines = textwrap.wrap(text, 96, break_long_words=False, break_on_hyphens=False)
    return f"  {mark} " + f"\n{' ' * (3 + len(mark))}".join(lines)


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _first_of(models: tuple[str, ...]) -> str:
    return models[0] if len(models) == 1 else f"{models[0]} and {len(models) - 1} more"
