"""A user of a method: tasks to learn, optimizers good and bad, the loop, and what is looked at afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tests.contract.zoo import BACKBONES, DEVICE
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.calling import call, logits_of, tensors_of
from polymask.method.contract import Method
from polymask.parts.seeds import generator, seed_global
from polymask.task import TaskRecord

MakeOptimizer = Callable[[Method], torch.optim.Optimizer]


@dataclass(frozen=True)
class Task:
    """A task of random inputs and labels.

    Args:
        name: its name.
        example: what an input looks like.
        outputs: the width of its head; None: as wide as the model's.
    """

    name: str
    example: Any
    outputs: int | None = None

    def inputs(self, step: int) -> Any:
        """The batch of a step: as the example, drawn anew; integers stay within the example's range."""
        draw = generator("inputs", self.name, step)

        def fresh(x: Tensor) -> Tensor:
            if x.is_floating_point():
                return torch.randn(x.shape, generator=draw).to(x)
            return torch.randint(int(x.min()), int(x.max()) + 1, x.shape, generator=draw).to(x)

        return tensors_of(self.example, fresh)

    def pair(self, step: int) -> tuple[Any, Tensor]:
        """The inputs of a step and two classes of labels, for methods that look at a task first."""
        x = self.inputs(step)
        rows = len(next(iter(x.values())) if isinstance(x, Mapping) else x[0] if isinstance(x, tuple) else x)
        return x, torch.arange(rows) % 2

    def labels(self, step: int, logits: Tensor) -> Tensor:
        """Labels for a batch's logits ``(..., c)``."""
        draw = generator("labels", self.name, step)
        return torch.randint(logits.shape[-1], logits.shape[:-1], generator=draw).to(logits.device)


def tasks(example: Any, count: int = 3, outputs: Sequence[int | None] = (None,)) -> list[Task]:
    """``count`` tasks named a, b, c, ...; their widths go round through ``outputs``."""
    return [Task("abcdefghij"[k], example, outputs[k % len(outputs)]) for k in range(count)]


def make(method: Callable[..., Method], backbone: str, **hyper: Any) -> tuple[Method, list[Task]]:
    """A method on a fresh backbone of the zoo, and three tasks for it."""
    model, example = BACKBONES[backbone]()
    return method(model, example, **hyper), tasks(example)


def learn(
    method: Method,
    todo: Iterable[Task],
    make_optimizer: MakeOptimizer | None = None,
    *,
    steps: int = 4,
) -> dict[str, TaskRecord]:
    """Learn task after task, phase after phase; all records that the method has then."""
    make_optimizer = make_optimizer or sgd()
    for task in todo:
        for phase in method.phases:
            begin(method, task, phase, steps=steps)
            train(method, task, make_optimizer(method), range(steps))
        method.end(task.name)
    return dict(method.records)


def begin(method: Method, task: Task, phase: str | None = None, *, steps: int = 4) -> None:
    """Open a task's phase, with its batches for methods that look at them."""
    batches = [task.pair(step) for step in range(steps)]
    method.begin(task.name, phase, outputs=task.outputs, batches=batches)


def train(
    method: Method, task: Task, optimizer: torch.optim.Optimizer, steps: Sequence[int], model: nn.Module | None = None
) -> Tensor:
    """The user's loop over some steps of a phase; the same steps give the same numbers whenever they are run.

    Args:
        method: the method, with the task open.
        task: where the batches come from.
        optimizer: steps what it was made for.
        steps: the numbers of the steps.
        model: what to train instead of ``method.model``: a wrapped or compiled one.

    Returns:
        The last loss.
    """
    model = method.model if model is None else model
    model.train()
    loss = torch.zeros(())
    for step in steps:
        seed_global(step, DEVICE.type)  # of dropout
        method.on_step(step / max(len(steps), 4))
        optimizer.zero_grad(set_to_none=False)
        logits = logits_of(call(model, task.inputs(step)))
        loss = F.cross_entropy(logits.flatten(0, -2), task.labels(step, logits).flatten()) + method.penalty()
        loss.backward()
        optimizer.step()
    return loss.detach()


@torch.no_grad()
def answer(model: nn.Module, x: Any) -> Tensor:
    """A model's logits in evaluation mode; its mode is put back."""
    was = {module: module.training for module in model.modules()}
    logits = logits_of(call(model.eval(), x)).clone()
    for module, mode in was.items():
        module.training = mode
    return logits


def logits(method: Method, task: str | Task, x: Any = None) -> Tensor:
    """Activate a finished task and answer; on the task's own probe batch unless told otherwise."""
    name = task.name if isinstance(task, Task) else task
    method.activate(name)
    return answer(method.model, probe(method) if x is None else x)


def alike(method: Method, a: Tensor, b: Tensor) -> bool:
    """Whether a baked network answers as the masked one: to the bit; within rounding if masks on units are real.

    Such a mask is multiplied into the rows of its layer, where the masked network multiplies their products.
    """
    codecs = {packed.codec for record in method.records.values() for packed in record.masks.values()}
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6) if "real" in codecs else torch.equal(a, b)


def probe(method: Method) -> Any:
    """The batch that answers are compared on."""
    return Task("probe", method.example).inputs(0)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer, slots and scores too."""
    everything = (*model.named_parameters(), *model.named_buffers())
    return {name: value.detach().clone() for name, value in everything}


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """The names that only one has, or whose tensors are not bit-equal."""
    return [name for name in sorted({*a, *b}) if name not in a or name not in b or not torch.equal(a[name], b[name])]


def sgd() -> MakeOptimizer:
    """Plain SGD."""
    return lambda method: torch.optim.SGD(method.parameters(), lr=0.05)


def sgd_momentum_decay() -> MakeOptimizer:
    """SGD with momentum and weight decay."""
    return lambda method: torch.optim.SGD(method.parameters(), lr=0.02, momentum=0.9, weight_decay=0.05)


def adamw() -> MakeOptimizer:
    """AdamW with much decay."""
    return lambda method: torch.optim.AdamW(method.parameters(), lr=0.01, weight_decay=0.1)


def kept() -> MakeOptimizer:
    """One optimizer from ``model.parameters()``, kept over all tasks; what appears later is added to it."""
    optimizers: list[torch.optim.Optimizer] = []

    def grow(method: Method) -> torch.optim.Optimizer:
        if not optimizers:
            optimizers.append(torch.optim.AdamW(method.model.parameters(), lr=0.01, weight_decay=0.1))
        known = {id(p) for group in optimizers[0].param_groups for p in group["params"]}
        new = [p for p in method.model.parameters() if id(p) not in known]
        if new:
            optimizers[0].add_param_group({"params": new})
        return optimizers[0]

    return grow


def adversary() -> MakeOptimizer:
    """AdamW on everything, after the user asked for a gradient of every parameter."""
    return lambda method: torch.optim.AdamW(method.model.requires_grad_(True).parameters(), lr=0.01, weight_decay=0.1)


OPTIMIZERS: dict[str, Callable[[], MakeOptimizer]] = {
    maker.__name__: maker for maker in (sgd, sgd_momentum_decay, adamw, kept, adversary)
}
"""name -> a function that makes a fresh ``make_optimizer``, which is called after every ``begin``."""
