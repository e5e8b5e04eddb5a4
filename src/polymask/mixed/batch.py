"""A batch whose samples belong to different tasks, answered by one pass through the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import call, leaves_of, logits_of
from polymask.copies.kept import twin
from polymask.mixed.forms import Form, apart, form_of
from polymask.mixed.layout import Layout, layouts, probes, signature
from polymask.mixed.own import own_of, own_tensors, refuse_weight_masks
from polymask.sites.slots import Scores
from polymask.sites.table import Sites, detach
from polymask.sites.trace import places
from polymask.task import TaskRecord, check_fits, unit_masks
from polymask.wiring.probe import axis_of


class Mixed:
    """A network that answers every sample of a batch as the sample's own task.

    Tasks that differ by masks on units, norms, gains and heads alone share every product: what is theirs is gathered
    per sample, ``y_b = gate_b * (W x_b + bias_b)``. So nothing is grouped by task, and a batch of many tasks costs what
    a batch of one does. The answers are those of ``activate(task)`` up to rounding, since gains and norms are applied
    in another order.

    Which sample a position belongs to is asked of the network once per shape of a batch (a handful of forward passes),
    never guessed: one that flattens its rows, or keeps its batch on another axis, is answered rightly or refused.

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
        self._layouts: dict[tuple[tuple[torch.Size, torch.dtype], ...], dict[str, list[Layout]]] = {}
        self._current: dict[str, list[Layout]] = {}
        self._seen: dict[str, list[Tensor]] | None = None
        self._turn: dict[str, int] = {}
        self._index = torch.zeros(0, dtype=torch.long)
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
        shapes = [(t.shape, t.dtype) for t in leaves_of(x) if t.ndim]
        if not shapes:
            raise ValueError(f"expected a batch with a tensor in it, found {type(x).__name__}")
        rows = shapes[0][0][0]
        if len(tasks) != rows:
            raise ValueError(f"expected a task for each of {rows} samples, found {len(tasks)}")
        unknown = sorted({task for task in tasks if task not in self.tasks})
        if unknown:
            raise KeyError(f"expected tasks among {', '.join(self.tasks)}, found {', '.join(unknown)}")
        device = next(iter((*self.model.parameters(), *self.model.buffers()))).device
        key = tuple(shapes)
        if key not in self._layouts:
            self._layouts[key] = self._asked(x, rows)
        self._current = self._layouts[key]
        self._index = torch.tensor([self.tasks[task] for task in tasks], device=device)
        self._turn = {}
        return logits_of(call(self.model, x))

    def _asked(self, x: Any, rows: int) -> dict[str, list[Layout]]:
        """Where the samples lie in what every layer with something of the tasks' own is given, call by call."""
        calls: dict[str, list[list[Tensor]]] = {}
        for probe in probes(x, rows):
            seen = self._seen = {}
            try:
                call(self.model, probe)
            finally:
                self._seen = None
            for path, each in seen.items():
                many = calls.setdefault(path, [[] for _ in each])
                for one, found in zip(many, each, strict=True):
                    one.append(found)
        if silent := sorted({*self._forms} - {*calls}):
            raise ValueError(
                f"expected the network to call {silent[0]!r}, of which tasks have their own, found that it never "
                "does (does it read its weights itself?): answer one task at a time, with activate(task)"
            )
        return layouts(calls, rows)

    def _give_forms(self, sites: Sites, records: list[TaskRecord]) -> None:
        names = {(id(p.module), p.leaf): name for name, spots in places(self.model).items() for p in spots}
        gates = [unit_masks(sites, record) for record in records]
        self._forms: dict[str, Form] = {}
        for path, module in list(self.model.named_modules()):
            leaves = {leaf: names[id(module), leaf] for leaf, t in own_tensors(module) if (id(module), leaf) in names}
            own = own_of(module, leaves, records, [masks.get(path) for masks in gates])
            if own.tensors or own.rows is not None or own.gate is not None:
                form = form_of(module, own)
                self._forms[path] = form or apart(module, own)
                units = axis_of(module)
                run = partial(self._run, path, units, None if form is None else units, module.forward)
                module.forward = run
                # A hook, if an idle one, keeps torch from computing whole layers without calling this module.
                module.register_forward_pre_hook(_idle)

    def _run(self, path: str, units: int, seen_by: int | None, plain: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
            raise ValueError(
                f"expected {path!r}, of which tasks have their own, to be called on one tensor, found "
                f"{len(args) + len(kwargs)} arguments: answer one task at a time, with activate(task)"
            )
        if self._seen is not None:
            self._seen.setdefault(path, []).append(signature(args[0], seen_by))
            return plain(*args)
        turn = self._turn.get(path, 0)
        self._turn[path] = turn + 1
        layout = self._current[path][turn]
        return self._forms[path](*args, lambda values, y: layout.spread(values, self._index, y.ndim, units))

    def _refuse_infinite(self) -> None:
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(
                    f"expected a finite base, found inf or NaN in {name!r}: tasks that do not read it answer rightly "
                    "one at a time, with activate(task), but not where masks multiply"
                )


def _idle(_module: nn.Module, _args: Any) -> None:
    """Change nothing."""
