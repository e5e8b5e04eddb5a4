"""Floors: no import points up, none goes round in a circle, and importing polymask imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import polymask

SOURCE = Path(polymask.__file__).parent
PROGRAM = ("cli", "__main__")

LOW = {"parts", "calling", "copies", "sites", "task", "wiring"}
MAY_IMPORT: dict[str, set[str]] = {
    "parts": set(),
    "calling": set(),
    "version": set(),
    "lock": set(),
    "disk": set(),
    "near": set(),
    "builder": set(),
    "streams": {"parts.seeds", "near"},
    "nets": {"parts.seeds", "surgery"},
    "report": set(),
    "copies": {"parts", "calling"},
    "wiring": {"parts", "calling", "copies"},
    "sites": {"parts", "calling", "copies", "wiring"},
    "held": {"sites", "parts"},
    "probe": {"parts", "calling"},
    "fits": {"sites", "parts"},
    "asking": LOW | {"bank", "probe", "streams", "report", "lock", "near", "inference"},
    "loaded": LOW | {"bank", "probe", "streams", "asking", "inference"},
    "export": LOW | {"disk", "builder", "bank", "probe", "streams", "report", "version", "asking", "loaded", "surgery"},
    "task": {"sites", "parts", "copies", "wiring", "fits"},
    "bank": LOW | {"held", "probe", "lock", "disk", "builder"},
    "method": LOW | {"held", "probe"},
    "surgery": LOW | {"probe"},
    "mixed": LOW,
    "inference": LOW | {"bank", "disk"},
    "methods": LOW | {"method", "surgery"},
    "learning": LOW
    | {"held", "probe", "lock", "disk", "builder", "near", "version", "streams", "nets"}
    | {"report", "bank", "method", "methods", "surgery", "mixed", "asking", "loaded", "inference"},
    "pages": LOW | {"version", "report", "bank", "learning", "disk"},
}
"""Floor -> what it may import besides itself; ``cli`` sees everything and is seen by nothing."""


@cache
def modules() -> dict[str, Path]:
    """Name below ``polymask`` -> file; a package is named by its folder, the face is the empty name."""
    found = {
        path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", "."): path for path in SOURCE.rglob("*.py")
    }
    return {name.removesuffix("__init__").removesuffix("."): path for name, path in found.items()}


def at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, inside functions too, but what only a type checker reads."""
    if not (isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING"):
        yield tree
        for child in ast.iter_child_nodes(tree):
            yield from at_run_time(child)


@cache
def imports(path: Path) -> set[str]:
    """The full names that a file imports; of ``from a import b`` the module ``a.b`` if there is one, else ``a``."""
    found = set()
    for node in at_run_time(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            ours = {name for name in inner if name.removeprefix("polymask.") in modules()}
            found.update(ours or {node.module})
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
            found.update(one.value for one in node.args if isinstance(one, ast.Constant))
    return found


def ours(path: Path) -> set[str]:
    """What a file imports of ours, as named by ``modules``."""
    return {
        name.removeprefix("polymask").removeprefix(".") for name in imports(path) if name.split(".")[0] == "polymask"
    }


@pytest.mark.parametrize("name", [name for name in modules() if name and name.split(".")[0] not in PROGRAM])
def test_no_import_points_up(name: str) -> None:
    floor = name.split(".")[0]
    assert floor in MAY_IMPORT, f"a new file: say in MAY_IMPORT what {floor!r} may import"
    allowed = MAY_IMPORT[floor] | {floor}
    bad = [other for other in ours(modules()[name]) if not {other, other.split(".")[0]} & allowed]
    assert not bad, f"{name} may import {', '.join(sorted(allowed))}"


def test_nothing_imports_the_command_line_nor_what_stands_above_it() -> None:
    for name, path in modules().items():
        assert name.split(".")[0] in PROGRAM or not [other for other in ours(path) if other.split(".")[0] == "cli"]
        assert "polymask" not in imports(path), f"{name} imports the package's face"


def test_no_room_bears_the_name_of_a_function_that_the_package_shows() -> None:
    shown = {name for name in polymask.__all__ if not name[0].isupper()}
    assert not shown & {name.split(".")[0] for name in modules()}


ROOM = 2600
"""Lines that a room may hold: a stranger should be able to read it in an afternoon."""


def test_no_room_is_too_full() -> None:
    rooms: dict[Path, int] = {}
    for path in modules().values():
        rooms[path.parent] = rooms.get(path.parent, 0) + len(path.read_text().splitlines())
    assert {str(room.relative_to(SOURCE)): lines for room, lines in rooms.items() if lines > ROOM} == {}


@pytest.mark.parametrize("name", [name for name in modules() if name.startswith("methods.")])
def test_no_method_imports_another(name: str) -> None:
    assert not [other for other in ours(modules()[name]) if other.split(".")[0] == "methods"]


def test_no_import_goes_round_in_a_circle() -> None:
    graph = {name: ours(path) - {name} for name, path in modules().items()}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


@pytest.mark.parametrize("name", [name for name in modules() if name.split(".")[0] == "parts"])
def test_parts_need_torch_and_the_entropy_coder_alone(name: str) -> None:
    foreign = {one.split(".")[0] for one in imports(modules()[name])} - {*sys.stdlib_module_names, "polymask"}
    assert foreign <= {"torch", "numpy", "jaxtyping", "constriction"}


def test_importing_polymask_imports_nothing_heavy() -> None:
    heavy = "torch numpy torchvision timm transformers datasets sklearn lightning lightning_fabric matplotlib ray onnx"
    program = f"import sys, polymask; print(*[name for name in {heavy.split()} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
