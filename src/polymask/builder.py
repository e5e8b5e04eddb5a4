"""How a network is built, by name, wherever a bank of it is opened."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

MOVED = {"polymask.run.build:build_model": "polymask.nets.by_name:build_model"}
"""Builders that banks on disk name by where they once stood."""

FLATTENED = {"convnet": {"widths": [16, 32], "pool": False}}
"""Network by name -> what it once was by default: what a bank or run means that does not say it."""


@dataclass(frozen=True)
class Builder:
    """How the network is built. A builder is code that runs: open banks of those you trust, or bring the network.

    Args:
        name: "package.module:function", importable wherever the bank is opened.
        args: the function's keyword arguments, as JSON.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Call the function; the global random state is put back.

        Raises:
            ValueError: if there is no such function, or it returns no module.

        >>> Builder("torch.nn:Linear", {"in_features": 2, "out_features": 1}).build()
        Linear(in_features=2, out_features=1, bias=True)
        """
        package, _, leaf = MOVED.get(self.name, self.name).partition(":")
        try:
            # What a script or a notebook defines has no name elsewhere.
            function = getattr(importlib.import_module("" if package == "__main__" else package), leaf)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"expected a builder 'package.module:function' that can be imported, found {self.name!r} ({error}): "
                "install its package, or bring the network yourself as base="
            ) from error
        before = FLATTENED.get(self.args.get("name", ""), {}) if leaf == "build_model" else {}
        with torch.random.fork_rng([]):
            built = function(**{**before, **self.args})
        if not isinstance(built, nn.Module):
            raise ValueError(f"expected a module from the builder {self.name!r}, found {type(built).__name__}")
        return built
