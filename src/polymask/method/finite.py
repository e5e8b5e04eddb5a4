"""What trains must be finite: 0 * NaN is NaN, and one batch could spoil every task that units separate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from polymask.method.guard import any_process

if TYPE_CHECKING:
    from polymask.method.contract import Method


class NotFinite(ArithmeticError):  # noqa: N818 - the name says what is wrong
    """Something that trains is NaN or infinite; the open task is lost, every finished one is kept."""


def refuse_infinite(method: Method) -> None:
    """Raise if anything that trained is no longer finite, statistics too; on all processes if on one.

    Raises:
        NotFinite: naming the tensors.
    """
    bad = [name for name, was, now in _trained(method) if _spoiled(was, now)]
    if any_process(bool(bad), method):
        raise NotFinite(
            f"expected finite numbers where task {method.task!r} has trained, found NaN or infinity in "
            f"{', '.join(bad) or 'what another process trained'}: begin({method.task!r}) again, which abandons what it "
            "learned, with a lower learning rate, clipped gradients or a look at the data. Finished tasks are "
            "as they were"
        )


def refuse_infinite_base(method: Method) -> None:
    """Raise if a base that real masks, or masks on units, multiply is not finite: 0 * NaN is NaN, whatever the mask."""
    sites = method.sites
    layers = {*sites.units, *sites.wiring.rows, *sites.wiring.feeds} if sites.units else ()
    names = {name: None for layer in layers for name in sites.inside(layer) if sites.roles[name].kind != "private"}
    names |= dict.fromkeys(sites.weights if method.multiplies else ())
    for name in names:
        base = sites.base(name)
        if _spoiled(None, base):
            raise NotFinite(
                f"expected a finite base, found NaN or infinity in {name!r}: a mask on units, or with a scale, "
                "multiplies it, and 0 * NaN is NaN. Load finite weights before the first task"
            )


def _trained(method: Method) -> Iterable[tuple[str, Tensor | None, Tensor]]:
    """Name, what it was before the task, what it is now, of all that a task changes; of its own, only what it is."""
    before = {} if method._before is None else method._before.tensors
    for name in method.sites.names(*method.learning):
        was = None if method.sites.roles[name].kind == "private" else before.get(name)
        yield name, was, method.sites.tensor(name)
    for name in sorted(method.sites.opened):
        if not method.sites.tensor(name).detach().sum().isfinite():
            yield name, method.sites.weights[name].kept, method.sites.base(name)
    for name, source in method.sources.items():
        for own, parameter in source.named_parameters():
            yield f"{name}.{own}", None, parameter


def _spoiled(was: Tensor | None, now: Tensor) -> bool:
    if not (now.is_floating_point() or now.is_complex()):
        return False
    # Any NaN or infinity shows in the sum, at a tenth of the cost of looking at each.
    if bool(now.detach().sum().isfinite()):
        return False
    bad = ~now.detach().isfinite()
    if was is not None and was.shape == now.shape:
        bad &= was.to(now.device).isfinite()
    return bool(bad.any())
