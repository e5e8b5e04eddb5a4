"""Streams by name, as the command line asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polymask.streams.classic import one_per_dataset, permute, rotate, split, views
from polymask.streams.groups import one_for_each
from polymask.streams.images import digits_data
from polymask.streams.inputs import Inputs
from polymask.streams.reduced import reduced
from polymask.streams.sources import open_data
from polymask.streams.stream import Stream, Task
from polymask.streams.texts.sets import are_texts, open_texts, refuse_looks
from polymask.streams.view import View, leaves


def one_task(data: Task, tasks: int = 1, *, seed: int = 0) -> Stream:
    """A stream of one task: the data set as it is.

    Raises:
        ValueError: other than one task is asked for.
    """
    if tasks != 1:
        raise ValueError(f"each data set is one task, found tasks={tasks}: leave it out, or take 'split'")
    return one_per_dataset([data], seed=seed)


def newsgroups(data: Task, tasks: int = 10, *, headers: bool = False, seed: int = 0) -> Stream:
    """The 20 Newsgroups in groups of neighbouring ones.

    Args:
        data: the posts.
        tasks: how many.
        headers: keep the lines before each post; some name the group, so that they are left out otherwise.
        seed: recorded.
    """
    return split(replace(data, notes={**data.notes, "headers": headers}), tasks, seed=seed)


NAMED: dict[str, Callable[..., Stream]] = {
    "digits": split,
    "digits-permuted": permute,
    "digits-rotated": rotate,
    "split": split,
    "permuted": permute,
    "rotated": rotate,
    "datasets": one_task,
    "asc": one_task,
    "dsc": one_task,
    "20news": newsgroups,
}
"""What makes tasks of each data set; the first three are over the embedded digits, the last three over texts."""


def make_stream(
    kind: str,
    data: Sequence[str] | None = None,
    *,
    data_root: str | Path | None = None,
    tasks: int | Sequence[Sequence[int]] | None = None,
    order: Sequence[int] = (),
    seed: int = 0,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop: int = 0,
    flip: bool = False,
    area: float = 1.0,
    label: str | None = None,
    text: Sequence[str] | None = None,
    tokenizer: str | None = None,
    length: int | None = None,
    examples: int | None = None,
    **how: Any,
) -> Stream:
    """The stream called ``kind``, over the embedded digits or over named data.

    Args:
        kind: a key of `NAMED`.
        data: names of Hugging Face data sets; one that begins with . / or ~ is a folder with an image folder a class.
            With ``text`` or ``tokenizer``, and wherever a file is named, tables of texts: see ``open_texts``.
        data_root: a folder that holds the named data sets; None: that of POLYMASK_DATA_ROOT, else the hub.
        tasks: how many of each data set, or the groups of classes; None: the kind's own number.
        order: in which all tasks are learned.
        seed: what permutations are drawn from.
        size: (H, W) that images are brought to; None: as they are, or of several data sets the largest.
        channels: likewise.
        mean: what is subtracted from each channel; None: the mean of a data set's training images.
        std: what each channel is divided by; None: likewise their deviation.
        crop: pixels of padding for random crops while training.
        flip: mirror left and right at random while training.
        area: smallest share of the image that a random part has while training.
        label: the column of labels, of data sets that have several.
        text: the column of texts, or the two of pairs.
        tokenizer: of texts: a folder or a name of transformers.
        length: most tokens of a text; None: 128.
        examples: at most so many of each task's training and validation examples, drawn class by class; None: all.
        how: further arguments of the function in `NAMED`, such as ``degrees=45``.

    Raises:
        ValueError: there is no such kind, or data are missing or superfluous.

    >>> [task.name for task in make_stream("digits", tasks=2)]
    ['digits/0..4', 'digits/5..9']
    >>> [task.name for task in make_stream("digits-rotated", tasks=2, degrees=45, order=[1, 0])]
    ['digits/rotated-45', 'digits/rotated-0']
    >>> make_stream("jumbled")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: no stream 'jumbled'; there are digits, digits-permuted, digits-rotated, split, ...
    """
    if kind not in NAMED:
        raise ValueError(f"no stream {kind!r}; there are {', '.join(NAMED)}")
    if are_texts(kind, data, text, tokenizer):
        shaped = {"size": size, "channels": channels, "mean": mean, "std": std}
        refuse_looks(kind, shaped | {"crop": crop or None, "flip": flip or None, "area": None if area == 1 else area})
        about = {"text": text, "label": label, "headers": how.get("headers", kind != "20news")}
        sources = open_texts(kind, data, data_root, tokenizer, length, **about)
        return made(kind, sources, tasks, order, seed, examples, how)
    embedded = kind.startswith("digits")
    if embedded == bool(data):
        raise ValueError(
            f"stream {kind!r} is over the embedded digits and takes no data, found {data}"
            if embedded
            else f"stream {kind!r} needs the names of data sets, such as data=['ylecun/mnist']"
        )
    sources = [open_data(name, data_root, size, channels, label) for name in data or ()]
    if embedded:
        sources = [replace(digits_data(), inputs=Inputs(size=size, channels=channels))]
    look: dict[str, Any] = {"crop": crop, "flip": flip, "area": area}
    look |= {key: tuple(values) for key, values in (("mean", mean), ("std", std)) if values is not None}
    sources = [replace(task, inputs=replace(inputs_of(task), **look)) for task in sources]
    return made(kind, fit_to_largest(sources), tasks, order, seed, examples, how)


def made(
    kind: str,
    sources: Sequence[Task],
    tasks: int | Sequence[Sequence[int]] | None,
    order: Sequence[int],
    seed: int,
    examples: int | None,
    how: dict[str, Any],
) -> Stream:
    """The stream of some data sets, of all of their examples or of so many for each task."""
    if tasks is not None:
        how["tasks"] = tasks
    own: list[dict[str, Any]] = [{} for _ in sources]
    if (groups := how.pop("groups", None)) is not None:
        own = [{"groups": each} for each in one_for_each(groups, len(sources))]
    makes = zip(sources, own, strict=True)
    streams = [NAMED[kind](source, seed=seed, **how, **each) for source, each in makes]
    whole = join_streams(streams).reorder(order)
    return (
        whole if examples is None else replace(whole, tasks=tuple(reduced(one, examples, seed) for one in whole.tasks))
    )


def inputs_of(task: Task) -> Inputs:
    """How images of a task are prepared."""
    return task.inputs if isinstance(task.inputs, Inputs) else Inputs()


def fit_to_largest(sources: Sequence[Task]) -> list[Task]:
    """The tasks with one size and one number of channels, the largest of each, so that one network fits all."""
    if len(sources) == 1:
        return list(sources)
    opened = [views(task) for task in sources]
    shapes = {shape_of(task, parts["train"]) for task, parts in opened}
    if len(shapes) == 1:
        return [task for task, _ in opened]
    channels, height, width = (max(sides) for sides in zip(*shapes, strict=True))
    return [
        replace(task, inputs=replace(inputs_of(task), size=(height, width), channels=channels)) for task, _ in opened
    ]


def shape_of(task: Task, view: View) -> tuple[int, ...]:
    """(C, H, W) of the images as a network reads them."""
    (x,) = leaves(view.x).values()
    return tuple(inputs_of(task).fit(x[:1]).shape[1:])


def join_streams(streams: Sequence[Stream]) -> Stream:
    """One stream of the tasks of several."""
    if len(streams) == 1:
        return streams[0]
    return Stream(
        "+".join(stream.name for stream in streams),
        tuple(task for stream in streams for task in stream.tasks),
        seed=streams[0].seed,
        protocol={"of": [dict(stream.protocol) for stream in streams]},
    )
