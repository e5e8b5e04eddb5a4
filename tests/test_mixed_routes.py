"""Batches of many tasks in networks that send samples where their values say, and calls from many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tests.contract import drive
from tests.contract.zoo import DEVICE, placed
from tests.test_mixed import Doubled, check, randn
from torch import Tensor, nn
from torch.nn.utils import rnn

from polymask import HAT, Method
from polymask.calling import tensors_of
from polymask.mixed import Mixed
from polymask.mixed.forms import form_of
from polymask.mixed.layout import Layout
from polymask.mixed.own import Own


class Sent(nn.Module):
    """Two hidden layers that see the samples of a batch in an order of the network's own.

    Args:
        order: ``(network, x, flag) -> order``.
    """

    def __init__(self, order: Callable[[nn.Module, Tensor, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.order = order
        self.register_buffer("score", torch.randn(6))
        self.up, self.mid, self.head = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 4)

    def hidden(self, x: Tensor) -> Tensor:
        return self.mid(self.up(x).relu()).relu()

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        order = torch.as_tensor(self.order(self, x, flag), device=x.device)
        return self.head(self.hidden(x[order])[order.argsort()])


def by_flag(net: Sent, x: Tensor, flag: Tensor) -> Tensor:
    return flag.argsort(stable=True)


def by_score(net: Sent, x: Tensor, flag: Tensor) -> Tensor:
    return (x @ net.score).argsort()


def by_threshold(net: Sent, x: Tensor, flag: Tensor) -> Tensor:
    return (x[:, 0] > 2).int().argsort(stable=True)


def by_best(net: Sent, x: Tensor, flag: Tensor) -> Tensor:
    return x.norm(dim=1).topk(len(x)).indices


def by_list(net: Sent, x: Tensor, flag: Tensor) -> list[int]:
    flags = flag.tolist()
    return sorted(range(len(flags)), key=flags.__getitem__)


class Learned(Sent):
    """Samples sorted by what a layer with gates says of them."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        h = self.up(x).relu()
        order = h.sum(1).argsort()
        return self.head(self.mid(h[order]).relu()[order.argsort()])


class Experts(Sent):
    """Samples sent to one of two layers; one that none is sent to is not called."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        chosen = x @ self.score > 0
        out = x.new_zeros(len(x), 12)
        for expert, mine in ((self.up, chosen), (nn.Identity(), ~chosen)):
            rows = mine.nonzero().squeeze(1)
            if len(rows):
                out[rows] = expert(nn.functional.pad(x, (0, 6))[rows] if expert is not self.up else x[rows])
        return self.head(self.mid(out.relu()).relu())


class Compact(Sent):
    """Flagged samples alone go through the layers, the others stay what they are."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        out = nn.functional.pad(x, (0, 2))
        out[flag.bool()] = self.hidden(x[flag.bool()])
        return self.head(out)


class Product(Sent):
    """Samples sorted by a product with a permutation."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        places = torch.arange(len(x), device=x.device)
        key = flag * len(x) + places
        rank = (key[:, None] > key).sum(1)
        send = (rank == places[:, None]).float()
        return self.head(send.T @ self.hidden(send @ x))


class Leader(Sent):
    """Samples that go backwards where the first one's flag says so; nothing but arithmetic sends them."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        back = flag[:1, None] > 0
        h = self.hidden(torch.where(back, x.flip(0), x))
        return self.head(torch.where(back, h.flip(0), h))


class Lengths(Sent):
    """Steps packed by the lengths of their samples."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        steps = x[:, None].expand(-1, 3, -1)
        packed = rnn.pack_padded_sequence(steps, flag.cpu() + 1, batch_first=True, enforce_sorted=False)
        found = rnn.PackedSequence(
            self.hidden(packed.data), packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        )
        return self.head(rnn.pad_packed_sequence(found, batch_first=True)[0].sum(1))


FLAGS = ([0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0], [0, 1, 1, 0, 0, 1])
NETS: dict[str, Callable[[], Sent]] = {
    **{
        order.__name__: lambda order=order: Sent(order) for order in (by_flag, by_score, by_threshold, by_best, by_list)
    },
    **{kind.__name__.lower(): kind for kind in (Learned, Experts, Compact, Product, Leader, Lengths)},
}


OFTEN = ("by_flag", "by_threshold", "by_list", "experts", "product", "leader", "lengths")
CASES = [pytest.param(name, marks=() if name in OFTEN else (pytest.mark.full,)) for name in NETS]


def learned(net: nn.Module, example: Any) -> Method:
    """Two tasks whose units differ in every layer: the one's even ones and the other's odd ones are shut."""
    method = HAT(*placed(net, example))
    for place, task in enumerate(drive.tasks(method.example, 2)):
        drive.begin(method, task)
        drive.train(method, task, torch.optim.SGD(method.parameters(), lr=0.3), range(2))
        for scores in method.scores.values():
            with torch.no_grad():
                scores.copy_(torch.where(torch.arange(len(scores)) % 2 == place, -1.0, 1.0))
        method.end(task.name)
    return method


def taught(net: nn.Module) -> Method:
    return learned(net, (torch.randn(4, 6), torch.tensor([0, 1, 0, 1])))


def wrong(answers: Tensor, tasks: list[str], alone: dict[str, Tensor]) -> int:
    """How many samples are not answered as their own task answers the batch alone."""
    return sum(
        not torch.allclose(answers[row][: alone[task].shape[1]], alone[task][row], rtol=1e-4, atol=1e-4)
        for row, task in enumerate(tasks)
    )


@pytest.mark.parametrize("name", CASES)
def test_samples_that_go_where_their_values_say_are_their_own_tasks(name: str) -> None:
    method = taught(NETS[name]())
    mixed, plain = Mixed(method.sites, method.records), {task: method.plain(task) for task in "ab"}
    for flags in FLAGS:
        x = tensors_of((2 * torch.randn(6, 6), torch.tensor(flags)), lambda t: t.to(DEVICE))
        alone = {task: drive.answer(model, x) for task, model in plain.items()}
        assert wrong(alone["a"], list("bbbbbb"), alone) == 6
        assert wrong(mixed(x, list("ababab")), list("ababab"), alone) == 0


class Conditioned(Sent):
    """A flag that only says what is done with a sample: it stays where it is."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        if (flag > 1).any():
            raise ValueError("expected flags of 0 and 1")
        return self.head(self.hidden(torch.where(flag[:, None] > 0, x, -x)))


def test_a_flag_that_moves_no_sample_costs_no_further_pass(counted: Callable[..., int]) -> None:
    method = taught(Conditioned())
    mixed, ones, tasks = Mixed(method.sites, method.records), [1] * 6, list("ababab")
    passes = [counted(mixed, (torch.randn(6, 6), torch.tensor(flags)), tasks) for flags in (*FLAGS, ones, *FLAGS, ones)]
    # Five to ask, as many for each of two other orders of the flags, and the answer itself.
    assert passes == [16, 1, 1, 6, 1, 1, 1, 1]
    for flags in (FLAGS[0], ones):
        check(method, (torch.randn(6, 6), torch.tensor(flags)), 6)


@pytest.fixture
def counted() -> Callable[..., int]:
    """How many passes through the network a call takes."""

    def count(mixed: Mixed, x: Any, tasks: list[str]) -> int:
        calls: list[None] = []
        hook = mixed.model.register_forward_pre_hook(lambda *_: calls.append(None))
        mixed(tensors_of(x, lambda t: t.to(DEVICE)), tasks)
        hook.remove()
        return len(calls)

    return count


class Twice(nn.Module):
    """One layer on a batch first and on a batch last: its second call lies otherwise than its first."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.up(x).relu().transpose(0, 1)).relu().mean(0))


def test_a_layer_called_twice_has_a_layout_for_each_call(counted: Callable[..., int]) -> None:
    method = learned(Twice(), torch.randn(4, 3, 6))
    check(method, torch.randn(5, 3, 6), 5)
    mixed, x = Mixed(method.sites, method.records), torch.randn(5, 3, 6)
    assert [counted(mixed, x, list("ababa")) for _ in range(2)] == [6, 1]


class Loud(nn.Module):
    """Steps that lie time first or batch first, as the loudest value says."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 9:
            return self.head(self.up(x.transpose(0, 1)).relu().mean(0))
        return self.head(self.up(x).relu().mean(1))


def test_a_branch_by_value_is_asked_about_when_it_is_taken() -> None:
    method = learned(Loud(), torch.randn(4, 4, 6))
    mixed, plain = Mixed(method.sites, method.records), {task: method.plain(task) for task in "ab"}
    quiet = randn(4, 4, 6)
    for x in (quiet, quiet + 20 * (quiet > quiet.mean()), quiet):
        tasks = list("abba")
        assert wrong(mixed(x, tasks), tasks, {task: drive.answer(model, x) for task, model in plain.items()}) == 0


class Joined(nn.Module):
    """Steps of two sequences, flattened, so that the length of the second says where samples lie."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        steps = torch.cat([x, more], 1)
        return self.head(self.up(steps.flatten(0, 1)).relu().view(*steps.shape[:2], -1).mean(1))


def test_every_tensor_of_a_batch_has_a_part_in_its_layout(counted: Callable[..., int]) -> None:
    method = learned(Joined(), (torch.randn(4, 2, 6), torch.randn(4, 1, 6)))
    mixed, x = Mixed(method.sites, method.records), torch.randn(4, 2, 6)
    batches = [(x, torch.randn(4, steps, 6)) for steps in (1, 3)]
    assert [counted(mixed, one, list("abab")) for one in batches * 2] == [5, 5, 1, 1]
    for one in batches:
        check(method, one, 4)


class Peeking(Sent):
    """A network that calls a layer and reads its bias elsewhere, too."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        return self.head(self.hidden(x)) + self.head.bias


def test_a_layer_that_is_read_elsewhere_too_is_not_answered_wrongly() -> None:
    method = taught(Peeking())
    with pytest.raises(ValueError, match="expected the network to call 'head'"):
        Mixed(method.sites, method.records)((randn(2, 6), torch.tensor([0, 1], device=DEVICE)), ["a", "b"])


class Started(Sent):
    """A network that asks a weight that all tasks share for zeros of its kind."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        return self.head(self.hidden(x + self.up.weight.new_zeros(1)))


def test_a_shared_weight_of_a_layer_with_gates_may_be_read_elsewhere() -> None:
    method = taught(Started())
    assert "up" in method.sites.units
    check(method, (torch.randn(4, 6), torch.tensor([0, 1, 0, 1])), 4)


def test_a_private_bias_is_shut_with_its_unit() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(2, 3)
    biases, gate = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    form = form_of(layer, Own(2, {"bias": biases}, gate=gate))
    assert form is not None
    layout, index = Layout(0, torch.arange(2)), torch.tensor([1, 0])
    found = form(x, lambda values, y: layout.spread(values, index, y.ndim, -1))
    expected = torch.stack([gate[1 - row] * (x[row] @ layer.weight.T + biases[1 - row]) for row in range(2)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("order", [by_flag, None])
def test_threads_do_not_answer_for_each_other(order: Callable[..., Any] | None) -> None:
    method = taught(Sent(order) if order else Conditioned())
    mixed, plain = Mixed(method.sites, method.records), {task: method.plain(task) for task in "ab"}
    batches = [(torch.randn(rows, 6).to(DEVICE), (torch.arange(rows) % 2).to(DEVICE)) for rows in (5, 6)]
    alone = [{task: drive.answer(model, x) for task, model in plain.items()} for x in batches]
    start = threading.Barrier(2)

    def serve(which: int) -> int:
        start.wait()
        turns = [["ab"[(turn + row + which) % 2] for row in range(len(batches[which][0]))] for turn in range(12)]
        return sum(wrong(mixed(batches[which], tasks), tasks, alone[which]) for tasks in turns)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(serve, range(2))) == [0, 0]


class Aside(Sent):
    """Samples sorted by a value's sign in a thread of the network's own, where nobody sees it."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            order = pool.submit(lambda: (x[:, 0] > 0).int().argsort(stable=True)).result()
            sent = pool.submit(lambda: x[order]).result()
        return self.head(self.hidden(sent)[order.argsort()])


def test_samples_that_are_sent_where_no_operation_is_seen_are_their_own_tasks() -> None:
    method = taught(Aside())
    mixed, plain, tasks = Mixed(method.sites, method.records), {t: method.plain(t) for t in "ab"}, list("ababab")
    for flags in FLAGS:
        flag, x = torch.tensor(flags), torch.randn(6, 6)
        x[:, 0] = 200.0 * flag - 100.0
        batch = tensors_of((x, flag), lambda t: t.to(DEVICE))
        assert (
            wrong(mixed(batch, tasks), tasks, {task: drive.answer(model, batch) for task, model in plain.items()}) == 0
        )


class Threaded(Sent):
    """A network that calls a layer in a thread of its own."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            return self.head(pool.submit(self.hidden, x).result())


def test_a_layer_in_another_thread_is_refused_in_words() -> None:
    method = taught(Threaded())
    with pytest.raises(ValueError, match="'up' to be called in the thread that called Mixed"):
        Mixed(method.sites, method.records)((randn(2, 6), torch.tensor([0, 1], device=DEVICE)), ["a", "b"])


class Skipping(Sent):
    """A layer that is called only where a sample is meant for it."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        h = self.up(x).relu()
        out = torch.zeros(len(x), 8, device=x.device)
        out[flag == 0] = h[flag == 0][:, :8]
        if (flag == 1).any():
            out[flag == 1] = self.mid(h[flag == 1])
        return self.head(out)


def test_a_layer_that_this_batch_does_not_need() -> None:
    method = taught(Skipping())
    assert method.sites.roles["mid.bias"].kind != "frozen", "the example's first row alone does not call it"
    mixed, plain, tasks = Mixed(method.sites, method.records), {t: method.plain(t) for t in "ab"}, list("abab")
    for flags in ([0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]):
        x = (randn(4, 6), torch.tensor(flags, device=DEVICE))
        assert wrong(mixed(x, tasks), tasks, {task: drive.answer(net, x) for task, net in plain.items()}) == 0


class ReadAside(Sent):
    """A layer's tensors are read in a thread of the network's own, where nobody sees it."""

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        h = self.hidden(x)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: h @ self.head.weight.T + self.head.bias).result()


class Glancing(Sent):
    """The first of several layers that have tensors of the tasks' own is read elsewhere, too."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.norm = nn.BatchNorm1d(6)
        self.up, self.mid, self.head = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        return self.head(self.hidden(self.norm(x) + self.norm.running_mean))


@pytest.mark.parametrize(("net", "layer"), [(ReadAside, "head"), (Glancing, "norm")])
def test_a_tensor_that_is_read_elsewhere_is_refused(net: type[Sent], layer: str) -> None:
    method = taught(net())
    with pytest.raises(ValueError, match=f"expected the network to call '{layer}'"):
        Mixed(method.sites, method.records)((randn(2, 6), torch.tensor([0, 1], device=DEVICE)), ["a", "b"])


def test_answers_that_are_not_a_samples_are_refused_wherever_samples_lie() -> None:
    method = taught(Sent(by_flag))
    mixed = Mixed(method.sites, method.records)
    mixed.model.register_forward_hook(lambda _module, _x, y: y.mean(0))
    with pytest.raises(ValueError, match=r"expected logits for each of 3 samples, found shape \(\d+,\)"):
        mixed((randn(3, 6), torch.tensor([1, 0, 1], device=DEVICE)), ["a", "b", "a"])


class TimeFirst(nn.Module):
    """A layer of a class of one's own is given steps before samples."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = Doubled(6, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(x.transpose(0, 1)).relu().mean(0))


def test_a_layer_of_ones_own_that_is_given_steps_first_is_not_answered_wrongly() -> None:
    method = learned(TimeFirst(), torch.randn(4, 3, 6))
    with pytest.raises(ValueError, match="answer one task at a time"):
        Mixed(method.sites, method.records)(randn(3, 3, 6), list("aba"))


class Linked(nn.Module):
    """Steps that see each other through a sparse matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(6, 12), nn.Linear(12, 4)
        self.links = torch.eye(3, device=DEVICE).roll(1, 0).to_sparse()

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.sparse.mm(self.links, x.transpose(0, 1).flatten(1)).view(3, len(x), 6).transpose(0, 1)
        return self.head(self.up(seen).relu().mean(1))


def test_a_network_with_a_sparse_matrix() -> None:
    check(learned(Linked(), torch.randn(4, 3, 6)), torch.randn(4, 3, 6), 4)
