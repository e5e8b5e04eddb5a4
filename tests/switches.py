"""Small networks in which something leaks only under inputs unlike the example: name -> builder of a ``Switch``.

What an input switches on is added to units behind their mask, or another expert takes their place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tests.traps import Net
from torch import Tensor, nn


@dataclass(frozen=True)
class Switch:
    """A network and what it is given.

    Args:
        model: the network; it ends in ``head``.
        example: what a method is told that it takes.
        inputs: what it takes as well.
        rows: the layers that get a site.
        columns: reader -> how many of its columns are shut by what feeds them.
        whole: whether it takes the example's own batch size alone.
    """

    model: nn.Module
    example: Any
    inputs: list[Any]
    rows: str = "b"
    columns: str = "head:4"
    whole: bool = False


SWITCHES: dict[str, Callable[[], Switch]] = {}
QUICK = frozenset(
    [
        "time_first_with_a_position_code",
        "padding_of_an_example_of_zeros",
        "a_padding_mask",
        "one_token",
        "tokens_over_255",
        "a_padding_mask_that_the_example_leaves_out",
        "all_tokens_over_255",
        "loud_inputs",
        "more_than_one_row",
        "longer_sequences",
        "positions_beyond_a_length",
        "a_domain_as_a_number",
        "a_domain_as_a_word",
        "an_expert_by_number",
        "an_expert_of_every_row",
        "lengths_of_packed_sequences",
        "a_batch_of_its_own_size",
        "a_graph",
    ]
)
"""One of each kind."""


def switch(build: Callable[[], Switch]) -> Callable[[], Switch]:
    SWITCHES[build.__name__] = build
    return build


class Two(nn.Module):
    """Two layers and a head; between the layers something is added that the input decides."""

    def __init__(self, added: Callable[..., Any], embeds: int = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(embeds, 6) if embeds else nn.Identity()
        self.a, self.b, self.head = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)
        self.added = added

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Tensor:
        h = F.relu(self.a(self.table(x)))
        h = F.relu(self.b(h + self.added(x, *more, **named)))
        return self.head(h.flatten(1, -2).mean(1) if h.ndim > 2 else h)


class Kinds(nn.Module):
    """What is added for a token's kind: of the model's own, since a copy's closure would read another's."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.Embedding(3, 5)

    def forward(self, x: Tensor, types: Tensor) -> Tensor:
        return self.kinds(types)


class Places(nn.Module):
    """What is added for a place, once a sequence is long."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(16, 5)

    def forward(self, x: Tensor) -> Tensor | float:
        return self.places(torch.arange(x.shape[1])) if x.shape[1] > 10 else 0.0


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape)


def ids(high: int, *shape: int, low: int = 0) -> Tensor:
    return torch.randint(low, high, shape)


def on(condition: Tensor) -> Tensor:
    return condition.float()[..., None]


@switch
def time_first_with_a_position_code():
    def run(n, x):
        steps = torch.arange(len(x))[:, None, None] / torch.arange(1, 6)
        return n.head(F.relu(n.b(F.relu(n.a(x)) + steps.sin())).mean(0))

    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}
    return Switch(Net(run, **parts), numbers(5, 4, 6), [numbers(5, 4, 6), numbers(9, 2, 6), numbers(2, 1, 6)])


@switch
def time_first_of_one_sequence():
    def run(n, x):
        return n.head(F.relu(n.b(F.relu(n.a(x)) + (torch.arange(len(x)) >= 3)[:, None, None])).mean(0))

    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}
    return Switch(Net(run, **parts), numbers(4, 1, 6), [numbers(4, 1, 6), numbers(4, 3, 6)])


@switch
def recurrent_time_first():
    def run(n, x):
        h = x.new_zeros(x.shape[1], 5)
        for step in x:
            h = F.relu(n.a(step)) + torch.sigmoid(h) * (h != 0)
        return n.head(F.relu(n.b(h)))

    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}
    return Switch(Net(run, **parts), numbers(3, 2, 6), [numbers(3, 2, 6), numbers(7, 2, 6)], "a b", "b:5 head:4")


@switch
def padding_of_an_example_of_zeros():
    return Switch(Two(lambda x: on(x != 0), 12), torch.zeros(4, 5, dtype=torch.long), [ids(12, 4, 5, low=1)])


@switch
def a_padding_mask():
    model = Two(lambda x, attention_mask: on(attention_mask == 0), 12)
    padded = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    example = {"x": ids(12, 2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    return Switch(model, example, [{"x": ids(12, 2, 5), "attention_mask": padded}, example])


@switch
def a_padding_mask_that_the_example_leaves_out():
    def added(x, mask=None):
        return 0.0 if mask is None else on(mask == 0)

    class Masked(Two):
        def forward(self, x, attention_mask=None):
            return super().forward(x, attention_mask)

    return Switch(Masked(added, 12), {"x": ids(12, 2, 5)}, [{"x": ids(12, 2, 5), "attention_mask": ids(2, 2, 5)}])


@switch
def a_flag_that_the_example_leaves_out():
    class Flagged(Two):
        def forward(self, x, late=False):
            return super().forward(x, late)

    return Switch(Flagged(lambda x, late: 1.0 if late else 0.0), numbers(2, 6), [(numbers(2, 6), True)])


@switch
def a_padding_mask_of_booleans():
    model = Two(lambda x, mask: on(mask) * 0.3)
    example = (numbers(2, 5, 6), torch.zeros(2, 5, dtype=torch.bool))
    return Switch(model, example, [(numbers(2, 5, 6), torch.tensor([[True, False, True, True, False]] * 2))])


@switch
def token_types():
    model = Two(lambda x, types: on(types == 1), 12)
    example = (ids(12, 2, 5), torch.zeros(2, 5, dtype=torch.long))
    return Switch(model, example, [(ids(12, 2, 5), ids(2, 2, 5))])


@switch
def token_types_that_are_embedded():
    model = Two(Kinds(), 12)
    nn.init.zeros_(model.added.kinds.weight[0].detach())
    example = (ids(12, 2, 5), torch.zeros(2, 5, dtype=torch.long))
    return Switch(model, example, [(ids(12, 2, 5), ids(3, 2, 5))])


@switch
def one_token():
    return Switch(Two(lambda x: torch.where(x == 3, 1.0, 0.0)[..., None], 4000), ids(3, 2, 5), [ids(5, 4, 5)])


@switch
def tokens_over_150():
    return Switch(Two(lambda x: on(x > 150), 200), ids(100, 2, 5), [ids(200, 4, 5)])


@switch
def tokens_over_255():
    return Switch(Two(lambda x: on(x > 255), 300), ids(40, 2, 5), [ids(300, 4, 5, low=250)])


@switch
def all_tokens_over_255():
    return Switch(Two(lambda x: 1.0 if int(x.min()) > 255 else 0.0, 300), ids(40, 2, 5), [ids(300, 4, 5, low=256)])


@switch
def a_number_over_255_that_is_not_embedded():
    model = Two(lambda x, age: on(age > 255)[:, None])
    return Switch(model, (numbers(2, 5, 6), ids(40, 2)), [(numbers(2, 5, 6), torch.tensor([300, 3]))])


@switch
def loud_inputs():
    return Switch(Two(lambda x: float(x.abs().max() > 50)), numbers(2, 6), [numbers(2, 6) * 100, numbers(2, 6)])


@switch
def very_loud_inputs():
    return Switch(Two(lambda x: on((x > 20_000).any(-1))), numbers(2, 6), [numbers(2, 6) * 1e5])


@switch
def more_than_one_row():
    return Switch(Two(lambda x: 1.0 if len(x) > 1 else 0.0), numbers(1, 6), [numbers(4, 6), numbers(2, 6)])


@switch
def more_than_one_row_of_several():
    model = Two(lambda x: (x.mean(0) - x).abs()[..., :5])
    return Switch(model, numbers(4, 6), [numbers(4, 6)])


@switch
def more_than_forty_rows():
    return Switch(Two(lambda x: 1.0 if x.shape[0] > 40 else 0.0), numbers(4, 6), [numbers(41, 6), numbers(64, 6)])


@switch
def a_single_row():
    return Switch(Two(lambda x: 1.0 if len(x) == 1 else 0.0), numbers(4, 6), [numbers(1, 6)])


@switch
def longer_sequences():
    model = Two(lambda x: (torch.arange(x.shape[1]) >= 8).float()[:, None])
    return Switch(model, numbers(2, 5, 6), [numbers(2, 9, 6), numbers(2, 20, 6)])


@switch
def shorter_sequences():
    model = Two(lambda x: 1.0 if x.shape[1] < 3 else 0.0)
    return Switch(model, numbers(2, 5, 6), [numbers(2, 2, 6), numbers(2, 1, 6)])


@switch
def positions_beyond_a_length():
    model = Two(Places(), 12)
    return Switch(model, ids(12, 2, 6), [ids(12, 2, 12), ids(12, 2, 16)])


@switch
def a_flag():
    return Switch(Two(lambda x, late: 1.0 if late else 0.0), (numbers(2, 6), False), [(numbers(2, 6), True)])


@switch
def a_domain_as_a_number():
    model = Two(lambda x, domain: 1.0 if domain == 7 else 0.0)
    return Switch(model, {"x": numbers(2, 6), "domain": 0}, [{"x": numbers(2, 6), "domain": 7}])


@switch
def a_domain_as_a_word():
    model = Two(lambda x, domain: {"photo": 0.0, "sketch": 1.0}[domain])
    return Switch(model, {"x": numbers(2, 6), "domain": "photo"}, [{"x": numbers(2, 6), "domain": "sketch"}])


@switch
def a_domain_without_axes():
    model = Two(lambda x, domain: (domain == 2).float())
    return Switch(model, (numbers(2, 6), torch.tensor(0)), [(numbers(2, 6), torch.tensor(2))])


@switch
def a_domain_of_every_row():
    model = Two(lambda x, domain: on(domain == 2))
    return Switch(model, (numbers(2, 6), torch.tensor([0, 1])), [(numbers(2, 6), torch.tensor([2, 0]))])


@switch
def a_flag_in_a_fraction():
    model = Two(lambda x, late: late[:, None] if ((late == 0) | (late == 1)).all() else late[:, None] * 0)
    return Switch(model, (numbers(2, 6), torch.zeros(2)), [(numbers(2, 6), torch.tensor([1.0, 0.0]))])


@switch
def a_flag_in_a_nested_mapping():
    model = Two(lambda x, how: how["more"][1].float())
    example = (numbers(2, 6), {"more": (None, torch.tensor(False))})
    return Switch(model, example, [(numbers(2, 6), {"more": (None, torch.tensor(True))})])


class Experts(nn.Module):
    """One of some experts, then a layer and a head."""

    def __init__(self, choose: Callable[..., Tensor], names: str = "abc") -> None:
        super().__init__()
        self.experts = nn.ModuleDict({name: nn.Linear(6, 5) for name in names})
        self.c, self.head, self.choose = nn.Linear(5, 4), nn.Linear(4, 3), choose

    def forward(self, x: Tensor, *which: Any) -> Tensor:
        return self.head(F.relu(self.c(F.relu(self.choose(self.experts, x, *which)))))


EXPERTS = {"rows": "c experts.a experts.b experts.c", "columns": "c:5 head:4"}


@switch
def an_expert_by_number():
    model = Experts(lambda experts, x, which: list(experts.values())[which](x))
    return Switch(model, (numbers(2, 6), 0), [(numbers(2, 6), which) for which in range(3)], **EXPERTS)


@switch
def an_expert_by_name():
    model = Experts(lambda experts, x, which: experts[which](x))
    return Switch(model, (numbers(2, 6), "b"), [(numbers(2, 6), which) for which in "abc"], **EXPERTS)


@switch
def an_expert_by_a_number_without_axes():
    model = Experts(lambda experts, x, which: list(experts.values())[int(which)](x))
    inputs = [(numbers(2, 6), torch.tensor(which)) for which in range(3)]
    return Switch(model, (numbers(2, 6), torch.tensor(1)), inputs, **EXPERTS)


@switch
def an_expert_of_every_row():
    def choose(experts, x, which):
        return torch.stack([expert(x) for expert in experts.values()], 1)[torch.arange(len(x)), which]

    inputs = [(numbers(4, 6), torch.tensor([0, 1, 2, 1]))]
    return Switch(Experts(choose), (numbers(4, 6), torch.zeros(4, dtype=torch.long)), inputs, **EXPERTS)


@switch
def an_expert_by_length():
    def choose(experts, x):
        return experts["a" if x.shape[1] < 4 else "b"](x).mean(1)

    model = Experts(choose, "ab")
    inputs = [numbers(2, 3, 6), numbers(2, 7, 6)]
    return Switch(model, numbers(2, 7, 6), inputs, "c experts.a experts.b", "c:5 head:4")


@switch
def lengths_of_packed_sequences():
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRU(6, 6, batch_first=True)
            self.a, self.b, self.head = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            h, _ = nn.utils.rnn.pad_packed_sequence(self.cell(packed)[0], batch_first=True, total_length=x.shape[1])
            short = torch.arange(x.shape[1]) >= lengths[:, None]
            return self.head(F.relu(self.b(F.relu(self.a(h)) + on(short))).mean(1))

    example = (numbers(3, 5, 6), torch.tensor([5, 5, 5]))
    return Switch(Packed(), example, [(numbers(3, 5, 6), torch.tensor([5, 3, 1]))])


@switch
def only_the_rows_of_a_mask():
    class Selected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x, real):
            h = torch.full((*x.shape[:2], 5), 0.5)
            h[real] = F.relu(self.a(x[real]))
            return self.head(F.relu(self.b(h)).mean(1))

    example = (numbers(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))
    return Switch(Selected(), example, [(numbers(2, 5, 6), torch.tensor([[True, False, True, True, False]] * 2))])


@switch
def a_batch_of_its_own_size():
    def run(n, x):
        h = F.relu(n.a(x)) + n.queue
        return n.head(F.relu(n.b(h)))

    model = Net(run, a=nn.Linear(6, 5), b=nn.Linear(5, 4), head=nn.Linear(4, 3))
    model.register_buffer("queue", torch.zeros(4, 5))
    return Switch(model, numbers(4, 6), [numbers(4, 6)], "a b", "b:5 head:4", whole=True)


@switch
def a_graph():
    def run(n, x, edges):
        h = F.relu(n.a(x))
        h = torch.zeros(len(x), 5).index_add(0, edges[1], h[edges[0]])
        return n.head(F.relu(n.b(h)))

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x, edges):
            return run(self, x, edges)

    edges = torch.tensor([[0, 1, 2, 3, 4, 4], [1, 2, 3, 4, 0, 2]])
    inputs = [(numbers(5, 6), edges.flip(1)), (numbers(5, 6), torch.tensor([[0, 4], [4, 0]]))]
    return Switch(Graph(), (numbers(5, 6), edges), inputs, "a b", "b:5 head:4", whole=True)
