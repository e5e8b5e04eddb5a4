"""How a network is built, by name, wherever a bank of it is opened."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

MOVED = {"polymask.run.build:build_model": "polymask.nets.by_name:build_model"}
"""Builders that banks on disk name by where they once stood."""

OLD_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"convnet": {"widths": [16, 32], "pool": False}}
"""Network by name -> what it once was by default: what a bank or run means that does not say it."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {"convnet": {"widths": [32, 64, 128], "pool": True}}
"""Network by name -> what it is by default, which banks and runs say even where nobody asked for it."""


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
        with torch.random.fork_rng([]):
            built = function(**self.args)
        if not isinstance(built, nn.Module):
            raise ValueError(f"expected a module from the builder {self.name!r}, found {type(built).__name__}")
        return built

    def to_json(self) -> dict[str, Any]:
        """What a bank keeps of it.

        >>> Builder("polymask.nets.by_name:build_model", {"name": "convnet"}).to_json()["args"]["pool"]
        True
        """
        return {"name": self.name, "args": {**self._told(DEFAULTS), **self.args}}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Builder:
        """What ``to_json`` wrote, now or before networks had other defaults."""
        found = cls(**record)
        return replace(found, args={**found._told(OLD_DEFAULTS), **found.args})

    def _told(self, known: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        return known.get(str(self.args.get("name")), {}) if self.name.endswith(":build_model") else {}
