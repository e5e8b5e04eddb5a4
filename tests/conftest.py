"""What every test starts from: torchvision importable, one thread, the same random numbers; shapes checked or not."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch


def declare_torchvision_ops() -> torch.library.Library | None:
    """Make torchvision importable beside another build of torch (a CUDA wheel beside a CPU torch).

    Its compiled kernels cannot load there, and its import then asks for two operators by name. Declared
    without a kernel, they let the import pass; calling one still raises, and no network here calls one.
    """
    import torch

    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return None
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
        return library
    return None


DECLARED: list[torch.library.Library | None] = []
"""The declarations live as long as these objects."""


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run: what only hands them out to others imports nothing."""
    if getattr(config.option, "dist", "no") == "no":
        DECLARED.append(declare_torchvision_ops())


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    import torch

    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    torch.set_num_threads(1)
    torch.default_generator.manual_seed(0)
    torch.backends.cudnn.deterministic = True  # on a GPU, so that the same run twice is the same
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = deterministic


SHAPED = ("tests/parts/", "tests/methods/", "tests/contract/test_gradients.py", "tests/contract/test_baking.py")
"""The tests that check every shape by default, which elsewhere is a fifth of the time: of all that has shapes, of all
methods' options, and of every method while it trains and is baked. So does every example in a docstring."""


@pytest.fixture(autouse=True)
def _shapes(request: pytest.FixtureRequest) -> Iterator[None]:
    """By default shapes are checked where they are told apart, not again and again by whole runs."""
    import jaxtyping

    seen_elsewhere = not request.node.nodeid.startswith(SHAPED)
    jaxtyping.config.update("jaxtyping_disable", seen_elsewhere and request.config.option.markexpr == "not full")
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
