"""The learner of a run: made fresh or as its bank left it, on the run's device, and the bank that goes with it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from polymask.bank.bank import Bank
from polymask.bank.store import as_json
from polymask.builder import Builder
from polymask.calling import as_read, tensors_of
from polymask.learning import folder as files
from polymask.learning.config import BEFORE
from polymask.learning.fabric import precision_of
from polymask.learning.options import Refused
from polymask.method.checks import refuse_shared
from polymask.method.contract import Method
from polymask.method.own import import_method
from polymask.methods import METHODS
from polymask.sites.plugs import bare_again
from polymask.sites.table import BASE, detach


def method_class(method: str | type[Method]) -> type[Method]:
    """The class behind a name, or at an address ``package.module:Class``.

    Raises:
        ValueError: for an unknown name, or an address of no method.
    """
    if isinstance(method, str) and ":" in method:
        return import_method(method)
    if isinstance(method, str):
        if method.replace("-", "_") not in METHODS:
            names = ", ".join(METHODS)
            raise ValueError(f"expected a method of {names}, or package.module:Class, found {method!r}")
        return METHODS[method.replace("-", "_")]
    return method


def on_device(model: nn.Module, example: Any, fabric: Fabric) -> tuple[nn.Module, Any]:
    """A network, and an input as it reads it, on the run's device and in its precision."""
    model = precision_of(fabric).convert_module(model.to(fabric.device))
    return model, None if example is None else as_read(model, tensors_of(example, lambda t: t.to(fabric.device)))


@contextmanager
def give_back(method: Method) -> Iterator[None]:
    """If learning fails, forget the open task and take every site off the network."""
    try:
        yield
    except BaseException:
        method.abandon()
        detach(method.model)
        raise


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """If learning fails, give a network the values back that it came with: parameters, buffers, widths and modes.

    They are kept in main memory meanwhile. What finished tasks have learned is in the bank, if there is one.
    """
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {name: (tensor.detach().to("cpu", copy=True), tensor.requires_grad) for name, tensor in named.items()}
    numbers = {
        path: {name: value for name, value in vars(module).items() if type(value) in (int, bool)}
        for path, module in model.named_modules()
    }
    try:
        with bare_again(model):
            yield
    except BaseException:
        for path, own in numbers.items():
            vars(model.get_submodule(path)).update(own)
        for name, (value, trained) in values.items():
            _put_back(model, name, value, trained)
        raise


@torch.no_grad()
def _put_back(model: nn.Module, name: str, value: Tensor, trained: bool) -> None:
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    old: Tensor = getattr(owner, leaf)
    value = value.to(old.device)
    if old.shape == value.shape and old.dtype == value.dtype:
        old.copy_(value)
        old.requires_grad_(trained)
    else:  # a layer that grew, a head of another width, another precision
        setattr(owner, leaf, nn.Parameter(value, trained) if isinstance(old, nn.Parameter) else value)


def open_learner(
    kind: type[Method],
    model: nn.Module,
    example: Any,
    head: str | None,
    seed: int,
    options: Mapping[str, Any],
    place: Path | None,
) -> tuple[Method, Bank | None]:
    """The learner: fresh, or as the bank in a folder left it; and that bank."""
    old = Bank.open(place) if place is not None and (place / "bank.json").exists() else None
    base: dict[str, Tensor] = {}
    if old is not None and (old.tasks or old.removed):
        # Of a copy: the method is made on the network as built, and grows it again as its state says.
        attached = old.model(copy.deepcopy(model))
        base = {name: attached.base(name).clone() for name in attached.names(*BASE)}
    if old is not None:
        options = as_begun(options, old)
    try:
        method = kind(model, example, head=head, seed=seed, **options)
        refuse_shared(method)
    except ValueError as error:
        detach(model)
        raise Refused(str(error)) from error
    if old is not None:
        check_roles(old, method)
    if old is not None and (old.tasks or old.removed):
        state = old.learner()
        # A method may draw its weights when it is made, over those that the finished tasks have trained.
        state["tensors"] = base
        held = old.held() if method.exact is True else None
        method.load_state_dict(state, {task: old.record(task) for task in old.tasks}, old.removed, held)
        if old.tasks:
            method.activate(old.tasks[-1])
    return method, old


def as_begun(options: Mapping[str, Any], bank: Bank) -> dict[str, Any]:
    """A method's options; those that are left open, or that a bank is older than, are what they were when it began."""
    then = bank.outline["options"]
    # Who made a bank by hand told it no options at all.
    older = {name: value for name, value in BEFORE.get(bank.outline["method"], {}).items() if then and name not in then}
    return {**{name: then.get(name) if value is None else value for name, value in options.items()}, **older}


def as_taken(options: Mapping[str, Any], method: Method, bank: Bank | None) -> dict[str, Any]:
    """A method's options as they are told: none is left open that follows the kind of network."""
    return {**(options if bank is None else as_begun(options, bank)), **method.took}


def check_roles(bank: Bank, method: Method) -> None:
    """Raise unless a learner does with every tensor and unit what the one did that began a bank.

    Raises:
        Refused: if it does not; it names the first tensor or layer.
    """
    about, sites = bank.outline, method.sites
    wiring = as_json(sites.wiring.to_json(), "the wiring") if sites.wiring.sites else None
    then: dict[str, Any] = {line["name"]: line["kind"] for line in about["sites"]} | about["units"]
    now: dict[str, Any] = {name: role.kind for name, role in sites.roles.items()}
    now |= {path: site.axis for path, site in sites.units.items()}
    other = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if not other and wiring != about["wiring"]:
        other = ["the wiring"]
    if other:
        raise Refused(
            f"expected the roles and the wiring under which {bank.path} was begun, found another for {other[0]} (an "
            "earlier polymask, or another network): its tasks go on answering, but learn new ones in a new folder"
        )


def claim_bank(
    path: Path,
    config: Mapping[str, Any],
    bank: Bank | None,
    method: Method,
    builder: Builder | None,
    options: Mapping[str, Any],
) -> Bank:
    """The bank in a run's folder, which is written first now: the method has accepted its options and the network."""
    files.claim(path, config)
    if bank is None:
        return make_bank(path / "bank", method, builder, options)
    # A run that was killed right after a commit had no time to.
    bank.sweep()
    return bank


def make_bank(path: Path, method: Method, builder: Builder | None, options: Mapping[str, Any]) -> Bank:
    """An empty bank for a learner."""
    return Bank.create(
        path,
        method.sites,
        method=method.name,
        options=options,
        builder=builder,
        head=method.head,
        drawn=method.drawn,
        host=method.still,
        owned=method.owned,
        example=method.example,
        seed=method.seed,
    )
