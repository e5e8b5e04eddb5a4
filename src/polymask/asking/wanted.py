"""What a task reads: its inputs as they were stored, and what the example that the network was made on looked like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from polymask.bank.bank import Bank
from polymask.bank.probe import batch_of
from polymask.probe import Spec, describe
from polymask.streams.checks import check_finite
from polymask.streams.inputs import Inputs
from polymask.streams.texts.described import inputs_from
from polymask.streams.texts.text import Text
from polymask.task import Meta

SLACK = 0.5
"""How far beyond 0..1 an image of floats may go, such as one with noise on it."""


@dataclass(frozen=True)
class Wanted:
    """What inputs a task takes.

    Args:
        task: its name.
        inputs: how they are prepared; None: nobody said, as of a task that was learned in a loop of the user's own.
        spec: what an example looks like as the network reads it, see ``probe.describe``; None: there was none.
        text: how its texts are tokenised; None: it reads no texts.
    """

    task: str
    inputs: Inputs | None = None
    spec: Spec | None = None
    text: Text | None = None

    @property
    def images(self) -> bool:
        """Whether it reads images: an example is (N, C, H, W) of floats, or a size or channels are stored."""
        if self.spec is not None:
            return len(self.spec.get("shape", ())) == 4 and "float" in self.spec["dtype"]
        return self.inputs is not None and (self.inputs.size is not None or self.inputs.channels is not None)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example, as far as it is known; else empty."""
        return tuple((self.spec or {}).get("shape", ()))[1:]

    @property
    def fit(self) -> Inputs:
        """Size and channels that images are brought to: those that are stored, else those of the example."""
        inputs = self.inputs or Inputs()
        if not self.images or len(self.shape) != 3:
            return inputs
        channels, *size = self.shape
        return replace(inputs, size=inputs.size or (size[0], size[1]), channels=inputs.channels or channels)

    @property
    def unit(self) -> bool:
        """Whether raw floats of 0..1 are meant: the stored normalisation is of such, or the example lies within."""
        inputs = self.inputs or Inputs()
        if inputs.mean is not None and inputs.std is not None:
            # No values of 0..1 have a larger deviation than half.
            return all(0 <= mean <= 1 for mean in inputs.mean) and all(std <= 0.5 for std in inputs.std)
        spec = self.spec or {}
        return "low" in spec and spec["low"] >= -0.05 and bool(spec["high"] <= 1.05)

    def alike(self, other: Wanted) -> bool:
        """Whether both take inputs of one kind, prepared alike but for their normalisation."""
        if self.text is not None:
            return self.text.alike(other.text)
        return other.text is None and (self.fit.size, self.fit.channels) == (other.fit.size, other.fit.channels)

    def check(self, x: Any, where: str = "the inputs") -> None:
        """Refuse raw values that would give an answer, but not that of what is meant.

        Args:
            x: raw inputs; of anything but a tensor nothing is said.
            where: what they are, for the error.

        Raises:
            ValueError: for NaN and infinity; for images of floats outside 0..1 where these are meant; for images of
                bytes where the task has learned something else, and for images of other integers.
        """
        if not isinstance(x, Tensor) or not x.numel():
            return
        check_finite(x, where)
        if not self.images:
            return
        low, high = x.min().item(), x.max().item()
        if x.is_floating_point():
            if self.unit and not (low >= -SLACK and high <= 1 + SLACK):
                bytes_like = low >= 0 and 1 < high <= 255
                raise ValueError(
                    f"expected floats of 0..1 in {where}, as task {self.task!r} has learned them, found "
                    f"{low:.4g}..{high:.4g}: "
                    + ("divide by 255, or give bytes (uint8)" if bytes_like else "give them raw, they are scaled here")
                )
        elif "uint8" not in str(x.dtype):
            raise ValueError(
                f"expected images of bytes (uint8, 0..255) or floats in {where}, found {_short(x)}: convert them"
            )
        elif self.spec is not None and not self.unit and not self._scaled:
            raise ValueError(
                f"expected floats of about {self.spec['low']:.4g}..{self.spec['high']:.4g} in {where}, as task "
                f"{self.task!r} has learned them, found bytes, which become 0..1: prepare them as for its training"
            )

    @property
    def _scaled(self) -> bool:
        """Whether something is stored that brings raw values to what the network reads."""
        return self.inputs is not None and not (self.inputs.mean is None and self.inputs.std is None)

    def __str__(self) -> str:
        if self.images:
            (height, width), channels = self.fit.size or ("H", "W"), self.fit.channels or "C"
            return f"images, brought to {channels} x {height} x {width}"
        if self.text is not None:
            return f"texts, for the tokenizer {self.text.tokenizer}"
        return "inputs as its network takes them" if self.spec is None else in_words(self.spec)


def wanted_by(bank: Bank, meta: Meta) -> Wanted:
    """What inputs a task of a bank takes.

    Args:
        bank: where it is.
        meta: what its record says about itself.
    """
    probe = bank.outline["probe"]
    spec = probe and (probe.get("spec") or _spec_of(bank, probe))
    found = inputs_from(meta.inputs) if meta.inputs else None
    return Wanted(
        meta.task,
        found if isinstance(found, Inputs) else None,
        spec=spec,
        text=found if isinstance(found, Text) else None,
    )


def in_words(spec: Spec) -> str:
    """What an example looks like, for a sentence.

    >>> in_words({"items": {"ids": {"shape": [2, 7], "dtype": "int64", "low": 0, "high": 9}}})
    'named arrays: ids (rows, 7) of int64, 0..9'
    """
    if "items" in spec:
        return "named arrays: " + "; ".join(f"{name} {in_words(one)}" for name, one in spec["items"].items())
    if "list" in spec:
        return "several arrays: " + "; ".join(map(in_words, spec["list"]))
    if "value" in spec:
        return str(spec["value"])
    axes = ", ".join(["rows", *map(str, spec["shape"][1:])])
    numbers = f", {spec['low']}..{spec['high']}" if "int" in spec["dtype"] else ""
    return f"({axes}) of {spec['dtype']}{numbers}"


def _spec_of(bank: Bank, probe: Mapping[str, Any]) -> Spec | None:
    try:
        return describe(batch_of(bank.path, probe))
    except (ValueError, TypeError, RuntimeError):  # a batch that only its owner understands
        return None


def _short(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
