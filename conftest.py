"""Every annotated argument and result of ours is checked while testing, the shapes of ``parts/`` too."""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from beartype.claw import beartype_package
from jaxtyping import install_import_hook
from tests.choice import NAMES, SLOW, part_of, scope_of, taken
from tests.typed import CONF
from xdist.scheduler import LoadScopeScheduling

# tests/test_guides.py runs them, command by command and in an empty folder.
collect_ignore_glob = ["docs/guides/*", "docs/site/*"]

# To look for garbage again and again while everything is imported is a third of the time that collecting takes.
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--part NAME``: one of the parts that are together all tests; ``--untyped``: what `make test` leaves to them."""
    parser.addoption("--part", choices=NAMES, help="of all tests run this part alone (see tests/choice.py)")
    parser.addoption("--untyped", action="store_true", help="check shapes, but no annotations: a quarter less to wait")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything of ours is imported: shapes are checked where all is arithmetic on tensors, types everywhere."""
    # No graph holds the check of shapes, and one that is switched off is in the way of some.
    if not (config.getoption("part") or "").startswith("compile"):
        install_import_hook("polymask.parts", "tests.typed.checked")
    if not config.getoption("untyped"):
        beartype_package("polymask", conf=CONF)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Hand out test after test, but files that are to stay together whole."""
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = scope_of  # type: ignore[method-assign]
    return scheduler


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What was imported stays to the end: no search for garbage goes through it."""
    yield
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the slow examples ``full``, and leave out what other parts run."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker("full")
    if part := config.getoption("part"):
        mine = taken(items, part)
        config.hook.pytest_deselected(items=[item for item in items if part_of(item.nodeid) != part])
        items[:] = mine


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
