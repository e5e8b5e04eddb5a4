"""What a record says of its inputs, read back: images and numbers, or texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymask.streams.inputs import Inputs
from polymask.streams.texts.text import Text


def inputs_from(record: Mapping[str, Any]) -> Inputs | Text:
    """What ``to_json`` of either wrote.

    Raises:
        ValueError: the record follows another conversion rule.

    >>> inputs_from(Inputs(size=(8, 8)).to_json()).size, inputs_from(Text("my-tokenizer", 64).to_json()).length
    ((8, 8), 64)
    """
    return Text.from_json(record) if "tokenizer" in record else Inputs.from_json(record)
