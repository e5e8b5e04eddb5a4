"""The guard: between two verbs nothing changes unseen, and while a task is open nothing that finished tasks read."""

from __future__ import annotations

import copy
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest
import torch
from tests.contract import drive
from tests.contract.toys import Anchored
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn

from polymask.held import AlteredNetwork, digest_again, proof
from polymask.method import contract, finite, guard
from polymask.method.contract import Method
from polymask.method.finite import NotFinite
from polymask.method.heads import fresh_head
from polymask.methods import APD, HAT, METHODS, PackNet, Piggyback
from polymask.sites.table import detach

EXACT = [name for name, kind in METHODS.items() if kind.card.exact is True]
KINDS: dict[str, Callable[..., Method]] = {
    **METHODS,
    "piggyback units": lambda *given, **how: Piggyback(*given, granularity="unit", **how),
    "piggyback first": lambda *given, **how: Piggyback(*given, backbone="first-task", **how),
    "drifting": lambda *given, **how: APD(*given, form="fixed", lambda2=0.0, **how),
    "packnet grow": lambda *given, **how: PackNet(*given, grow=2, ratio=0.0, **how),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)]
    return nn.Sequential(*body)


def start(name: str, **how: Any) -> tuple[Method, nn.Module, list[drive.Task]]:
    net = network()
    example = torch.randn(8, 6)
    return KINDS[name](net, example, **how), net, drive.tasks(example)


def halved(net: nn.Module) -> None:
    net.half().float()


def loaded_again(net: nn.Module) -> None:
    net.load_state_dict({key: value + 0.25 for key, value in net.state_dict().items() if "scores" not in key})


def another_head(net: nn.Module) -> None:
    net[5] = nn.Linear(12, 4)


def another_layer(net: nn.Module) -> None:
    net[3] = nn.Linear(16, 12)


def another_activation(net: nn.Module) -> None:
    net[2] = nn.GELU()


def another_eps(net: nn.Module) -> None:
    net[1].eps = 0.1


def a_hook(net: nn.Module) -> None:
    net[2].register_forward_hook(lambda module, inputs, output: output * 1.5)


def a_spectral_norm(net: nn.Module) -> None:
    nn.utils.parametrizations.spectral_norm(net[3])


def another_precision(net: nn.Module) -> None:
    net.double()


def a_wrapped_forward(net: nn.Module) -> None:
    real = net.forward
    net.forward = lambda x: real(x) + 1.0


CHANGES = {
    change.__name__: (change, words)
    for change, words in (
        (halved, r"half\(\), float\(\)"),
        (loaded_again, "load_state_dict"),
        (another_head, "module '5' was replaced"),
        (another_layer, "module '3' was replaced"),
        (another_activation, "module '2' was replaced"),
        (another_eps, "eps of '1' went from 1e-05 to 0.1"),
        (a_hook, "hooks came or went on '2'"),
        (another_precision, "another precision"),
        (a_wrapped_forward, "attribute forward"),
    )
}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        # PackNet meets every change, the others one in three, which go round.
        pytest.param(name, change, marks=() if name == "packnet" or place % 3 == k else pytest.mark.full)
        for place, change in enumerate(CHANGES)
        for k, name in enumerate(["hat", "tfm", "finetune", "packnet"])
    ],
)
def test_what_a_user_does_to_the_model_between_tasks_is_said_at_begin(name: str, change: str) -> None:
    method, net, todo = start(name)
    drive.learn(method, todo[:1])
    do, words = CHANGES[change]
    do(net)
    with pytest.raises(AlteredNetwork, match=words) as told:
        method.begin("b")
    assert "task 'a' would answer otherwise" in str(told.value)
    assert method.task is None
    with pytest.raises(AlteredNetwork, match=r"check\(\)"):
        method.check()


@pytest.mark.parametrize(
    ("change", "words"),
    [(a_spectral_norm, "another parametrization, a norm or a pruning on it"), (detach, r"without \(detach\?\)")],
)
def test_sites_taken_off_and_others_put_on_are_said(change: Callable[[nn.Module], object], words: str) -> None:
    method, net, todo = start("packnet")
    drive.learn(method, todo[:1])
    change(net)
    with pytest.raises((ValueError, RuntimeError), match=words):
        method.begin("b")


def frozen_bias(net: nn.Module) -> None:
    net[3].bias.mul_(0.9)


def frozen_norm(net: nn.Module) -> None:
    update_bn([torch.randn(8, 6) + 1], net)


def every_layer(net: nn.Module) -> None:
    net.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)


@pytest.mark.parametrize("change", [frozen_bias, frozen_norm, every_layer])
def test_frozen_tensors_are_watched(change: Callable[[nn.Module], None]) -> None:
    method, net, todo = start("packnet")
    drive.learn(method, todo[:1])
    change(net)
    with pytest.raises(AlteredNetwork, match="has other values"):
        method.begin("b")


def test_frozen_tensors_are_watched_while_a_task_is_open() -> None:
    method, net, todo = start("packnet")
    drive.learn(method, todo[:1])
    was = drive.logits(method, "a")
    for phase in method.phases:
        drive.begin(method, todo[1], phase)
        drive.train(method, todo[1], drive.sgd()(method), range(2))
    bias = net[3].bias.clone()
    net[3].bias.mul_(0.9)
    with pytest.raises(AlteredNetwork, match=r"end\('b'\).*'3.bias'"):
        method.end("b")
    assert method.task == "b"
    net[3].bias.copy_(bias)
    method.end("b")
    assert torch.equal(was, drive.logits(method, "a"))


class Constant(nn.Module):
    """A network with a constant that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.register_buffer("shift", torch.ones(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(x) + self.shift))


@pytest.mark.parametrize("name", ["packnet", "hat", "piggyback"])
def test_tensors_that_no_record_brings_are_watched(name: str) -> None:
    method = METHODS[name](Constant(), torch.randn(4, 6))
    todo = drive.tasks(torch.randn(4, 6))
    drive.learn(method, todo[:1])
    method.model.shift[3] = 0.5
    with pytest.raises(AlteredNetwork, match="'shift' has other values"):
        method.begin("b")


def test_a_change_that_shows_in_nothing_warns_once() -> None:
    method, net, todo = start("packnet")
    drive.learn(method, todo[:1])
    net[2].register_forward_hook(lambda module, inputs, output: None)
    with pytest.warns(UserWarning, match="hooks came or went on '2'; a small probe is answered as before"):
        method.begin("b")
    method.abandon()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.begin("b")


def test_a_change_of_free_entries_harms_nobody() -> None:
    method, _, todo = start("packnet", ratio=0.5)
    drive.learn(method, todo[:1])
    free = method.state["owner"]["0.weight"] == 0
    method.sites.write("0.weight", method.sites.base("0.weight").masked_fill(free, 3.0))
    method.check()


@pytest.mark.parametrize("name", list(KINDS))
def test_what_a_verb_does_itself_is_no_change(name: str) -> None:
    method, _, todo = start(name)
    for task in todo:
        drive.learn(method, [task])
        method.check()
        for earlier in list(method.records):
            method.activate(earlier)
            method.check()
    method.begin("d")
    method.abandon()
    method.check()


@pytest.mark.parametrize("name", EXACT)
def test_another_number_of_threads_is_no_change(name: str) -> None:
    method, _, todo = start(name)
    drive.learn(method, todo[:1])
    torch.set_num_threads(2)
    method.check()


class Base:
    """A bank, as far as ``restore`` asks."""

    def __init__(self, method: Method) -> None:
        every = method.sites.names("masked", "frozen", "first")
        self.kept = {name: method.sites.base(name).clone() for name in every}

    def tensors(self) -> Mapping[str, Tensor]:
        return self.kept


@pytest.mark.parametrize("change", [halved, loaded_again])
@pytest.mark.parametrize("name", ["packnet", "hat", "tfm", "piggyback"])
def test_a_base_can_be_brought_back(name: str, change: Callable[[nn.Module], None]) -> None:
    method, net, todo = start(name)
    drive.learn(method, todo[:1])
    was, base = drive.logits(method, "a"), Base(method)
    change(net)
    method.restore(base)
    method.check()
    assert torch.equal(was, drive.logits(method, "a"))
    drive.learn(method, todo[1:2])
    assert torch.equal(was, drive.logits(method, "a"))


def test_restore_says_why_it_cannot() -> None:
    method, net, todo = start("packnet")
    drive.learn(method, todo[:1])
    base = Base(method)
    net.double()
    with pytest.raises(ValueError, match=r"call model.to\(torch.float32\) first"):
        method.restore(base)
    net.float()
    method.restore(base)
    del base.kept["0.weight"]
    loaded_again(net)
    with pytest.raises(ValueError, match=r"'0.weight' in the model and in the bank, found none"):
        method.restore(base)


def averaged(net: nn.Module, steps: Callable[[Callable[[], None]], None]) -> None:
    """An average over ``state_dict()``, loaded back."""
    mean = {key: value.clone() for key, value in net.state_dict().items()}

    def update() -> None:
        for key, value in net.state_dict().items():
            mean[key].mul_(0.9).add_(value, alpha=0.1) if value.is_floating_point() else mean[key].copy_(value)

    steps(update)
    net.load_state_dict(mean)


def swa(net: nn.Module, steps: Callable[[Callable[[], None]], None]) -> None:
    """Torch's own average of the parameters, loaded back."""
    mean = AveragedModel(net)
    steps(lambda: mean.update_parameters(net))
    net.load_state_dict(mean.module.state_dict())


@pytest.mark.parametrize("average", [averaged, swa])
@pytest.mark.parametrize("name", EXACT)
def test_an_average_of_the_weights_may_be_loaded_back(name: str, average: Callable[..., None]) -> None:
    method, net, todo = start(name)
    drive.learn(method, todo[:1])
    was = drive.logits(method, "a")
    for phase in method.phases:
        drive.begin(method, todo[1], phase)
        optimizer = drive.sgd()(method)

        def steps(update: Callable[[], None], optimizer: torch.optim.Optimizer = optimizer) -> None:
            for step in range(4):
                drive.train(method, todo[1], optimizer, [step])
                update()

        average(net, steps)
    method.end("b")
    assert torch.equal(was, drive.logits(method, "a"))


def spoiled(method: Method, task: drive.Task, how: str) -> None:
    """A task of which one batch, or one statistic, is not finite."""
    for phase in method.phases:
        drive.begin(method, task, phase)
        drive.train(method, task, drive.sgd()(method), range(2))
    if how == "batch":
        optimizer = drive.adamw()(method)
        method.on_step(1.0)
        F.cross_entropy(method.model(torch.full((8, 6), torch.nan)), torch.arange(8) % 4).backward()
        optimizer.step()
    else:
        name = next(name for name in method.sites.names("private", "first") if name.endswith("running_var"))
        method.sites.tensor(name)[0] = torch.inf


@pytest.mark.parametrize("how", ["batch", "statistic"])
@pytest.mark.parametrize("name", ["hat", "packnet", "tfm", "wsn", "independent"])
def test_what_is_not_finite_is_refused_and_harms_nobody(name: str, how: str) -> None:
    method, _, todo = start(name)
    if how == "batch" or name != "packnet":  # whose statistics are frozen after the first task
        drive.learn(method, todo[:1])
    spoiled(method, todo[1], how)
    with pytest.raises(NotFinite, match=r"NaN or infinity in .*(weight|running_var)"):
        method.end("b")
    assert method.task == "b"
    drive.learn(method, [todo[1]])
    assert all(drive.logits(method, task).isfinite().all() for task in method.records)


def test_an_infinity_that_no_mask_reads_is_allowed_but_not_under_masks_on_units() -> None:
    method, net, _ = start("piggyback")
    net[0].parametrizations.weight.original[0, 0] = torch.inf
    method.begin("a")
    net[0].parametrizations.weight[0].source.scores.data[0, 0] = -1.0
    with pytest.warns(UserWarning, match="never moved"):
        method.end("a")
    assert drive.logits(method, "a").isfinite().all()
    bad = network()
    with torch.no_grad():
        bad[3].weight[0, 0] = torch.nan
    hat = HAT(bad, torch.randn(8, 6))
    with pytest.raises(NotFinite, match=r"expected a finite base, found NaN or infinity in '3.weight'"):
        hat.begin("a")


PLACES = 8
"""Of all calls that ``end`` makes, so many are interrupted, evenly spread."""


class Stop:
    """Ctrl-C at the n-th call of a function of ours, and, if asked, at every one after it: while it is being undone."""

    def __init__(self, place: int, again: bool = False) -> None:
        self.place, self.again, self.calls = place, again, 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        # A generator is entered too when nobody waits for it any more, where nothing that is raised is seen.
        ours = "/polymask/" in frame.f_code.co_filename and not frame.f_code.co_flags & inspect.CO_GENERATOR
        if event == "call" and ours:
            self.calls += 1
            if self.calls == self.place or (self.again and self.calls > self.place):
                raise KeyboardInterrupt

    def during(self, run: Callable[[], object]) -> bool:
        """Whether it was interrupted."""
        before = sys.getprofile()
        sys.setprofile(self)
        try:
            run()
        except KeyboardInterrupt:
            return True
        finally:
            sys.setprofile(before)
        return False


@pytest.mark.parametrize(
    ("name", "finished"),
    [
        pytest.param(name, finished, marks=() if finished or name in ("packnet", "hat") else pytest.mark.full)
        for name in (
            *("packnet", "packnet grow", "hat", "tfm"),
            *("exssnet", "piggyback first", "independent", "finetune"),
        )
        for finished in (0, 1)
    ],
)
def test_an_interrupted_end_leaves_the_task_open_or_no_trace_of_it(name: str, finished: int) -> None:
    method, net, todo = start(name)
    drive.learn(method, todo[:finished])
    counted, *_ = start(name)
    drive.learn(counted, todo[:finished])
    answers = {task: drive.logits(method, task) for task in method.records}
    before, kinds = drive.tensors(net), [type(part) for part in net.modules()]

    def trained(learner: Method) -> Callable[[], object]:
        for phase in learner.phases:
            drive.begin(learner, todo[finished], phase, steps=1)
            drive.train(learner, todo[finished], drive.sgd()(learner), range(1))
        return lambda: learner.end(todo[finished].name)

    whole = Stop(0)
    whole.during(trained(counted))
    hits = 0
    for place in torch.linspace(2, 0.8 * whole.calls, PLACES).long().tolist():
        if not Stop(place, again=True).during(trained(method)):
            break  # it made fewer calls than the first one did
        method.abandon()
        if not Stop(place).during(trained(method)):
            break
        hits += 1
        assert method.task in (None, todo[finished].name)
        method.abandon()
        assert list(method.records) == list(answers)
        assert kinds == [type(part) for part in net.modules()]
        differing = drive.differing(before, drive.tensors(net))
        assert not [key for key in differing if ".mask" not in key and not key.endswith((".gate", ".kept"))]
        for task, was in answers.items():
            assert torch.equal(was, drive.answer(method.plain(task), drive.probe(method)))
    else:
        trained(method)()
    assert hits > PLACES // 2
    assert list(method.records) == [*answers, todo[finished].name]


def test_a_failing_close_is_undone() -> None:
    method, net, todo = start("packnet", ratio=0.5)
    before = drive.tensors(net)

    def fail(hard: dict[str, Tensor]) -> Any:
        raise MemoryError

    method._close = fail  # type: ignore[method-assign]
    for phase in method.phases:
        drive.begin(method, todo[0], phase)
        drive.train(method, todo[0], drive.sgd()(method), range(2))
    with pytest.raises(MemoryError):
        method.end("a")
    assert method.task == "a"
    method.abandon()
    assert not [key for key in drive.differing(before, drive.tensors(net)) if not key.endswith((".gate", ".kept"))]
    del method._close
    method.begin("b")
    assert "0.bias" in dict(method.named_parameters())


@pytest.mark.parametrize("name", ["packnet", "hat", "adahat", "exssnet", "apd"])
def test_an_end_that_failed_half_way_can_be_called_again(name: str) -> None:
    """What a method has noted of the task by then is taken back, or it would count twice."""
    (method, _, todo), (whole, _, _) = start(name), start(name)
    for one in (method, whole):
        drive.learn(one, todo[:1])
        for phase in one.phases:
            drive.begin(one, todo[1], phase)
            drive.train(one, todo[1], drive.sgd()(one), range(2))

    def fail(hard: dict[str, Tensor]) -> Any:
        raise MemoryError

    method._deltas = fail  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        method.end("b")
    del method._deltas
    method.end("b")
    whole.end("b")
    assert list(method.state) == list(whole.state)
    for key, found in method.state.items():
        assert all(torch.equal(value, whole.state[key][name]) for name, value in found.items())
    assert all(torch.equal(drive.logits(method, task), drive.logits(whole, task)) for task in "ab")


def no_comparison(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    real = guard.enforce

    def enforce(method: Method, said: str, *rest: Any, **how: Any) -> None:
        if not said.startswith(verb):
            real(method, said, *rest, **how)

    monkeypatch.setattr(guard, "enforce", enforce)


@pytest.mark.parametrize(
    ("verb", "test"),
    [
        ("begin", lambda: test_what_a_user_does_to_the_model_between_tasks_is_said_at_begin("packnet", "halved")),
        ("end", test_frozen_tensors_are_watched_while_a_task_is_open),
    ],
)
def test_the_guard_has_teeth(verb: str, test: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    no_comparison(monkeypatch, verb)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test()


def test_finiteness_has_teeth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "_spoiled", lambda was, now: False)
    with pytest.raises((AssertionError, pytest.fail.Exception, AlteredNetwork)):
        test_what_is_not_finite_is_refused_and_harms_nobody("hat", "batch")


def test_an_undone_end_has_teeth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.fold, "unfold", lambda method, fold: None)
    with pytest.raises(AssertionError):
        test_a_failing_close_is_undone()


def test_a_reissued_record_is_watched_as_it_reads_now() -> None:
    example = torch.randn(8, 6)
    method = Anchored(network(), example)
    for task in drive.tasks(example):
        drive.learn(method, [task])
        method.check()


def test_a_state_that_disagrees_is_refused() -> None:
    method, _, todo = start("packnet", ratio=0.5)
    drive.learn(method, todo[:1])
    drive.begin(method, todo[1])
    state = copy.deepcopy(method.state_dict())
    fresh, *_ = start("packnet", ratio=0.5)
    fresh.load_state_dict({**copy.deepcopy(method.state_dict())}, method.records)
    owner = method.state["owner"]["0.weight"]
    state["tensors"]["0.weight"][owner == 1] += 1
    state["slots"]["0.weight"]["kept"][owner == 1] += 1
    with pytest.raises(AlteredNetwork, match=r"found '0.weight' otherwise"):
        fresh.load_state_dict(state, method.records)


def test_a_state_is_compared_with_what_its_bank_says_and_watched_from_then_on() -> None:
    method, _, todo = start("packnet", ratio=0.5)
    drive.learn(method, todo[:1])
    fresh, *_ = start("packnet", ratio=0.5)
    fresh.load_state_dict(copy.deepcopy(method.state_dict()), method.records)
    assert fresh.watch.task == "a"
    drive.learn(method, todo[1:2])
    state, held = copy.deepcopy(method.state_dict()), digest_again(method.watch.held, method.sites, proof)
    wrong = {**held, "0.weight": replace(held["0.weight"], digest="0")}
    with pytest.raises(AlteredNetwork, match=r"found '0\.weight' otherwise: .* are not of one moment"):
        start("packnet", ratio=0.5)[0].load_state_dict(state, method.records, held=wrong)
    fresh.load_state_dict(state, method.records, held=held)
    assert fresh.watch.task == "b"
    fresh.check()
    fresh.sites.write("0.weight", fresh.sites.base("0.weight") + 1)
    with pytest.raises(AlteredNetwork, match=r"when task 'b' ended, found at check\(\) that '0\.weight' has other"):
        fresh.check()


@pytest.mark.parametrize("name", ["drifting", "adahat", "packnet"])
def test_an_own_state_is_taken_back_in_the_middle_of_a_task(name: str) -> None:
    """What a method lets later tasks change is no disagreement; and what is loaded then is what the task trains."""
    method, _, todo = start(name)
    drive.learn(method, todo[:2])
    method.check()
    drive.begin(method, todo[2])
    drive.train(method, todo[2], drive.sgd()(method), range(2))
    state = copy.deepcopy(method.state_dict())
    method.load_state_dict(state, method.records)
    assert method.sites.latch.shut
    method.abandon()
    assert not method.sites.latch.shut
    method.load_state_dict(copy.deepcopy(method.state_dict()), method.records)
    assert not method.sites.latch.shut
    method.check()


@pytest.mark.parametrize("name", ["packnet", "hat", "piggyback units", "exssnet"])
def test_a_task_that_is_open_trains_what_it_offers_and_leaves_the_active_one_as_it_was(name: str) -> None:
    method, net, todo = start(name)
    assert method.exact is True
    assert not any(parameter.requires_grad for parameter in net.parameters())
    drive.learn(method, todo[:1])
    assert not method.sites.latch.shut
    x, was = drive.probe(method), drive.logits(method, "a")
    drive.begin(method, todo[1])
    asked = {id(parameter) for parameter in net.parameters() if parameter.requires_grad}
    assert asked == {id(parameter) for parameter in method.parameters()}
    method.abandon()
    assert torch.equal(drive.answer(net, x), was)


def test_end_looks_whether_the_last_task_still_answers_as_it_did() -> None:
    method, net, todo = start("packnet")
    drive.learn(method, todo[:1])
    for phase in method.phases:
        drive.begin(method, todo[1], phase)
        drive.train(method, todo[1], drive.sgd()(method), range(1))
    a_wrapped_forward(net)
    with pytest.raises(AlteredNetwork, match=r"found at end\('b'\) that task 'a' answers a small probe otherwise"):
        method.end("b")


def test_a_parameter_put_where_the_first_task_left_a_bias_is_refused() -> None:
    method, net, todo = start("packnet")
    drive.learn(method, todo[:1])
    net[0].bias = nn.Parameter(torch.ones(16))
    with pytest.raises(ValueError, match=r"expected '0\.bias' to stay frozen, found a parameter assigned"):
        method.begin("b")


def test_a_fresh_head_is_drawn_as_torch_draws_a_linear_layer_from_its_key_alone() -> None:
    sites, state = start("packnet")[0].sites, torch.get_rng_state()
    drawn = []
    for task in ("a", "a", "b"):
        fresh_head(sites, "5", 400, (0, task))
        drawn.append(sites.tensor("5.weight").detach().clone())
        for name, shape in (("5.weight", (400, 12)), ("5.bias", (400,))):
            head, bound = sites.tensor(name).detach(), 12**-0.5
            assert head.shape == shape
            assert 0.98 * bound < float(head.max()) <= bound
            assert -bound <= float(head.min()) < -0.98 * bound
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(state, torch.get_rng_state())


def test_a_buffer_that_is_gone_is_said() -> None:
    method = PackNet(Constant(), torch.randn(4, 6))
    drive.learn(method, drive.tasks(torch.randn(4, 6))[:1])
    method.check()
    del method.model.shift
    with pytest.raises(AlteredNetwork, match="'shift' is gone"):
        method.begin("b")


def test_a_finished_task_answers_beside_weights_that_have_gone_to_infinity() -> None:
    method, _, todo = start("packnet", ratio=0.5)
    drive.learn(method, todo[:1])
    was = drive.logits(method, "a")
    drive.begin(method, todo[1])
    x = drive.probe(method)
    for name in ("0.weight", "3.weight"):
        method.sites.tensor(name).data.fill_(float("inf"))
    assert torch.equal(drive.answer(method.plain("a"), x), was)


@pytest.mark.parametrize("wrong", [None, "runs/first/bank"])
def test_what_is_no_bank_cannot_be_restored_from(wrong: object) -> None:
    method, _, _ = start("packnet")
    with pytest.raises(TypeError, match=r"expected a bank, found \w+: open it first, with Bank\.open\(path\)"):
        # Without the check of annotations, which a user does not have.
        inspect.unwrap(guard.restore)(method, wrong)


@pytest.mark.parametrize("way", ["deleted", "None"])
def test_a_tensor_that_finished_tasks_read_and_that_is_gone_is_named(way: str) -> None:
    method, net, tasks = start("packnet")
    drive.learn(method, tasks[:1])
    if way == "deleted":
        del net[0].bias
    else:
        net[0].bias = None
    for verb in (lambda: method.begin("next"), method.check):
        with pytest.raises(AlteredNetwork, match=r"'0\.bias' is gone"):
            verb()
