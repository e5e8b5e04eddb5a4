"""Point 8 of the contract: one compiled graph per width of the head for all tasks, and no break in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jaxtyping
import pytest
import torch
from tests.contract import drive
from tests.contract.conftest import Case
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

# What torch's compiler warns of while it looks at torch's own autograd.Function and at an LSTM's cache.
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.*should not be instantiated:DeprecationWarning",
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
    ),
]


@pytest.fixture(autouse=True)
def _fresh_compiler(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.config.getoption("untyped"):
        pytest.skip("the check of annotations draws what it looks at, which no graph can hold: run with --untyped")
    torch._dynamo.reset()
    # The check of shapes is Python that no graph can hold.
    jaxtyping.config.update("jaxtyping_disable", True)
    with torch._dynamo.config.patch(allow_rnn=True):
        yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch._dynamo.reset()


def compiled(model: nn.Module, backend: str) -> tuple[Callable, CompileCounterWithBackend]:
    """The model compiled whole (a break raises), and the counter of its graphs."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(model, backend=counter, fullgraph=True), counter


@pytest.mark.few("hat", "tfm")
def test_all_tasks_share_a_graph(pair: Case) -> None:
    method, tasks = pair.make()
    drive.learn(method, tasks, pair.user())
    drive.logits(method, "a")  # an LSTM's cache of what it read in training would be one guard more
    model, counter = compiled(method.model.eval(), "eager")
    answers, layouts = answer_in_turn(method, model, "abcba")
    assert counter.frame_count == len(layouts)
    assert method.grows or len(layouts) == 1
    for name, answer in answers.items():
        torch.testing.assert_close(answer, drive.logits(method, name))


@pytest.mark.few("tfm")
def test_each_width_of_the_head_has_a_graph(one: Case) -> None:
    method, _ = one.make()
    tasks = drive.tasks(method.example, 4, (3, 5))
    drive.learn(method, tasks)
    model, counter = compiled(method.model.eval(), "eager")
    answers, layouts = answer_in_turn(method, model, "abcdab")
    assert counter.frame_count == len(layouts)
    assert method.grows or len(layouts) == len({answer.shape for answer in answers.values()})


def answer_in_turn(method: drive.Method, model: Callable, names: str) -> tuple[dict[str, Tensor], set]:
    """What a compiled model answers for task after task, and the shapes of its tensors that occurred."""
    x, answers, layouts = drive.probe(method), {}, set()
    with torch.no_grad(), torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        for name in names:
            method.activate(name)
            # Slots count: a task may read a smaller block of a weight that is as large as ever.
            tensors = (*method.model.parameters(), *method.model.buffers())
            layouts.add(tuple(value.shape for value in tensors))
            answers[name] = drive.logits_of(drive.call(model, x))
    return answers, layouts


@pytest.mark.few("hat")
def test_training_compiles_whole(one: Case) -> None:
    compiled_method, tasks = one.make()
    eager_method, _ = one.make()
    for task in tasks[:2]:
        for phase in eager_method.phases:
            drive.begin(eager_method, task, phase)
            drive.train(eager_method, task, drive.sgd()(eager_method), range(4))
            drive.begin(compiled_method, task, phase)
            model, counter = compiled(compiled_method.model.train(), "aot_eager")
            drive.train(compiled_method, task, drive.sgd()(compiled_method), range(4), model)
            assert counter.frame_count == 1
        eager_method.end(task.name)
        compiled_method.end(task.name)
        torch.testing.assert_close(drive.logits(compiled_method, task), drive.logits(eager_method, task))
