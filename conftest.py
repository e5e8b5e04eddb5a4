"""Every annotated argument and result of ours is checked while testing; an int is a float, as for mypy."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil

from beartype import BeartypeConf, BeartypeDecorPlace
from beartype.claw import beartype_package

# Nearest to the function: what torch makes of one (a custom operator) is no function any more.
NEAREST = BeartypeDecorPlace.FIRST
beartype_package(
    "polymask",
    conf=BeartypeConf(
        is_pep484_tower=True, claw_is_pep526=False, claw_decor_place_func=NEAREST, violation_type=TypeError
    ),
)


def pytest_collection_finish() -> None:
    """Give modules the names that they import for type checkers alone, now that no circle can come of it."""
    import polymask

    for found in pkgutil.walk_packages(polymask.__path__, "polymask."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                exec(compile(ast.Module(node.body, []), found.name, "exec"), vars(module))
