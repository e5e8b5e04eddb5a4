"""Learn from batches of which nobody says which task they are of, neither now nor later."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from polymask.calling import as_read, call, logits_of, tensors_of
from polymask.learning.learn import Learned
from polymask.learning.learner import give_back, method_class, restored
from polymask.learning.training import optimizer_of
from polymask.learning.unnamed.rules import EntropyJump, Rule
from polymask.method.card import Recipe
from polymask.method.contract import Method
from polymask.method.heads import width_of
from polymask.report.grouping import changes
from polymask.streams.checks import check_labels

SETTLING = Recipe(lr=0.01)
"""By what scores learn unless one says otherwise: of a short visit they are to settle before the next one."""


@dataclass(frozen=True)
class Unnamed:
    """What was learned from batches without names.

    Args:
        learned: the network and its tasks, "1", "2", ... in the order in which they were first seen.
        assigned: the task that each batch was put to; None: to none, since all masks were spent.
    """

    learned: Learned
    assigned: list[str | None]

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks that were told apart, one mask each."""
        return self.learned.tasks

    @property
    def boundaries(self) -> list[int]:
        """The places of the batches with which another task began."""
        return changes(self.assigned)


def learn_unnamed(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    method: str | type[Method] = "supsup",
    *,
    outputs: int,
    options: Mapping[str, Any] | None = None,
    rule: Callable[[Method], Rule] = EntropyJump,
    most: int | None = None,
    recipe: Recipe | None = None,
    head: str | None = None,
    example: Any = None,
    seed: int = 0,
) -> Unnamed:
    """Learn from one pass over batches that come task by task, without being told where a task ends or which it is.

    Each batch is put to the open task, to a finished one, which then goes on, or to a new one, which gets a mask of its
    own: ``rule`` says which before anything is learned from it. The loss is taken over all outputs of the head, which
    must be wider than the labels: outputs that are no label are what a strange mask leaves in doubt (scenario NNs of
    SupSup, Wortsman et al. 2020, section 3.5). A finished task stays as it is to the bit until it goes on itself.

    The network is trained in place and belongs to the learner afterwards, as with ``learn``. Which task an input is of
    is asked of the result's ``learned.method`` by ``Inference``.

    Args:
        model: any module, its head wider than the labels.
        batches: pairs of inputs and labels.
        method: a key of ``METHODS`` or a class, whose finished tasks may begin again: SupSup.
        outputs: how many labels there are.
        options: the method's own arguments; the paper has ``select="threshold"``.
        rule: what tells tasks apart: ``EntropyJump``, ``UniformSlopes``, or these with settings of your own, by
            ``functools.partial``.
        most: how many masks there may be; what would need another one is skipped. None: any number.
        recipe: optimizer and learning rate; None: Adam at 0.01, since a mask is to settle before the next task comes.
        head: the name of the head module.
        example: an input that the model accepts; None: of the first batch.
        seed: key of every random draw.

    Raises:
        ValueError: for a method whose tasks cannot go on, a head that is not wider than the labels, or no batch.

    >>> from polymask.nets import MLP
    >>> from polymask.streams import make_stream, prepare
    >>> def stream(*visits):
    ...     for place, task in enumerate(visits):
    ...         for epoch in range(2):
    ...             yield from task.train.epoch(64, (place, epoch))
    >>> a, b = (prepare(task, seed=0) for task in make_stream("digits-permuted", tasks=2))
    >>> paper = {"select": "threshold"}
    >>> run = learn_unnamed(MLP(64, (100,), 50), stream(a, b, a), outputs=10, options=paper)
    >>> run.tasks, len(run.assigned), run.boundaries
    (['1', '2'], 126, [42, 84])
    """
    kind, batches = method_class(method), iter(batches)
    _check_kind(kind)
    recipe, first = recipe or SETTLING, next(batches, None)
    if first is None:
        raise ValueError("expected at least one batch, found none")
    example = tensors_of(first[0], lambda t: t[:2]) if example is None else example
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        learner = kind(model, _on_device(model, example), head=head, seed=seed, **(options or {}))
        stack.enter_context(give_back(learner))
        _check_width(width_of(learner.sites, learner.head), outputs)
        assigned = _learn(learner, chain([first], batches), outputs, rule(learner), most, recipe)
        return Unnamed(Learned(learner, options=options or {}), assigned)


def _learn(
    method: Method,
    batches: Iterable[tuple[Any, Tensor]],
    outputs: int,
    rule: Rule,
    most: int | None,
    recipe: Recipe,
) -> list[str | None]:
    """Put every batch to a task and learn it there; the task of each."""
    assigned: list[str | None] = []
    for place, (x, y) in enumerate(batches):
        check_labels(y, outputs, f"of batch {place}", "labels")
        x = _on_device(method.model, x)
        task = rule.choose(x) or _next_name(method, most)
        if task is None and None not in assigned:
            warnings.warn(f"all {most} masks are spent: batches of other tasks are skipped from now on", stacklevel=3)
        assigned.append(task)
        if task is None:
            continue
        if task != method.task:
            _end(method, outputs)
            method.begin(task)
            optimizer = optimizer_of(method, recipe)
        _step(method, optimizer, x, y)
    _end(method, outputs)
    return assigned


def _next_name(method: Method, most: int | None) -> str | None:
    """The name of a new task; None if there may be no more."""
    made = len({*method.records, method.task} - {None})
    return str(made + 1) if most is None or made < most else None


def _step(method: Method, optimizer: Optimizer, x: Any, y: Tensor) -> None:
    method.model.train()
    method.on_step(1.0)
    logits = logits_of(call(method.model, x))
    (F.cross_entropy(logits, y.to(logits.device)) + method.penalty()).backward()
    optimizer.step()
    optimizer.zero_grad()


def _end(method: Method, outputs: int) -> None:
    """End the open task, if there is one; its labels are fewer than its outputs."""
    if (task := method.task) is not None:
        method.end(task)
        record = method.records[task]
        method.records[task] = replace(record, meta=replace(record.meta, outputs=outputs))


def _on_device(model: nn.Module, x: Any) -> Any:
    device = next(chain(model.parameters(), model.buffers())).device
    return as_read(model, tensors_of(x, lambda t: t.to(device)))


def _check_kind(kind: type[Method]) -> None:
    """Raise unless a method's finished tasks may begin again, in one phase."""
    if not kind.reopens or len(kind.phases) > 1:
        raise ValueError(
            f"expected a method of one phase whose finished tasks may begin again (supsup), found {kind.name!r}: "
            "where tasks are named, learn them by learn()"
        )


def _check_width(width: int, outputs: int) -> None:
    """Raise unless a head has outputs beyond the labels."""
    if width <= outputs:
        raise ValueError(
            f"expected a head wider than the {outputs} labels, found {width} outputs: outputs that are no label are "
            f"what tells tasks apart, build the network with {5 * outputs}, say"
        )
