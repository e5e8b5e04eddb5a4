"""An independent check of a wiring: mask by hooks, overwrite all that is said not to be live, compare the logits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from tests.traps import TRAPS
from torch import Tensor, nn

from polymask.calling import call
from polymask.wiring import Wiring, ask

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def weights(model: nn.Module, head: str = "head") -> list[str]:
    """What a method would mask: the weights of all layers but the head."""
    paths = (path for path, module in model.named_modules() if isinstance(module, LAYERS) and path != head)
    return [f"{path}.weight" for path in paths]


def asked(name: str) -> tuple[nn.Module, Wiring]:
    """A trap and its wiring; that a cross-check warned is no error here."""
    model, example = TRAPS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return model, ask(model, example, "head", weights(model))


@cache
def found(name: str) -> tuple[nn.Module, Wiring]:
    """The same, once."""
    return asked(name)


@torch.no_grad()
def randomised(model: nn.Module, draw: torch.Generator) -> nn.Module:
    """Parameters and running statistics that no longer have anything to do with their start."""
    for parameter in model.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        parameter.copy_(torch.randn(parameter.shape, generator=draw) / fan**0.5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            module.running_mean.normal_(generator=draw)
            module.running_var.uniform_(0.5, 2, generator=draw)
    return model.eval()


def patterns(wiring: Wiring, draw: torch.Generator) -> list[dict[str, Tensor]]:
    """Masks: all shut, all open, one unit open, one site open, and at random."""

    def at(density: float) -> dict[str, Tensor]:
        return {site: torch.rand(size, generator=draw) < density for site, size in wiring.sizes.items()}

    one, alone = at(0), at(0)
    if wiring.sites:
        site = list(wiring.sites)[int(torch.randint(len(wiring.sites), (), generator=draw))]
        one[site][int(torch.randint(wiring.sizes[site], (), generator=draw))] = True
        alone[site][:] = True
    return [at(0), at(1), one, alone, at(0.5), at(0.5), at(0.2), at(0.8)]


def answer(model: nn.Module, wiring: Wiring, masks: Mapping[str, Tensor], x: Any) -> Tensor:
    """The logits under masks: each module's output times its mask, echoes as well."""
    modules, hooks = dict(model.named_modules()), []
    for path, mask in {**masks, **wiring.echo_masks(masks)}.items():
        axis = {**wiring.sites, **wiring.echoes}[path]

        def multiply(_, __, y, mask=mask, axis=axis):
            return (y.movedim(axis, -1) * mask.to(y.dtype)).movedim(-1, axis)

        hooks.append(modules[path].register_forward_hook(multiply))
    with torch.no_grad():
        y = call(model, x)
    for hook in hooks:
        hook.remove()
    return y if isinstance(y, Tensor) else y["logits"]


@torch.no_grad()
def leak(
    model: nn.Module, wiring: Wiring, example: Tensor | None = None, draws: int = 3, inputs: Sequence[Any] = ()
) -> str:
    """What of a network's answers changes with entries that are said not to be live; nothing, if all is well.

    Asked under inputs drawn like an example, or under those that are given.
    """
    for seed in range(draws):
        draw = torch.Generator().manual_seed(seed)
        randomised(model, draw)
        tensors = dict(model.named_parameters(remove_duplicate=False))
        names = [
            f"{path}.{leaf}"
            for path, module in model.named_modules()
            for leaf in ("weight", "bias")
            if isinstance(module, LAYERS) and f"{path}.{leaf}" in tensors
        ]
        for place, masks in enumerate(patterns(wiring, draw)):
            xs = inputs or [torch.randn(3, *example.shape[1:], generator=draw) * scale for scale in (1, 3)]
            before = [answer(model, wiring, masks, x) for x in xs]
            kept = {name: tensors[name].clone() for name in names}
            for name in names:
                live = wiring.per_entry(name, tensors[name].shape, masks, True)
                noise = torch.randn(tensors[name].shape, generator=draw)
                tensors[name].copy_(torch.where(live, tensors[name], noise))
            after = [answer(model, wiring, masks, x) for x in xs]
            for name in names:
                tensors[name].copy_(kept[name])
            off = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
            if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
                return f"pattern {place} of parameters {seed}: logits off by {off:.2g}"
    return ""
