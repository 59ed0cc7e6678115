"""Modules must not import each other in a circle, not even for types only."""

from __future__ import annotations

import ast
from pathlib import Path

import rpc_runtime

_ROOT = Path(rpc_runtime.__file__).parent
_PACKAGE = _ROOT.name

Imports = dict[str, set[str]]


def _modules() -> dict[str, Path]:
    """Returns the files of the package by the names of their modules."""
    modules = {}
    for path in _ROOT.rglob("*.py"):
        parts = path.relative_to(_ROOT.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def _imported_by(path: Path, known: set[str]) -> set[str]:
    """Returns the modules of the package that a file imports, wherever the import is in it."""
    folder = ".".join(path.parent.relative_to(_ROOT.parent).parts)
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = folder.split(".")[: len(folder.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                # What is imported is a module, or something in one.
                submodule = f"{base}.{alias.name}"
                imported.add(submodule if submodule in known else base)
    return imported & known


def _circle(imports: Imports) -> set[str]:
    """Returns the modules that are in circles, and those between two circles."""
    left = {module: set(imported) for module, imported in imports.items()}
    while True:
        imported = set().union(*left.values()) if left else set()
        # A module that imports none of the others, or that none imports, is in no circle.
        ends = {module for module, uses in left.items() if not uses or module not in imported}
        if not ends:
            return set(left)
        left = {module: uses - ends for module, uses in left.items() if module not in ends}


def test_a_circle_is_found() -> None:
    assert _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {"b", "c"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = _modules()
    imports = {name: _imported_by(path, set(modules)) for name, path in modules.items()}
    # The test reads the imports: relative ones, and those of types only.
    assert f"{_PACKAGE}.client.caller" in imports[f"{_PACKAGE}.client.stream_inbox"]
    assert f"{_PACKAGE}.version" in imports[f"{_PACKAGE}.worker.identity"]
    assert _circle(imports) == set()
