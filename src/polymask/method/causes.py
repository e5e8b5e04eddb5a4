"""What probably changed a network: its modules as they were, and the change that explains what the guard found."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

from polymask.sites.roles import STATISTICS
from polymask.sites.slots import WeightSite
from polymask.sites.table import Sites

Form = Mapping[str, object]
"""What one module was: itself, its class, what hangs on it, its public attributes in words."""

OWN = ("training", "train", "in_features", "out_features", "in_channels", "out_channels", "num_features")
"""What we set ourselves, as heads and layers change their width from task to task."""
PLAIN = (int, float, str, bool, type(None), torch.dtype, torch.Size)


def forms(model: nn.Module) -> dict[str, Form]:
    """Every module of a network as it is now; what a task opens and closes is left out.

    >>> sorted(forms(nn.Dropout(0.5))[""])
    ['class', 'hooks', 'inplace', 'module', 'p', 'parametrizations']
    """
    return {path: _form(module) for path, module in model.named_modules() if not _is_ours(path)}


def changed_forms(was: Mapping[str, Form], now: Mapping[str, Form]) -> list[str]:
    """What differs between two moments, a phrase each.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.1))
    >>> before = forms(net)
    >>> net[1].p = 0.5
    >>> changed_forms(before, forms(net))
    ["attribute p of '1' went from 0.1 to 0.5"]
    """
    found = [f"module {path!r} is gone" for path in was if path not in now]
    found += [f"module {path!r} is new" for path in now if path not in was]
    for path in [path for path in was if path in now]:
        old, new = was[path], now[path]
        if old["module"] is not new["module"]:
            found.append(f"module {path!r} was replaced by another")
            continue
        if old["class"] != new["class"] and old["parametrizations"] == new["parametrizations"]:
            found.append(f"the class of {path!r} went from {old['class']} to {new['class']}")
        for key, words in (("hooks", "hooks"), ("parametrizations", "a parametrization that is not ours")):
            if old[key] != new[key]:
                found.append(f"{words} came or went on {path!r}")
        for key in sorted({*old, *new} - {"module", "class", "hooks", "parametrizations"}):
            if old.get(key) != new.get(key):
                found.append(f"attribute {key} of {path!r} went from {old.get(key)} to {new.get(key)}")
    return found


def causes(sites: Sites, found: Mapping[str, str], changes: list[str]) -> list[str]:
    """What probably did it, most likely first.

    Args:
        sites: the attached model.
        found: tensor -> what it is now, of those that are not as they were.
        changes: from ``changed_forms``.
    """
    if not found:
        return changes
    # What went through 16 bits and came back is exactly representable in them.
    halved = [name for name in found if name in sites.roles and _is_halved(sites.base(name))]
    if any(word.startswith(("float", "bfloat")) for word in found.values()):
        return ["the network was converted to another precision (half(), to(dtype))", *changes]
    if halved and len(halved) == len(found):
        return ["the network went through another precision and back (half(), float())", *changes]
    if all(name.rpartition(".")[2] in STATISTICS for name in found):
        return ["statistics were reset or updated (reset_running_stats, update_bn)", *changes]
    if len(found) > 1:
        return ["weights were loaded or drawn again (load_state_dict, reset_parameters, apply)", *changes]
    return ["somebody wrote to it", *changes]


def _form(module: nn.Module) -> Form:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    public = {name: value for name, value in vars(module).items() if not name.startswith("_") and name not in OWN}
    told = {name: words for name, value in public.items() if (words := _in_words(value)) is not None}
    foreign = []
    if parametrize.is_parametrized(module):
        stacks = module.get_submodule("parametrizations").named_children()
        foreign = [leaf for leaf, stack in stacks for each in stack.children() if not isinstance(each, WeightSite)]
    kind = type(module).__mro__[1] if parametrize.is_parametrized(module) else type(module)
    keys = tuple(key for each in hooks for key in each)
    return {"module": module, "class": kind.__name__, "hooks": keys, "parametrizations": tuple(foreign), **told}


def _in_words(value: object) -> str | None:
    """An attribute in words; None: of no simple kind, and so not compared."""
    if isinstance(value, PLAIN) or (isinstance(value, tuple | list) and all(isinstance(v, PLAIN) for v in value)):
        return repr(value)
    if isinstance(value, Callable) and not isinstance(value, nn.Module):  # type: ignore[arg-type]
        return getattr(value, "__qualname__", type(value).__name__)
    return None


def _is_ours(path: str) -> bool:
    return any(part in ("parametrizations", "units") for part in path.split("."))


def _is_halved(base: torch.Tensor) -> bool:
    return base.is_floating_point() and any(
        torch.equal(base, base.to(kind).to(base.dtype)) for kind in (torch.float16, torch.bfloat16)
    )
