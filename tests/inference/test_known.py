"""None of these: the conformal guarantee on numbers that are drawn, and what is said where it does not hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.inference import small

from polymask.inference.calibrate import calibrate
from polymask.inference.infer import Inference
from polymask.inference.known import LEAST, Calibration, certainty


def of(values: torch.Tensor, reject: float = 0.05, rows: int = 1) -> Calibration:
    """A calibration on some values, half of them of one task, half of another."""
    first, second = values.chunk(2)
    return Calibration("one-shot", "entropy", rows, {"a": first, "b": second}, reject)


@pytest.mark.parametrize(("count", "reject"), [(100, 0.05), (199, 0.05), (300, 0.2)])
def test_no_larger_share_of_known_requests_is_refused_than_was_asked_for(count: int, reject: float) -> None:
    draw, refused = torch.Generator().manual_seed(0), []
    for _ in range(400):
        values = torch.randn(count + 500, generator=draw)
        known = of(values[:count], reject).known(values[count:])
        assert known is not None
        refused.append(1 - known.float().mean())
    exact = int((count + 1) * reject) / (count + 1)
    assert torch.stack(refused).mean() == pytest.approx(exact, abs=0.004)
    assert exact <= reject


def test_the_threshold_is_a_value_that_is_kept_and_the_share_can_be_set_later() -> None:
    values = torch.randperm(199).float()
    assert of(values).threshold == 9.0  # the 10th smallest of 199
    assert replace(of(values), reject=0.1).threshold == 19.0
    assert of(values).known(torch.tensor([8.5, 9.0])).tolist() == [False, True]  # type: ignore[union-attr]
    assert of(values, 0.001).known(values) is None
    with pytest.raises(ValueError, match="between 0 and 1, found reject=1"):
        of(values, 1.0)


def test_below_a_hundred_inputs_and_of_one_task_alone_nothing_is_said_to_be_unknown() -> None:
    assert of(torch.rand(LEAST - 1)).known(torch.rand(3)) is None
    assert of(torch.rand(LEAST)).known(torch.rand(3)) is not None
    assert of(torch.rand(LEAST // 4), rows=4).known(torch.rand(3)) is not None
    assert of(torch.full((LEAST,), torch.inf)).known(torch.rand(3)) is None


@pytest.mark.parametrize("way", ["one-shot", "every-mask"])
def test_an_answer_is_judged_by_its_margin_where_as_many_rows_were_calibrated_on(way: str) -> None:
    method = small.learned(tasks=3)
    inference = Inference(method, way)  # type: ignore[arg-type]
    held_out = {f"t{task}": small.inputs(task, 36) for task in range(3)}
    assert inference(held_out["t0"]).known is None
    inference.calibration = calibrate(inference, held_out, reject=0.1)
    assert inference.calibration.count == 108
    found = inference(torch.cat([*held_out.values()]))
    assert found.known is not None
    assert torch.equal(found.known, found.margin >= inference.calibration.threshold)
    assert int((~found.known).sum()) == 9  # of 108: those below the 10th smallest
    assert inference(held_out["t0"][:4], together=True).known is None
    inference.calibration = calibrate(inference, held_out, rows=7)
    assert [len(values) for values in inference.calibration.values.values()] == [5, 5, 5]
    inference.calibration = replace(inference.calibration, reject=0.1)
    assert inference.calibration.known(torch.rand(2)) is not None
    assert inference(held_out["t0"][:7], together=True).known is not None
    assert inference(held_out["t0"][:7]).known is None
    alone = inference(held_out["t2"][7:14], together=True).margin
    assert torch.allclose(inference.calibration.values["t2"][1], alone[0], rtol=1e-4)


def test_what_is_judged_by_statistics_is_the_score_of_the_chosen_task_also_of_one() -> None:
    scores = torch.tensor([[-1.0, -4.0], [-9.0, -7.0]])
    assert certainty(scores, "statistics").tolist() == [-1.0, -7.0]
    assert certainty(scores[:, :1], "statistics").tolist() == [-1.0, -9.0]
    assert certainty(scores, "one-shot").tolist() == [6.0, 4.0]


def test_what_cannot_be_calibrated_is_one_sentence() -> None:
    method = small.learned(tasks=2)
    with pytest.raises(ValueError, match="'binary'"):
        calibrate(Inference(method, "binary"), {"t0": small.inputs(0)})
    with pytest.raises(ValueError, match="held-out inputs of finished tasks, found 't9'"):
        calibrate(Inference(method), {"t9": small.inputs(0)})
    with pytest.raises(ValueError, match="calibration of 'every-mask' by 'entropy', found one of 'one-shot'"):
        Inference(method, "every-mask", calibration=of(torch.rand(9)))
