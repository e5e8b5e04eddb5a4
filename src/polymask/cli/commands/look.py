"""The subcommands that look at a network and at a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from polymask.bank.bank import Bank
from polymask.learning.learner import method_class
from polymask.loaded import bank_folder
from polymask.method.contract import Method
from polymask.method.kind import kind_of
from polymask.nets import NETS
from polymask.nets.by_name import build_model, example_of, is_transformers
from polymask.report.table import table


def verify(say: Callable[[str], None], dir: str) -> int:
    """Prove that a run's finished tasks are what they were, by content and by behaviour.

    Examples:
        polymask verify runs/first

    Args:
        say: called with what was found.
        dir: the run's folder, or a bank.

    Returns:
        1 if the bank does not hold what it held.

    Example:
        polymask verify runs/first
    """
    found = Bank.open(bank_folder(dir)).verify()
    say(str(found))
    return 0 if found.ok else 1


def roles(
    say: Callable[[str], None],
    method: str = "packnet",
    model: str = "mlp",
    net: dict[str, Any] | None = None,
    shape: Sequence[int] | None = None,
    outputs: int = 10,
    head: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Say of every tensor of a network what a method does with it, and why.

    Examples:
        polymask roles --method supsup --model resnet18 --shape 3 32 32

    Args:
        say: called with the table.
        method: the method, or package.module:Class.
        model: the network, as for polymask run.
        net: its arguments, such as --net.width 20.
        shape: shape of an example, such as 3 32 32; without it 1 8 8 for our networks, 3 224 224 for others, and token
            ids for those of transformers.
        outputs: width of the head.
        head: the name of the head module, where it cannot be found.
        options: the method's own.

    Example:
        polymask roles --method supsup --model resnet18 --shape 3 32 32
    """
    shape = shape or default_shape(model)
    network = build_model(model, shape, outputs, **(net or {}))
    learner = method_class(method)(network, example_of(shape), head=head, **(options or {}))
    rows = [
        {
            "tensor": tensor,
            "shape": " x ".join(map(str, learner.sites.tensor(tensor).shape)) or "one number",
            "role": role.kind,
            "why": role.why,
            **({"units": units_of(learner, tensor)} if learner.sites.wiring.sizes else {}),
        }
        for tensor, role in learner.sites.roles.items()
    ]
    say(f"{table(rows)}\nThe head is {learner.head!r}.{said_of_taken(learner)}")
    return 0


def said_of_taken(method: Method) -> str:
    r"""What options that were left open became, and why; "" if none was.

    >>> from polymask import Piggyback
    >>> from polymask.nets import MLP
    >>> said_of_taken(Piggyback(MLP(4, (8,), 2), example_of([4]), norms="private"))
    "\nLeft open, and taken as fits a network of linear layers: start 'constant'."
    """
    took = ", ".join(f"{name} {value!r}" for name, value in method.took.items())
    kind = "convolutions" if kind_of(method.model) == "convolutional" else "linear layers"
    return f"\nLeft open, and taken as fits a network of {kind}: {took}." if took else ""


def units_of(method: Method, tensor: str) -> str:
    """Which masks on units reach a tensor: what shuts its rows and columns, or what masks the norm it stands in."""
    wiring, path = method.sites.wiring, tensor.rpartition(".")[0]
    if path in wiring.echoes:
        return "masked again as its input is"
    if path in wiring.sites and path not in wiring.rows:
        return f"its {wiring.sizes[path]} units are masked here"
    return wiring.describe(tensor) if path in wiring.rows or path in wiring.feeds or path in wiring.notes else ""


def default_shape(model: str) -> list[int] | None:
    """The shape of an example for a network that nobody has told.

    >>> default_shape("mlp"), default_shape("vit_tiny_patch16_224"), default_shape("./bert")
    ([1, 8, 8], [3, 224, 224], None)
    """
    if model in NETS:
        return {"vgg": [1, 16, 16], "alexnet": [1, 32, 32]}.get(model, [1, 8, 8])
    return None if is_transformers(model) else [3, 224, 224]
