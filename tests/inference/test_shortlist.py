"""A few tasks are asked for each input: those that are nearest in the features of one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.inference import small
from tests.inference.test_statistics import measured
from tests.learning import small as runs

from polymask.inference import infer
from polymask.inference.beside import path_of, read_evidence, shortlist_in, statistics_in, write_evidence
from polymask.inference.infer import Inference, Way
from polymask.inference.shortlist import Shortlist
from polymask.inference.stacks import digest_of
from polymask.inference.statistics import Statistics
from polymask.method.contract import Method
from polymask.task import switch

TASKS = 6


def shared(method: Method, count: int, reference: str = "t0") -> Shortlist:
    """A shortlist over all tasks of the small network."""
    network, digest = method.plain(reference), digest_of(method.records[reference])
    known = {}
    for task in range(len(method.records)):
        x = small.inputs(task, 80)
        parts = [(x[:40], torch.arange(40) % 3)], [(x[40:], torch.arange(40) % 3)]
        known[f"t{task}"] = Statistics.measure(network, method.head, *parts, digest=digest)
    return Shortlist(reference, known, count)


@pytest.fixture(scope="module")
def method() -> Method:
    return small.learned("piggyback", TASKS, norm=True, norms="private")


@pytest.mark.parametrize("way", ["statistics", "every-mask"])
@pytest.mark.parametrize("reference", ["t0", "t3"])
def test_those_asked_are_asked_as_ever_and_the_others_are_below(method: Method, way: Way, reference: str) -> None:
    statistics = {f"t{task}": measured(method, task) for task in range(TASKS)}
    few = shared(method, 2, reference)
    x = torch.cat([small.inputs(task, 3) for task in range(TASKS)])
    every = Inference(method, way, statistics=statistics)(x).scores
    found = Inference(method, way, statistics=statistics, shortlist=few)(x)
    chosen, near = few.chosen(method.plain(reference), x, found.tasks, together=False)
    assert chosen.sum(1).eq(2).all()
    assert len({tuple(row) for row in chosen.tolist()}) > 1
    assert torch.allclose(found.scores[chosen], every[chosen], atol=1e-5)
    for row in range(len(x)):
        rest = (~chosen[row]).nonzero()[:, 0]
        assert found.scores[row, rest].max() < found.scores[row, chosen[row]].min()
        assert torch.equal(found.scores[row, rest].argsort(), near[row, rest].argsort())
    told = Inference(method, way, statistics=statistics, shortlist=few)(x[:3], together=True)
    assert told.scores.shape == (1, TASKS)
    assert Inference(method, way, statistics=statistics, shortlist=replace(few, count=TASKS))(x).choice == [
        f"t{place}" for place in every.argmax(1)
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_one_input_takes_as_many_networks_as_are_asked(
    method: Method, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def noted(network: object, sites: object, record: object) -> None:
        seen.append(record.meta.task)  # type: ignore[attr-defined]
        switch(network, sites, record)  # type: ignore[arg-type]

    inference = Inference(method, "every-mask", shortlist=shared(method, count))
    inference(small.inputs(1, 1))
    monkeypatch.setattr(infer, "switch", noted)
    inference(small.inputs(1, 1))
    assert seen[0] == "t0"
    assert len(seen) == len(set(seen[1:])) + 1 == count + 1


def test_a_shortlist_of_other_records_is_refused() -> None:
    method = small.learned("packnet", 3)
    few = shared(method, 1)
    inference = Inference(method, "every-mask", shortlist=few)
    small.learn_task(method, 3)
    with pytest.raises(ValueError, match="expected a shortlist over all 4 tasks in the features of 't0' as it is now"):
        inference.update(method)
    inference.shortlist = None
    inference.update(method)
    every = inference(small.inputs(3, 2)).scores
    assert torch.equal(every, Inference(method, "every-mask")(small.inputs(3, 2)).scores)
    inference.update(method, shortlist=shared(method, 1))
    assert inference(small.inputs(3, 2)).scores.shape == (2, 4)
    method.remove("t0")
    with pytest.raises(ValueError, match="set shortlist to None, and every task is asked"):
        Inference(method, "every-mask", shortlist=few)
    with pytest.raises(ValueError, match="expected to ask 1 task or more, found count=0"):
        replace(few, count=0)
    other = replace(few.statistics["t1"], digest=b"other")
    with pytest.raises(ValueError, match="measured under one record, found such of several"):
        Shortlist("t0", {**few.statistics, "t1": other})


def test_a_run_keeps_what_a_shortlist_needs_and_none_is_made_of_what_is_stale(tmp_path: Path) -> None:
    training = replace(runs.FAST, calibration_fraction=0.5, device="cpu")
    run = runs.run("piggyback", tmp_path, training=training)
    records = run.method.records
    assert shortlist_in(tmp_path, records) is None
    few = shortlist_in(tmp_path, records, count=1, many=2)
    assert few is not None
    assert (few.reference, {*few.statistics}) == ("one", {*records})
    x = runs.blobs("two", 2, 9)[0]
    known = statistics_in(tmp_path, records)
    found = Inference(run.method, "statistics", statistics=known, shortlist=few)(x)
    assert found.scores.shape == (9, 3)
    kept = read_evidence(tmp_path, "two")
    assert kept is not None
    assert kept.shared is not None
    write_evidence(tmp_path, "two", replace(kept, shared=replace(kept.shared, digest=b"earlier")))
    assert shortlist_in(tmp_path, records, many=2) is None
    write_evidence(tmp_path, "two", kept)
    assert shortlist_in(tmp_path, records, many=2) is not None
    path_of(tmp_path, "two").unlink()
    assert shortlist_in(tmp_path, records, many=2) is None
