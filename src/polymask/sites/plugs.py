"""Modules plugged into a network: what a module of it gives passes through another one, which can be taken out again.

The host keeps its classes and keys; a plugged-in module stands under ``MODULE.plug``. Which tokens of a call are
padding is told to all of them, so that none need read it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

NAME = "plug"
"""What a plugged-in module is called inside the module whose output it changes."""

TOLD = ("attention_mask", "src_key_padding_mask")
"""What tells a module which tokens are padding, in transformers (1: none) and in torch's encoders (True: padding)."""

UNKNOWN = "unknown"
"""What stands where a call was told by a mask of another shape than (N, L)."""

Told = tuple[Tensor, bool] | str | None
"""What a call was told: a mask (N, L), and whether it marks padding; ``UNKNOWN``; None: nothing."""

_REAL: ContextVar[tuple[Told, ...]] = ContextVar("real", default=())
"""What every call that is under way was told, the innermost last."""

_TRACED: list[Told] = []
"""The same while a compiler follows a call, which knows no context variables; empty at any other time."""

_LEARNED = "learned_before"
"""Where a plugged-in module keeps the names of the host's parameters that learned until it came."""


def plug(host: nn.Module, modules: Mapping[str, nn.Module], freeze: bool = False) -> nn.Module:
    """Let the outputs of some modules of a network pass through others, in place.

    Args:
        host: the network.
        modules: name of a module of it -> what its output passes through; they take the network's device and dtype.
        freeze: whether the host's own parameters stop learning until ``unplug``.

    Returns:
        The network, for convenience.

    Raises:
        ValueError: if something is plugged in there already.

    >>> import torch
    >>> host, x = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.ones(1, 2)
    >>> before = host(x)
    >>> list(plug(host, {"0": nn.Identity()}).state_dict()) == ["0.weight", "0.bias"], list(plugged(host))
    (True, ['0.plug'])
    >>> bool(unplug(host)), torch.equal(host(x), before)
    (True, True)
    """
    if taken := [name for name in modules if NAME in host.get_submodule(name)._modules]:
        raise ValueError(f"expected nothing plugged into {taken[0]!r}, found something: unplug() the network first")
    like = next((one for one in host.parameters() if one.is_floating_point()), None)
    learned = [name for name, parameter in host.named_parameters() if parameter.requires_grad] if freeze else []
    if freeze:
        host.requires_grad_(False)
    for module in host.modules():
        names = tuple(inspect.signature(module.forward).parameters)
        if {*TOLD} & {*names} and not any(map(_is_ours, module._forward_pre_hooks.values())):
            module.register_forward_pre_hook(partial(_enter, names), with_kwargs=True)
            module.register_forward_hook(_leave, always_call=True)
    told = any(_is_ours(hook) for module in host.modules() for hook in module._forward_pre_hooks.values())
    for name, module in modules.items():
        place = host.get_submodule(name)
        fit = module if like is None else module.to(like.device, like.dtype)
        for inner in fit.modules():
            if isinstance(inner, Asks):
                inner.told = told
        setattr(fit, _LEARNED, learned)
        place.add_module(NAME, fit.train(place.training))
        place.register_forward_hook(_through)
    return host


def unplug(host: nn.Module) -> dict[str, nn.Module]:
    """Take out what was plugged in, in place: classes, keys and answers are as before, and what then learned does.

    Returns:
        The modules by the names that they had.
    """
    found = plugged(host)
    for name in found:
        place = host.get_submodule(name.rpartition(".")[0])
        place._modules.pop(NAME)
    for module in host.modules():
        _unhook(module)
    for name in {name for module in found.values() for name in vars(module).get(_LEARNED, ())}:
        host.get_parameter(name).requires_grad_(True)
    return found


@contextmanager
def bare_again(host: nn.Module) -> Iterator[None]:
    """If what follows fails, take out what it plugged into a network that had nothing plugged in."""
    bare = not plugged(host)
    try:
        yield
    except BaseException:
        if bare:
            unplug(host)
        raise


def plugged(host: nn.Module) -> dict[str, nn.Module]:
    """What is plugged into a network, by name, in the order in which it stands there."""
    return dict(_plugged(host))


class Asks(nn.Module):
    """A plugged-in module, or a part of one, that asks which tokens are padding."""

    told = False
    """Whether the network around it has modules that are told."""

    def real_tokens(self) -> Tensor | None:
        """Which tokens of the batch that is being answered are no padding, bool (N, L); None: all are.

        Raises:
            RuntimeError: if nobody says so: in a layer that is compiled alone or computed again in backward, or under a
                mask of another shape.
        """
        if not self.told:
            return None
        compiling = torch.compiler.is_compiling()
        told = _TRACED if compiling else _REAL.get()
        if not told and not compiling and torch._C._current_graph_task_id() == -1:
            return None
        real = told[-1] if told else UNKNOWN
        if isinstance(real, str):
            raise RuntimeError(
                "expected to be told which tokens are padding, by a mask (N, L) of the call around, found a layer that "
                "is computed again in backward or compiled by itself, or a mask of another shape: switch gradient "
                "checkpointing off (model.gradient_checkpointing_disable()), compile the whole network, give it (N, L)"
            )
        # Read here and not where it is told, so that the hooks of a compiled network are no graph of their own.
        return real if real is None else _read_in(*real)


def describe_plugs(host: nn.Module) -> list[dict[str, Any]]:
    """What is plugged in where, as JSON: what ``plug_again`` makes it from.

    Raises:
        ValueError: if a module does not say with which ``arguments`` it was made.
    """
    found = []
    for name, module in plugged(host).items():
        if not isinstance(arguments := getattr(module, "arguments", None), Mapping):
            raise ValueError(
                f"expected the module {name!r} to say what it was made with, found no arguments: give "
                f"{type(module).__name__} an attribute `arguments`, those of its constructor as JSON"
            )
        maker = f"{type(module).__module__}:{type(module).__qualname__}"
        found.append({"module": name.rpartition(".")[0], "maker": maker, "arguments": dict(arguments)})
    return found


def plug_again(host: nn.Module, described: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Plug the same kinds of modules into a network, in place, where it has none yet.

    Args:
        host: the network.
        described: from ``describe_plugs``.

    Raises:
        ValueError: if a module of the network, or a class, is not there.
    """
    modules, names = {}, {name for name, _ in host.named_modules()}
    for one in described:
        if one["module"] not in names:
            raise ValueError(f"expected a module {one['module']!r} in the network, found none: this is another network")
        if NAME in host.get_submodule(one["module"])._modules:
            continue
        package, _, leaf = one["maker"].partition(":")
        try:
            make = getattr(importlib.import_module(package), leaf)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"expected the class {one['maker']!r} of what is plugged in, found none ({error}): install its package"
            ) from error
        modules[one["module"]] = make(**one["arguments"])
    return plug(host, modules) if modules else host


def _plugged(host: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in host.named_modules():
        if _through in module._forward_hooks.values() and NAME in module._modules:
            yield f"{name}.{NAME}".lstrip("."), module.get_submodule(NAME)


def _through(module: nn.Module, _: Any, output: Tensor) -> Tensor:
    changed: Tensor = module.get_submodule(NAME)(output)
    return changed


def _enter(names: Sequence[str], _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Note which tokens are padding where a call is told; one that is not goes by what the call around it was told."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    mask, padding = (given.get(name) for name in TOLD)
    around = _TRACED if torch.compiler.is_compiling() else _REAL.get()
    real: Told = around[-1] if around else UNKNOWN if isinstance(mask, Tensor) else None
    if isinstance(mask, Tensor) and mask.ndim == 2:
        real = mask, False
    elif isinstance(padding, Tensor) and padding.ndim == 2:
        real = padding, True
    if torch.compiler.is_compiling():
        _TRACED.append(real)
    else:
        _REAL.set((*_REAL.get(), real))


def _read_in(mask: Tensor, marks_padding: bool) -> Tensor:
    """Which tokens a mask (N, L) lets be read: 1 and 0, or what is added to attention, 0 and far below it."""
    if marks_padding:
        return mask == 0
    if not mask.is_floating_point():
        return mask != 0
    added = ((mask < 0) | (mask > 1)).any() | ~mask.any()
    return torch.where(added, mask >= 0, mask != 0)


def _leave(*_: Any) -> None:
    if torch.compiler.is_compiling():
        _TRACED.pop()
    else:
        _REAL.set(_REAL.get()[:-1])


def _is_ours(hook: Any) -> bool:
    return hook in (_through, _leave) or (isinstance(hook, partial) and hook.func is _enter)


def _unhook(module: nn.Module) -> None:
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key in [key for key, hook in hooks.items() if _is_ours(hook)]:
            hooks.pop(key)
            for marks in (module._forward_pre_hooks_with_kwargs, module._forward_hooks_always_called):
                marks.pop(key, None)
