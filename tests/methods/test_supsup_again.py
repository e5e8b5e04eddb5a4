"""SupSup's finished tasks begin again: from their bits alone, with what they had learned, and no other task moves."""

from __future__ import annotations

import pytest
import torch
from tests.contract import drive
from tests.methods.digits import accuracies, fit, mlp, permuted

from polymask.methods import SupSup
from polymask.parts.pack import unpack


@pytest.mark.parametrize(
    ("backbone", "select"),
    [
        ("mlp_bn", "threshold"),
        ("convnet", "top-k"),
        pytest.param("mlp_bn", "top-k", marks=pytest.mark.full),
        pytest.param("convnet", "threshold", marks=pytest.mark.full),
    ],
)
def test_a_finished_task_goes_on_from_its_mask_and_no_other_moves(backbone: str, select: str) -> None:
    method, todo = drive.make(SupSup, backbone, select=select, density=0.3, heads="private")
    before = drive.learn(method, todo, drive.adamw())
    answers = {task.name: drive.logits(method, task) for task in todo}
    twin, _ = drive.make(SupSup, backbone, select=select, density=0.3, heads="private")
    twin.load_state_dict(method.state_dict(), method.records)
    for one in (method, twin):  # one that never saw the scores goes on alike
        drive.begin(one, todo[1])
        masks = {name: site.source.hard(site.source.scores) for name, site in one.sites.weights.items()}
        assert not drive.differing({n: unpack(p) for n, p in before["b"].masks.items()}, masks)
        assert torch.equal(drive.answer(one.model, drive.probe(one)), answers["b"])
        drive.train(one, todo[1], drive.adamw()(one), range(4, 8))
        assert list(one.end("b")) == ["b"]
    assert list(method.records) == ["a", "b", "c"]
    meta = method.records["b"].meta
    assert (meta.revision, meta.reason) == (1, "learned again")
    assert not torch.equal(drive.logits(method, "b"), answers["b"])
    assert torch.equal(drive.logits(method, "b"), drive.logits(twin, "b"))
    for task in ("a", "c"):
        assert torch.equal(drive.logits(method, task), answers[task])
        assert method.records[task] is before[task]


def test_a_task_begins_again_with_the_head_that_it_had() -> None:
    method, _ = drive.make(SupSup, "convnet", heads="private")
    drive.learn(method, drive.tasks(method.example, 1, [3]))
    with pytest.raises(ValueError, match=r"'7.weight' of shape \(3, .*begin it with outputs=3"):
        method.begin("a", outputs=4)
    assert method.task is None
    method.begin("a", outputs=3)


@pytest.mark.parametrize("select", ["threshold", pytest.param("top-k", marks=pytest.mark.full)])
def test_what_was_learned_is_still_known_when_a_task_goes_on(select: str) -> None:
    tasks = permuted(2)
    method = SupSup(mlp(64, 100, 50), torch.zeros(1, 64), select=select)

    def learn(task: str, epochs: int) -> float:
        fit(method, task, tasks[task], lambda m: torch.optim.RMSprop(m.parameters(), lr=1e-3), epochs=epochs)
        return accuracies(method, {task: tasks[task]})[0]

    first, _ = learn("p0", 2), learn("p1", 1)
    again = learn("p0", 2)
    assert first + 1 < again, (first, again)
