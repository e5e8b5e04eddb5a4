"""A batch whose samples belong to different tasks, answered by one pass through the network."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import leaves_of, logits_of
from polymask.copies.kept import twin
from polymask.mixed.asking import Found, find_layouts
from polymask.mixed.forms import form_of, per_task
from polymask.mixed.layout import key_of
from polymask.mixed.own import own_of, own_tensors, refuse_weight_masks
from polymask.mixed.routes import readings
from polymask.mixed.turns import Alone, Layer, Together, Unlike, run
from polymask.sites.slots import Scores
from polymask.sites.table import HEAD, Sites, detach
from polymask.sites.trace import places
from polymask.task import TaskRecord, check_fits, unit_masks
from polymask.wiring.paint import axis_of


class Mixed:
    """A network that answers every sample of a batch as the sample's own task.

    Tasks that differ by masks on units, norms, gains and heads alone share every product: what is theirs is gathered
    per sample, ``y_b = gate_b * (W x_b + bias_b)``. So nothing is grouped by task, and a batch of many tasks costs what
    a batch of one does. The answers are those of ``activate(task)`` up to rounding (in float32 to 1e-4, and 1e-4 of a
    logit's size), since gains and norms are applied in another order.

    Which sample a position belongs to is asked of the network once per shape of a batch (a handful of forward passes),
    never guessed: one that flattens its rows, or keeps its batch on another axis, is answered rightly or refused. Where
    values decide it (samples sorted by a flag, a length or a score, sent to experts, packed), the whole batch is
    answered once for each of its tasks instead: as right, at so many times the cost.

    A call shares nothing with another one: several threads may call at once.

    Args:
        sites: the attached model; no task may be open on it. What is served is a copy: make another after more tasks.
        records: the tasks, by the names that calls will use; such as ``method.records``.

    Raises:
        ValueError: for records with masks or corrections of single weights (those need a product per task: group the
            batch and ``activate`` each), a task in training, or a base that is not finite.

    >>> from polymask import HAT
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> method, x = HAT(net, torch.zeros(1, 4)), torch.ones(3, 4)
    >>> for task in ("a", "b"):
    ...     method.begin(task)
    ...     method.on_step(1.0)
    ...     optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    ...     net(x).sum().backward()
    ...     optimizer.step()
    ...     _ = method.end(task)
    >>> answers = Mixed(method.sites, method.records)(x, ["a", "b", "a"])
    >>> torch.allclose(answers[0], method.plain("a")(x)[0]), torch.allclose(answers[1], method.plain("b")(x)[1])
    (True, True)
    """

    def __init__(self, sites: Sites, records: Mapping[str, TaskRecord]) -> None:
        if not records:
            raise ValueError("expected at least one task, found none")
        if sites.opened or any(isinstance(site.source, Scores) for site in sites.every().values()):
            raise ValueError("expected no task in training, found one: end() or abandon() it first")
        for record in records.values():
            check_fits(sites, record)
            refuse_weight_masks(sites, record)
        self.tasks = {task: place for place, task in enumerate(records)}
        self.model = detach(twin(sites.model)).requires_grad_(False)
        self.model.eval()
        self._refuse_infinite()
        self._found: dict[Any, Found] = {}
        self._layers: dict[str, Layer] = {}
        self._owned: list[tuple[Tensor, str]] = []
        self._give_forms(sites, list(records.values()))

    @torch.no_grad()
    def __call__(self, x: Any, tasks: Sequence[str]) -> Tensor:
        """Logits of a batch, (samples, outputs of the widest head); -inf beyond the outputs of a sample's own task.

        Args:
            x: a batch as the model takes it: a tensor, a tuple or a mapping, samples along the first axis.
            tasks: the task of every sample.

        Raises:
            KeyError: for a task that is not among the records.
            ValueError: if samples and tasks are not equally many, or where a sample lies cannot be told.
        """
        rows = next((len(t) for t in leaves_of(x) if t.ndim), None)
        if rows is None:
            raise ValueError(f"expected a batch with a tensor in it, found {type(x).__name__}")
        if len(tasks) != rows:
            raise ValueError(f"expected a task for each of {rows} samples, found {len(tasks)}")
        unknown = sorted({task for task in tasks if task not in self.tasks})
        if unknown:
            raise KeyError(f"expected tasks among {', '.join(self.tasks)}, found {', '.join(unknown)}")
        if not rows:
            return logits_of(run(self.model, Alone(0), x))
        device = next(iter((*self.model.parameters(), *self.model.buffers()))).device
        index = torch.tensor([self.tasks[task] for task in tasks], device=device)
        key = key_of(x, rows)
        known = self._found.get(key)
        found = known or self._ask(x, rows)
        answers = self._together(x, index, found)
        if answers is None and known is not None and known.layouts is not None:
            found = self._ask(x, rows)
            answers = self._together(x, index, found)
        self._found[key] = Found() if answers is None else found
        return self._task_by_task(x, index) if answers is None else answers

    def _ask(self, x: Any, rows: int) -> Found:
        return find_layouts(self.model, x, rows, self._layers, self._owned)

    def _together(self, x: Any, index: Tensor, found: Found) -> Tensor | None:
        """The answers in one pass; None where samples do not lie as they were found to."""
        if found.layouts is None:
            return None
        turn = Together(found.layouts, index)
        try:
            with readings(turn.read) if found.read else contextlib.nullcontext():
                answers = run(self.model, turn, x)
            turn.finish()
        except Unlike:
            return None
        return logits_of(answers) if turn.read == found.read else None

    def _task_by_task(self, x: Any, index: Tensor) -> Tensor:
        """The answers one task at a time: as the whole batch is answered by each, so right wherever samples lie."""
        answers: Tensor | None = None
        for task in index.unique().tolist():
            logits = logits_of(run(self.model, Alone(task), x))
            if not logits.ndim or len(logits) != len(index):
                raise ValueError(
                    f"expected logits for each of {len(index)} samples, found shape {tuple(logits.shape)}: answer one "
                    "task at a time, with activate(task)"
                )
            own = (index == task).view(-1, *[1] * (logits.ndim - 1))
            answers = logits if answers is None else torch.where(own, logits, answers)
        assert answers is not None
        return answers

    def _give_forms(self, sites: Sites, records: list[TaskRecord]) -> None:
        names = {(id(p.module), p.leaf): name for name, spots in places(self.model).items() for p in spots}
        gates = [unit_masks(sites, record) for record in records]
        for path, module in list(self.model.named_modules()):
            leaves = {leaf: names[id(module), leaf] for leaf, t in own_tensors(module) if (id(module), leaf) in names}
            head = any(sites.roles[name].why == HEAD for name in leaves.values() if name in sites.roles)
            own = own_of(module, leaves, records, [masks.get(path) for masks in gates], head)
            if own.tensors or own.rows or own.gate is not None:
                form = form_of(module, own)
                units = axis_of(module)
                seen_by = None if form is None else units
                layer = self._layers[path] = Layer(path, form or per_task(module, own), module.forward, units, seen_by)
                self._owned += [(t, path) for leaf, t in own_tensors(module) if own.changes(leaf)]
                module.forward = layer
                # A hook, if an idle one, keeps torch from computing whole layers without calling this module.
                module.register_forward_pre_hook(_idle)

    def _refuse_infinite(self) -> None:
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(
                    f"expected a finite base, found inf or NaN in {name!r}: tasks that do not read it answer rightly "
                    "one at a time, with activate(task), but not where masks multiply"
                )


def _idle(_module: nn.Module, _args: Any) -> None:
    """Change nothing."""
