"""A task of texts as one of tokens, counted where texts are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from warnings import warn

from torch.utils.data import Dataset

from polymask.streams.stream import Task
from polymask.streams.texts.text import Text, holds_texts


def tokenised(task: Task) -> Task:
    """The same task with the tokens of its texts; one that has no texts as it is.

    A warning says how many texts were cut.

    Raises:
        ValueError: there are texts, and nobody said how they are tokenised, or texts and labels differ in number.
    """
    parts: dict[str, Any] = {}
    inputs, cut, total = task.inputs, 0, 0
    pairs: dict[bool, str] = {}
    for part in ("train", "val", "test"):
        data = texts_of(getattr(task, part), isinstance(inputs, Text))
        if data is None:
            continue
        if not isinstance(inputs, Text):
            raise ValueError(
                f"inputs of {part} of task {task.name!r} are texts: say how they are tokenised, "
                "Task(..., inputs=Text(tokenizer))"
            )
        texts, labels = data
        if len(texts) != len(labels):
            raise ValueError(f"{part} of task {task.name!r} has {len(texts)} texts but {len(labels)} labels")
        try:
            tokens, longer = inputs.encode(texts, keep=True)
        except ValueError as error:
            raise ValueError(f"{part} of task {task.name!r}: {error}") from error
        parts[part], cut, total = (tokens, labels), cut + longer, total + len(texts)
        pairs[not isinstance(texts[0], str)] = part
    if not parts or not isinstance(inputs, Text):
        return task
    if len(pairs) > 1:
        raise ValueError(
            f"expected texts or pairs in all parts of task {task.name!r}, found texts in {pairs[False]} and pairs in "
            f"{pairs[True]}"
        )
    inputs = inputs.settled(next(iter(pairs)))
    if cut:
        warn(
            f"{cut} of {total} texts of task {task.name!r} are longer than {inputs.length} tokens and are cut there: "
            "--length, from Python Text(length=), takes more",
            stacklevel=2,
        )
    return replace(task, inputs=inputs, **parts)


def texts_of(data: Any, wanted: bool) -> tuple[Sequence[Any], Any] | None:
    """The texts and labels of a part, read one by one from a data set; None where it has none."""
    if (
        isinstance(data, tuple)
        and len(data) == 2
        and (holds_texts(data[0]) or (wanted and isinstance(data[0], list) and bool(data[0])))
    ):
        return list(data[0]), data[1]
    if wanted and isinstance(data, Dataset) and len(data) and holds_texts(data[0][0]):  # type: ignore[arg-type]
        pairs = [data[place] for place in range(len(data))]  # type: ignore[arg-type]
        return [x for x, _ in pairs], [y for _, y in pairs]
    return None
