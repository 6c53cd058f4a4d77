"""The rooms of docs/architecture.md: no circle of imports, no import of a room above, nothing heavy at import."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest
from conftest import ROOT

# Lower floors first; a module may import its own floor and those before it.
FLOORS = (
    ("judges.types", "judges.errors", "judges.plugins"),
    ("judges.scorer", "judges.catalog"),
    ("judges.engines",),
    ("judges.extraction", "judges.template", "judges.data"),
    ("classic_rm",),
    ("judges.scorers", "judges.batch", "judges.serving"),
    ("judges.evaluation",),
    ("judges.preferences",),
    ("judges.cli",),
)
HEAVY = {"torch", "vllm", "transformers", "datasets", "trl", "accelerate", "peft", "ray", "sklearn", "matplotlib"}
MAY_BE_HEAVY = ("classic_rm",)  # imported when a reward model is loaded or trained, never by `import judges`


def modules(root: Path) -> dict[str, Path]:
    """Every module of the two packages by its dotted name; a package stands for its `__init__`."""
    found = {}
    for package in ("judges", "classic_rm"):
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, at_import: bool = False) -> Iterator[tuple[str, str | None]]:
    """(module, name or None) of each import statement; with `at_import`, only of those that run on import."""

    def walk(nodes: list[ast.stmt]) -> Iterator[tuple[str, str | None]]:
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                yield from walk(node.orelse)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.module or "", alias.name) for alias in node.names)
            elif not (at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
                for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                    yield from walk(getattr(node, field, []))

    return walk(ast.parse(path.read_text(encoding="utf-8")).body)


def graph(root: Path) -> networkx.DiGraph:
    """An edge from each module to every module of ours that it imports, wherever in the file the import stands."""
    known = modules(root)
    edges = networkx.DiGraph()
    edges.add_nodes_from(known)
    for module, path in known.items():
        for target, name in imports(path):
            full = f"{target}.{name}"
            target = full if full in known else target
            if target in known and target != module:
                edges.add_edge(module, target)
    return edges


def floor_of(module: str) -> int | None:
    """The index of a module's floor; None for `judges` itself, which only gathers public names."""
    return next((i for i, names in enumerate(FLOORS) if any(f"{module}.".startswith(f"{n}.") for n in names)), None)


def circles(root: Path) -> list[list[str]]:
    return sorted(sorted(group) for group in networkx.strongly_connected_components(graph(root)) if len(group) > 1)


def test_no_modules_import_each_other_in_a_circle():
    assert circles(ROOT) == []


def test_a_circle_is_found(tmp_path):
    for name, text in {"a": "def f():\n    from judges.b import g", "b": "import judges.a"}.items():
        (tmp_path / "judges").mkdir(exist_ok=True)
        (tmp_path / "judges" / f"{name}.py").write_text(text)
    assert circles(tmp_path) == [["judges.a", "judges.b"]]


def test_every_module_stands_on_a_floor():
    assert {module for module in modules(ROOT) if floor_of(module) is None} == {"judges"}


def test_no_import_points_to_a_floor_above():
    upward = [
        (module, target)
        for module, target in graph(ROOT).edges
        if (a := floor_of(module)) is not None and (b := floor_of(target)) is not None and a < b
    ]
    assert upward == []


def test_heavy_packages_are_imported_inside_the_functions_that_need_them():
    heavy = defaultdict(set)
    for module, path in modules(ROOT).items():
        if not module.startswith(MAY_BE_HEAVY):
            heavy[module] |= {target.split(".")[0] for target, _ in imports(path, at_import=True)} & HEAVY
    assert {module: packages for module, packages in heavy.items() if packages} == {}


@pytest.mark.parametrize("folder", sorted({path.parent for path in modules(ROOT).values()}), ids=lambda f: f.name)
def test_a_folder_is_small_enough_to_read(folder):
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    if folder.name != "cli":
        assert len(files) <= 15
    if folder == ROOT / "judges":
        assert len(files) + 1 <= 6
