"""The subcommands that only look: methods, roles, verify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polymask.bank.bank import Bank
from polymask.cli.catalog import methods_table, options_table, recipes_table
from polymask.cli.options import Parser, parse
from polymask.cli.parsers import add_options, method_of
from polymask.loaded import bank_folder
from polymask.method.contract import Method
from polymask.methods import METHODS
from polymask.nets import NETS
from polymask.nets.by_name import build_model, example_of, is_transformers
from polymask.report.table import table

Say = Callable[[str], None]


def methods_parser(argv: list[str]) -> Parser:
    """Of ``polymask methods``."""
    return Parser("methods", "List the methods: what they mask, learn and store, their options and their recipes.")


def methods(argv: list[str], say: Say) -> int:
    """List the methods."""
    parse(methods_parser(argv), argv)
    for title, rows in (("", methods_table()), ("Options:", options_table()), ("Recipes:", recipes_table())):
        say(f"{title}\n{table(rows)}\n".lstrip())
    return 0


def roles_parser(argv: list[str]) -> Parser:
    """Of ``polymask roles``, with the options of the method that the command line names."""
    parser = Parser("roles", "Say of every tensor of a network what a method does with it, and why.")
    parser.add_argument("--method", type=str, default="packnet", help="The method.")
    parser.add_argument("--model", type=str, default="mlp", help="The network, as for polymask run.")
    parser.add_argument("--net", type=dict[str, Any], default={}, help="Its arguments, such as --net.width 20.")
    parser.add_argument(
        "--shape",
        type=list[int] | None,
        help="Shape of an example, such as 3 32 32; without it 1 8 8 for our networks, 3 224 224 for others, and token "
        "ids for those of transformers.",
    )
    parser.add_argument("--outputs", type=int, default=10, help="Width of the head.")
    parser.add_argument("--head", type=str | None, help="The name of the head module, where it cannot be found.")
    add_options(parser, method_of(argv, joint=False))
    return parser


def roles(argv: list[str], say: Say) -> int:
    """Print the roles of a network's tensors."""
    values, name = parse(roles_parser(argv), argv), method_of(argv, joint=False)
    shape = values["shape"] or default_shape(values["model"])
    model = build_model(values["model"], shape, values["outputs"], **values["net"])
    method = METHODS[name](model, example_of(shape), head=values["head"], **values["options"])
    rows = [
        {
            "tensor": tensor,
            "shape": " x ".join(map(str, method.sites.tensor(tensor).shape)) or "one number",
            "role": role.kind,
            "why": role.why,
            **({"units": units_of(method, tensor)} if method.sites.wiring.sizes else {}),
        }
        for tensor, role in method.sites.roles.items()
    ]
    say(f"{table(rows)}\nThe head is {method.head!r}.")
    return 0


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


def verify_parser(argv: list[str]) -> Parser:
    """Of ``polymask verify``."""
    parser = Parser("verify", "Prove by content and by behaviour that a run's finished tasks are what they were.")
    parser.add_argument("dir", type=str, help="The run's folder, or a bank.")
    return parser


def verify(argv: list[str], say: Say) -> int:
    """Check a run's bank; 1 if it does not hold what it held."""
    found = Bank.open(bank_folder(parse(verify_parser(argv), argv)["dir"])).verify()
    say(str(found))
    return 0 if found.ok else 1


PARSERS = {"methods": methods_parser, "roles": roles_parser, "verify": verify_parser}
CALLS = {"methods": methods, "roles": roles, "verify": verify}
