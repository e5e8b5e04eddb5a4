"""CTR: what its answers depend on, what is protected, what is shared, and in which direction."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.zoo import BACKBONES
from tests.texts.toys import bert, reviews, save_bert
from torch import Tensor, nn
from torch.nn import functional as F

from polymask import Task, Training, learn, load
from polymask.held import AlteredNetwork
from polymask.methods import CTR
from polymask.sites.plugs import plugged
from polymask.streams import Text
from polymask.surgery import Axes, CannotPlug, add_adapters
from polymask.surgery.capsules import CHANNELS, KERNELS, SIDE, Sharing, highest

TEXTS = ["the phone is good", "a book was very very bad", "it lasts", "the film is not good it is awful"]
NOUNS = ("phone", "book", "film")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return Text(str(save_bert(tmp_path_factory.mktemp("words") / "bert")))


def example(words: Text) -> dict[str, Tensor]:
    found: dict[str, Tensor] = words(TEXTS[:2])
    return found


def learned(words: Text, count: int = 3, steps: int = 3, **hyper: Any) -> CTR:
    """A learner of some tasks, moved by a few steps of AdamW with weight decay."""
    method = CTR(bert(), example(words), bottleneck=8, **hyper)
    for noun in NOUNS[:count]:
        learn_one(method, words, noun, steps)
    return method


def learn_one(method: CTR, words: Text, noun: str, steps: int = 3) -> None:
    texts, labels = reviews(noun, 12)
    method.begin(noun, outputs=2)
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.05, weight_decay=0.1)
    for step in range(steps):
        method.on_step(step / max(steps - 1, 1))
        logits = method.model.train()(**words(texts)).logits
        loss = F.cross_entropy(logits, torch.tensor([label == "up" for label in labels]).long()) + method.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    method.end(noun)


def taught(words: Text) -> nn.Module:
    """A host that has seen other reviews: a random one tells nothing to adapters."""
    model, (texts, labels) = bert(), reviews("soup", 200)
    x, y = words(texts), torch.tensor([label == "up" for label in labels]).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(40):
        rows = torch.randperm(200, generator=torch.Generator().manual_seed(step))[:32]
        loss = F.cross_entropy(model(**{name: tensor[rows] for name, tensor in x.items()}).logits, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def logits(model: nn.Module, x: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**x).logits
    return found


@dataclass(frozen=True)
class Three:
    """A learner of three tasks, what each answered when it was learned, and the host as it was given."""

    method: CTR
    before: dict[str, Tensor]
    host: dict[str, Tensor]

    def copied(self) -> CTR:
        """A learner to change."""
        return copy.deepcopy(self.method)


@pytest.fixture(scope="module", params=["first", "private"])
def three(words: Text, request: pytest.FixtureRequest) -> Three:
    method, before = learned(words, 0, routing=request.param), {}
    host = {name: method.sites.base(name).clone() for name in method.sites.names("frozen")}
    for noun in NOUNS:
        learn_one(method, words, noun)
        before[noun] = logits(method.plain(noun), words(TEXTS))
    return Three(method, before, host)


def test_an_answer_depends_on_nothing_but_its_own_text(three: Three, words: Text) -> None:
    """C1: neither on noise, nor on what comes with it, nor on how far that pads it."""
    for noun in NOUNS:
        plain = three.method.plain(noun)
        together = logits(plain, words(TEXTS))
        assert torch.equal(together, logits(plain, words(TEXTS)))
        for row, text in enumerate(TEXTS):
            torch.testing.assert_close(logits(plain, words([text]))[0], together[row], rtol=1e-4, atol=1e-5)
        swapped = logits(plain, words(TEXTS[::-1])).flip(0)
        torch.testing.assert_close(swapped, together, rtol=1e-4, atol=1e-5)


def test_capsules_of_later_tasks_are_read_by_none_before(three: Three, words: Text) -> None:
    """C2."""
    method, x = three.copied(), words(TEXTS)
    for name, (step, _) in method.axes.steps.items():
        value = method.sites.base(name).clone()
        value[2 * step :] += 1
        method.sites.write(name, value)
    assert torch.equal(logits(method.plain("phone"), x), three.before["phone"])
    assert torch.equal(logits(method.plain("book"), x), three.before["book"])
    assert not torch.equal(logits(method.plain("film"), x), three.before["film"])


def test_what_finished_tasks_read_is_protected_and_the_host_stays(three: Three, words: Text) -> None:
    """C3 and C5: all of the network, not its adapters alone."""
    method = three.method
    assert all(torch.equal(method.sites.base(name), value) for name, value in three.host.items())
    assert len(three.host) > 30
    for noun in NOUNS:
        assert torch.equal(logits(method.plain(noun), words(TEXTS)), three.before[noun])
    assert {role.kind for name, role in method.sites.roles.items() if "LayerNorm" in name} == {"frozen"}
    assert {role.kind for name, role in method.sites.roles.items() if ".decide." in name} == {method.routing}


def test_the_published_form_drifts_and_says_so(words: Text) -> None:
    method = CTR(bert(), example(words), bottleneck=8, sharing="train")
    assert method.exact is None
    assert {role.kind for name, role in method.sites.roles.items() if ".decide." in name} == {"shared"}
    learn_one(method, words, "phone")
    before = logits(method.plain("phone"), words(TEXTS))
    learn_one(method, words, "book")
    drift = (logits(method.plain("phone"), words(TEXTS)) - before).abs().max()
    assert 0 < float(drift) < 1


def test_a_shut_route_gives_its_capsule_no_gradient_by_its_value() -> None:
    """C4: routes are 0 or 1; a capsule that is left takes no part."""
    torch.manual_seed(0)
    sharing = Sharing(6, "0")
    rows = {"weight": torch.randn(3 * SIDE, 6), "bias": torch.randn(3 * SIDE)}
    sharing.capsules.weight, sharing.capsules.bias = (nn.Parameter(value) for value in rows.values())
    sharing.capsules_turn.weight = nn.Parameter(torch.randn(3 * CHANNELS, SIDE))
    x = torch.randn(8, 5, 6)
    open_ = sharing.eval().open_routes(x)
    assert open_.shape == (8, 3)
    assert open_.any()
    assert not open_.all()
    with torch.no_grad():
        amplified, _ = sharing.judged(sharing.turned(x))
    # The judgement held, what is left is the path of the values.
    logits_held = torch.stack([open_.float(), 1 - open_.float()], -1)
    sharing.judged = lambda _: (amplified, logits_held)  # type: ignore[method-assign, assignment]
    for place in range(3):
        rows_of_it = slice(place * SIDE, (place + 1) * SIDE)
        for chosen, moves in ((~open_[:, place], False), (open_[:, place], True)):
            sharing.zero_grad()
            sharing(x)[chosen].square().sum().backward()
            grad = sharing.capsules.weight.grad
            assert grad is not None
            assert bool(grad[rows_of_it].any()) == (moves and bool(chosen.any()))


def test_a_maximum_over_tokens_is_that_of_the_convolution_and_has_its_gradient() -> None:
    torch.manual_seed(0)
    u = torch.randn(4, 7, CHANNELS, dtype=torch.float64, requires_grad=True)
    real = torch.tensor([[True] * n + [False] * (7 - n) for n in (7, 4, 1, 6)])
    for kernel in KERNELS:
        conv = nn.Conv1d(CHANNELS, 5, kernel).double()
        padded = F.pad((u * real[..., None]).transpose(1, 2), ((kernel - 1) // 2, kernel // 2))
        expected = conv(padded).masked_fill(~real[:, None], float("-inf")).amax(-1)
        found = highest(u * real[..., None], conv, real)
        torch.testing.assert_close(found, expected)
        one, two = (torch.autograd.grad(y.square().sum(), u, retain_graph=True)[0] for y in (found, expected))
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(
            highest(u, conv, None), conv(F.pad(u.transpose(1, 2), ((kernel - 1) // 2, kernel // 2))).amax(-1)
        )


def test_a_capsule_is_squashed_over_its_own_axis_and_turned_by_its_own_matrices() -> None:
    torch.manual_seed(0)
    sharing = Sharing(6, "0")
    sharing.capsules.weight, sharing.capsules.bias = (
        nn.Parameter(torch.randn(2 * SIDE, 6)),
        nn.Parameter(torch.randn(2 * SIDE)),
    )
    sharing.capsules_turn.weight = nn.Parameter(torch.randn(2 * CHANNELS, SIDE))
    x = torch.randn(2, 3, 6)
    u = sharing.turned(x)
    for sample in range(2):
        for token in range(3):
            for task in range(2):
                rows = slice(task * SIDE, (task + 1) * SIDE)
                v = sharing.capsules.weight[rows] @ x[sample, token] + sharing.capsules.bias[rows]
                norm = v.norm()
                p = norm**2 / (1 + norm**2) * v / norm
                for turn in range(SIDE):
                    at = task * CHANNELS + turn * SIDE
                    expected = sharing.capsules_turn.weight[at : at + SIDE] @ p
                    torch.testing.assert_close(u[sample, token, task, turn * SIDE : (turn + 1) * SIDE], expected)


@pytest.mark.filterwarnings("ignore:after task .* is free")
def test_a_task_brings_a_capsule_and_bits_and_reads_those_before(words: Text, tmp_path: Path) -> None:
    options = {"bottleneck": 16, "c": 0.1, "routing": "first"}
    training = Training(epochs=15, batch_size=16, optimizer="adamw", lr=3e-3, weight_decay=0.1, quiet=True)
    stream = [Task(noun, reviews(noun, 80), inputs=words) for noun in NOUNS]
    run = learn(taught(words), stream, "ctr", out=tmp_path / "out", training=training, options=options)
    assert min(run.report["accuracy_at_the_end"]) > 0.8
    assert run.report["max_logit_drift"] == 0
    name = next(name for name in run.method.axes.steps if name.endswith("capsules.weight"))
    assert [run.method.records[noun].masks[name].shape[0] for noun in NOUNS] == [SIDE, 2 * SIDE, 3 * SIDE]
    routes = run.method.routes("film", words(TEXTS))
    assert {tuple(found.shape) for found in routes.values()} == {(len(TEXTS), 3)}
    again = load(tmp_path / "out", bert())
    for noun in NOUNS:
        assert torch.equal(again.logits(noun, TEXTS), run.logits(noun, TEXTS))
    assert again.bank.verify(bert()).ok
    again.remove("book")
    for noun in ("phone", "film"):
        assert torch.equal(load(tmp_path / "out", bert()).logits(noun, TEXTS), run.logits(noun, TEXTS))


def test_removing_a_task_keeps_a_capsule_that_later_ones_may_read(three: Three, words: Text) -> None:
    method, x = three.copied(), words(TEXTS)
    assert "capsules of removed tasks" in str(method.remove("book"))
    learn_one(method, words, "book")
    assert torch.equal(logits(method.plain("phone"), x), three.before["phone"])
    assert torch.equal(logits(method.plain("film"), x), three.before["film"])
    assert method.records["book"].masks.keys() == method.records["film"].masks.keys()


def test_a_task_is_learned_where_all_later_ones_were_removed(three: Three, words: Text) -> None:
    method, x = three.copied(), words(TEXTS)
    method.remove("film")
    method.remove("book")
    learn_one(method, words, "soup")
    soup = logits(method.plain("soup"), x)
    learn_one(method, words, "film")
    assert torch.equal(logits(method.plain("phone"), x), three.before["phone"])
    assert torch.equal(logits(method.plain("soup"), x), soup)


def test_what_it_cannot_stand_in_is_refused_and_left_as_it_was(words: Text) -> None:
    mlp, x = BACKBONES["mlp_bn"]()
    with pytest.raises(CannotPlug, match="adapters have no place"):
        CTR(mlp, x)
    assert all(p.requires_grad for p in mlp.parameters())
    host = bert()
    with pytest.raises(ValueError, match="head= to name a module"):
        CTR(host, example(words), head="nowhere")
    assert not plugged(host)
    assert all(p.requires_grad for p in host.parameters())
    with pytest.raises(ValueError, match="a network without adapters, found some"):
        CTR(add_adapters(bert(), example(words), 4), example(words))
    for wrong in ({"s_max": 1.0}, {"c": -1.0}, {"bottleneck": 0}):
        with pytest.raises(ValueError, match="s_max above 1, c of at least 0 and a bottleneck"):
            CTR(bert(), example(words), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epochs"):
        learn(host, [Task("phone", reviews("phone"), inputs=words)], "ctr", training=Training(epochs=-1))
    assert not plugged(host)


def test_a_failed_run_gives_the_network_back_without_what_was_plugged_in(words: Text) -> None:
    host = bert()
    before, keys = logits(host.eval(), words(TEXTS)), list(host.state_dict())

    class StopError(Exception):
        pass

    def fail(_: Any) -> Any:
        raise StopError

    with pytest.raises(StopError):
        learn(host, [Task("phone", reviews("phone"), inputs=words)], "ctr", optimizer=fail, options={"bottleneck": 8})
    assert list(host.state_dict()) == keys
    assert torch.equal(logits(host.eval(), words(TEXTS)), before)


def test_the_mutant_that_lets_all_capsules_learn_forgets(
    three: Three, words: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = three.copied()
    monkeypatch.setattr(Axes, "block", lambda self, name, shape, growth: tuple(shape))
    monkeypatch.setattr(CTR, "_capsules", property(lambda self: 0))
    with pytest.raises(AlteredNetwork, match="capsules"):
        learn_one(method, words, "soup")
