"""The question put to a learner and to a bank: who is asked, how, and what no way of asking may touch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.inference import small
from torch import nn

from polymask.bank.bank import Bank
from polymask.inference.infer import Inference
from polymask.inference.inferred import Inferred
from polymask.methods import SupSup


@pytest.mark.parametrize(
    ("name", "norm", "options", "way"),
    [
        ("supsup", False, {}, "one-shot"),
        ("supsup", True, {}, "every-mask"),
        ("piggyback", False, {}, "every-mask"),
        ("packnet", False, {"tasks": 3}, "every-mask"),
        ("hat", False, {}, "every-mask"),
        ("tfm", False, {}, "every-mask"),
        ("apd", False, {}, "every-mask"),
        ("ksm", True, {}, "every-mask"),
    ],
)
def test_every_method_is_asked_in_a_way_that_fits_it(name: str, norm: bool, options: dict[str, Any], way: str) -> None:
    method, x = small.learned(name, norm=norm, **options), small.inputs(1, 4)
    before = {key: value.clone() for key, value in method.model.state_dict().items()}
    inference = Inference(method)
    assert inference.way == way
    found = inference(x)
    assert found.scores.shape == (4, 3)
    assert bool(found.scores.isfinite().all())
    assert found.choice == [found.tasks[place] for place in found.scores.argmax(-1)]
    assert inference(x, together=True).scores.shape == (1, 3)
    assert before.keys() == method.model.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in method.model.state_dict().items())
    if way == "every-mask":  # each task's network as the learner itself has it
        p = method.plain("t1")(x).softmax(-1)
        assert torch.allclose(found.scores[:, 1], (p * p.log()).sum(-1), atol=1e-6)
        assert torch.allclose(inference(x).scores, found.scores)


def test_a_row_is_answered_alone_and_a_batch_of_one_task_together() -> None:
    method, x = small.learned(tasks=4), small.inputs(2, 6)
    for way in ("one-shot", "binary", "every-mask"):
        inference = Inference(method, way)  # type: ignore[arg-type]
        alone = torch.cat([inference(row[None]).scores for row in x])
        assert torch.allclose(inference(x).scores, alone, atol=1e-6)
    assert torch.allclose(
        Inference(method, "one-shot")(x, together=True).scores[0], Inference(method)(x).scores.mean(0), atol=1e-6
    )


def test_an_open_task_is_not_looked_at_and_goes_on(tmp_path: Path) -> None:
    method, x = small.learned(tasks=2), small.inputs(0, 3)
    before = Inference(method)(x).scores
    method.begin("open")
    optimizer = torch.optim.Adam(method.parameters(), lr=0.1)
    method.model(x).sum().backward()
    optimizer.step()
    assert torch.equal(Inference(method)(x).scores, before)
    assert torch.equal(Inference(method, "every-mask")(x).scores, Inference(method, "every-mask")(x).scores)
    method.model(x).sum().backward()
    optimizer.step()
    assert list(method.end("open")) == ["open"]


def test_a_bank_answers_as_its_learner_and_follows_what_it_commits(tmp_path: Path) -> None:
    method, x = small.learned(tasks=2), small.inputs(1, 3)
    bank = Bank.create(tmp_path / "bank", method.sites, example=method.example, method="supsup")
    bank.commit(method.records, method.sites)
    base = small.network()
    for way in ("one-shot", "every-mask"):
        asked = Inference(bank, way, base=base)  # type: ignore[arg-type]
        assert torch.allclose(asked(x).scores, Inference(method, way)(x).scores, atol=1e-6)  # type: ignore[arg-type]
    assert not any("parametrizations" in name for name, _ in base.named_modules())
    inference = Inference(bank, base=base)
    small.learn_task(method, 2)
    bank.commit({"t2": method.records["t2"]}, method.sites)
    inference.update(Bank.open(bank.path))
    assert inference.tasks == ("t0", "t1", "t2")
    assert torch.allclose(inference(x).scores, Inference(method)(x).scores, atol=1e-6)
    method.remove("t0")
    bank.remove("t0")
    inference.update(Bank.open(bank.path))
    assert torch.allclose(inference(x).scores, Inference(method)(x).scores, atol=1e-6)


def test_a_margin_is_the_gap_times_the_number_of_tasks() -> None:
    found = Inferred(("a", "b", "c"), torch.tensor([[0.5, 0.1, 0.4], [0.0, 1.0, 0.2]]))
    assert torch.allclose(found.margin, torch.tensor([0.3, 2.4]))
    assert found.choice == ["a", "b"]
    assert Inferred(("a",), torch.zeros(2, 1)).margin.tolist() == [torch.inf, torch.inf]


def test_what_cannot_be_asked_is_one_sentence() -> None:
    method = small.learned(tasks=1)
    with pytest.raises(
        (ValueError, TypeError), match=r"expected a way of one-shot, .*found 'oneshot'|violates type hint"
    ):
        Inference(method, "oneshot")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'every-mask' to go by entropy or confidence, found 'superfluous'"):
        Inference(method, "every-mask", "superfluous")
    method.remove("t0")
    with pytest.raises(ValueError, match="at least one finished task"):
        Inference(method)


@pytest.mark.parametrize("way", ["one-shot", "every-mask"])
def test_what_nobody_can_be_sure_of_is_one_sentence(way: Any) -> None:
    method = small.learned(tasks=2)
    inference = Inference(method, way)
    with pytest.raises(ValueError, match="one input or more"):
        inference(torch.zeros(0, small.WIDTH))
    with pytest.raises(ValueError, match="finite numbers"):
        inference(torch.full((1, small.WIDTH), torch.nan))
    for last, head, shape in ((nn.Linear(16, 1), "4", r"\(1, 1\)"), (nn.Unflatten(1, (4, 4)), "2", r"\(1, 4, 4\)")):
        network = small.network()
        assert isinstance(network, nn.Sequential)
        network[4] = last
        narrow = SupSup(network, torch.zeros(2, small.WIDTH), head=head)
        narrow.begin("a")
        network(torch.rand(2, small.WIDTH)).sum().backward()
        torch.optim.SGD(narrow.parameters(), lr=0.1).step()
        narrow.end("a")
        with pytest.raises(ValueError, match=f"two outputs or more.*found shape {shape}"):
            Inference(narrow, way)(torch.rand(1, small.WIDTH))


def test_several_threads_may_ask() -> None:
    method = small.learned(tasks=5)
    inference, x = Inference(method, "binary"), torch.cat([small.inputs(task, 2) for task in range(5)])
    alone = inference(x).scores
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(found.scores, alone) for found in pool.map(inference, [x] * 8))
