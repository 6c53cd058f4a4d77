"""`assay models`."""

import textwrap

from judges.catalog import Known, find, known_models
from judges.errors import CannotRun


def show_all() -> None:
    rows = [("name", "kind", "supported", "models")]
    rows += [(known.name, known.kind, _word(known.supported), _and_more(known.models)) for known in known_models()]
    # Plain lines, not a table that folds to the terminal: hub ids stay whole for copying and grep.
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]))


def show(name: str) -> None:
    """One model by its name in the list, or by a hub id, which then stands in the spec."""
    by_name = {known.name: known for known in known_models()}
    known = by_name.get(name) or find(name)
    if known is None:
        raise CannotRun(f"no known model {name!r}; there are {', '.join(by_name)}, or give a hub id of one")
    print(_described(known, name if "/" in name else known.models[0]))


def _described(known: Known, model: str) -> str:
    facts = {
        "kind": known.kind,
        "scorer": known.spec_for(model),
        "supported": _word(known.supported),
        "remote code": _word(known.remote_code),
        "max length": str(known.max_length or "not known"),
        "licence": known.license,
        "tried": _word(known.tried),
    }
    lines = [known.name, *(f"  {key:<12} {value}" for key, value in facts.items())]
    for title, texts in (("models", known.models), ("missing", known.missing), ("quirks", known.quirks)):
        lines += [title, *(_item("-", text) for text in texts)] if texts else []
    lines += ["sources", *(_item(f"[{number}]", text) for number, text in enumerate(known.sources, 1))]
    return "\n".join(lines)


def _item(mark: str, text: str) -> str:
    # A long address is kept whole, so that it can be copied.
    lines = textwrap.wrap(text, 96, break_long_words=False, break_on_hyphens=False)
    return f"  {mark} " + f"\n{' ' * (3 + len(mark))}".join(lines)


def _word(value: bool) -> str:
    return "yes" if value else "no"


def _and_more(models: tuple[str, ...]) -> str:
    return models[0] if len(models) == 1 else f"{models[0]} and {len(models) - 1} more"
