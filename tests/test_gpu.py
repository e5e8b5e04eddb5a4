"""What a GPU changes: runs, stops, mixed precision and banks that travel between devices; skipped where there is none.

The contract suite runs there too: ``POLYMASK_TEST_DEVICE=cuda python -m pytest tests/contract tests/test_mixed.py``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learning import small
from torch import Tensor

from polymask import METHODS, Bank, Training, learn
from polymask.learning.objective import Objective
from polymask.nets import build_net
from polymask.parts.binarize import top_k
from polymask.streams import digits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ON_GPU = replace(small.SAVED, device="cuda")
PROTECTED = [name for name, method in METHODS.items() if method.card.exact is True]


def learned(method: str, out: Path | None = None, **more: Any) -> Any:
    return small.run(method, out, training=replace(ON_GPU, **more))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_on_a_gpu_is_proved_there_and_on_a_cpu(method: str, tmp_path: Path) -> None:
    report = learned(method, tmp_path / "run").report
    if method in PROTECTED:
        assert report["max_logit_drift"] == 0.0
    if METHODS[method].card.exact is not None:
        proof = Bank.open(tmp_path / "run" / "bank").verify(small.net())
        assert proof.ok, str(proof)


def test_convolutions_forget_nothing_as_torch_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    model = build_net("resnet18", (1, 8, 8), 2, width=16)
    training = Training(epochs=1, batch_size=64, optimizer="adamw", weight_decay=0.1, device="cuda", save_every=0)
    assert learn(model, digits(5)[:3], "packnet", training=training).report["max_logit_drift"] == 0.0


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("method", [name for name in PROTECTED if METHODS[name].card.masks != "-"])
def test_mixed_precision_forgets_nothing(method: str, precision: str) -> None:
    report = learned(method, precision=precision, optimizer="adamw", weight_decay=0.1, epochs=20).report
    assert report["max_logit_drift"] == 0.0
    assert report["average_accuracy"] > 0.7, "it has to learn as well"


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_goes_on_to_the_same_bytes(method: str, tmp_path: Path) -> None:
    never, stopped = tmp_path / "never", tmp_path / "stopped"
    learned(method, never)
    with pytest.raises(KeyboardInterrupt):
        small.run(method, stopped, training=ON_GPU, objective=Objective(loss=small.Once(11, small.stop)))
    learned(method, stopped)
    assert small.files(never / "bank") == small.files(stopped / "bank")


@pytest.mark.parametrize("method", ["packnet", "hat", "tfm"])
def test_what_a_gpu_learned_answers_alike_on_a_cpu(method: str, tmp_path: Path) -> None:
    learned(method, tmp_path / "run")
    x, bank = small.blobs("one", 3, 16, "new")[0], Bank.open(tmp_path / "run" / "bank")
    for task in ("one", "two"):
        here = bank.plain(task, small.net()).eval()(x)
        there = bank.plain(task, small.net().cuda()).eval()(x.cuda()).cpu()
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_exact_selection_is_the_cpus(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    for n, places in ((1000, 1), (200_000, 2), (2_000_000, 9)):
        scores: Tensor = (torch.randn(n, generator=draw) * 10**places).round().div(10**places).to(dtype)
        for keep in (1, n // 10, n // 2, n - 1):
            assert torch.equal(top_k(scores.cuda(), keep).cpu(), top_k(scores, keep))


@pytest.mark.parametrize("name", ["wsn", "hat", "exssnet", "tfm", "packnet"])
def test_a_network_may_be_moved_after_its_method_is_made(name: str) -> None:
    net, x = small.net(2), torch.randn(8, small.WIDTH)
    method = METHODS[name](net, x)
    net.cuda()
    for task in ("a", "b"):
        for phase in method.phases:
            method.begin(task, phase, outputs=2)
            optimizer = torch.optim.AdamW(method.parameters(), lr=0.01)
            method.on_step(0.5)
            (net.train()(x.cuda()).square().mean() + method.penalty()).backward()
            optimizer.step()
        method.end(task)
    method.check()
