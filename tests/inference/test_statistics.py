"""Statistics of features against textbook formulas, what is kept of them on disk, and how they tell tasks apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from tests.inference import small
from torch import Tensor, nn

from polymask.inference.beside import Evidence, calibration_in, path_of, read_evidence, statistics_in, write_evidence
from polymask.inference.features import features_of, project
from polymask.inference.infer import Inference
from polymask.inference.stacks import digest_of
from polymask.inference.statistics import LEAST_SHARE, Statistics
from polymask.method.contract import Method
from polymask.parts.shrink import shrunk_covariance


def drawn(rows: int, width: int, seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Features of some classes, correlated, far from 0 and on a scale of their own."""
    draw = torch.Generator().manual_seed(seed)
    turn = torch.randn(width, width, generator=torch.Generator().manual_seed(9))
    y = torch.arange(rows) % classes
    return 40 + 7 * (torch.randn(rows, width, generator=draw) @ turn + 3 * y[:, None]), y


def measured(method: Method, task: int, **more: object) -> Statistics:
    """The statistics of a task of the small network, from inputs of its own."""
    x, name = small.inputs(task, 80), f"t{task}"
    train, held_out = [(x[:40], torch.arange(40) % 3)], [(x[40:], torch.arange(40) % 3)]
    digest = digest_of(method.records[name])
    return Statistics.measure(method.plain(name), method.head, train, held_out, digest=digest, **more)  # type: ignore[arg-type]


def test_the_covariance_is_ledoit_and_wolfs() -> None:
    z, _ = drawn(50, 8)
    z = (z - z.mean(0)).double()
    expected, share = ledoit_wolf(z.numpy(), assume_centered=True)
    assert 0 < share < 1
    assert np.allclose(shrunk_covariance(z), expected)
    one = z[:1] - 5
    assert torch.allclose(shrunk_covariance(one), one.T @ one)
    assert torch.linalg.eigvalsh(shrunk_covariance(one, 0.1)).min() > 0


def test_a_distance_is_mahalanobis_to_the_nearest_class_mean_and_standardised_on_held_out_inputs() -> None:
    (z, y), (held, _) = drawn(300, 6), drawn(100, 6, seed=1)
    made = Statistics.fit(z, y, held)
    means = torch.stack([z[y == c].mean(0) for c in range(3)]).double().numpy()
    inverse = np.linalg.inv(shrunk_covariance((z - torch.from_numpy(means)[y]).double(), LEAST_SHARE).numpy())
    off = held.double().numpy()[:, None] - means
    expected = np.sqrt(np.einsum("ncd,de,nce->nc", off, inverse, off).min(1))
    assert np.allclose(made.distances(held), expected, rtol=0.02)
    scores = made.scores(held)
    assert scores.mean().abs() < 1e-4
    assert scores.std(correction=0) == pytest.approx(1, abs=1e-4)
    assert torch.allclose(scores, (made.distances(held).mean() - made.distances(held)) / made.scales[2], atol=1e-4)
    # What lies far off is far below, and a spread of means over a shift would not notice.
    assert made.scores(held + 200).max() < -10


def test_ten_classes_in_thirty_two_dimensions_weigh_1708_bytes() -> None:
    z, y = drawn(400, 50, classes=10)
    made = Statistics.fit(z, y, z)
    assert made.nbytes == 10 * 32 * 2 + 32 * 33 // 2 * 2 + 3 * 4 == 1708
    assert [Statistics.fit(z, y, z, dims=dims).means.shape[1] for dims in (16, 64, None)] == [16, 50, 50]
    assert torch.equal(project(z, 16, 3), project(z, 16, 3))
    assert not torch.equal(project(z, 16, 3), project(z, 16, 4))


@pytest.mark.parametrize("z", [torch.zeros(20, 4), torch.full((20, 4), 1e5), 1e-20 * torch.rand(20, 4)])
def test_features_that_hardly_move_leave_finite_scores(z: Tensor) -> None:
    made = Statistics.fit(z, torch.arange(20) % 2, z[:1])
    assert bool(made.scores(z).isfinite().all())
    assert bool(made.scores(z + 1).max() < made.scores(z).min())
    with pytest.raises(ValueError, match=r"expected finite features .* 0 held out"):
        Statistics.fit(z, torch.arange(20), z[:0])
    with pytest.raises(ValueError, match="of width 4, as they were measured, found 3"):
        made.scores(z[:, :3])


class Tokens(nn.Module):
    """A linear head that reads every token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits of the first token."""
        return self.head(self.words(ids))[:, 0]


def test_what_a_head_reads_is_pooled_by_its_kind_and_padding_is_left_out() -> None:
    conv = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 5, 1), nn.Flatten())
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(features_of(conv, "1", x.clone()), x.relu().mean((2, 3)))
    net, ids = Tokens(), torch.tensor([[1, 2, 0], [3, 4, 5]])
    words = net.words(ids).detach()
    assert torch.allclose(features_of(net, "head", ids), words.mean(1))
    padded = features_of(net, "head", {"ids": ids, "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])})
    assert torch.allclose(padded, torch.stack([words[0, :2].mean(0), words[1].mean(0)]))
    dropped = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2)).train()
    assert torch.equal(features_of(dropped, "1", x[:, :, 0, 0]), x[:, :, 0, 0])
    assert dropped.training
    assert not dropped[1]._forward_pre_hooks
    within, z = nn.Sequential(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))), torch.randn(4, 3)
    assert torch.equal(features_of(within, "0", z.clone()), z)  # before the head writes over what it reads
    with pytest.raises(ValueError, match=r"expected a head '0' that reads .*found \(2, 3, 4, 4\)"):
        features_of(nn.Sequential(nn.Linear(4, 2)), "0", x)
    layer = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="head '0' once in a forward pass, found 2 calls"):
        features_of(nn.Sequential(layer, layer), "0", x[:, :, 0, 0])


def test_statistics_tell_tasks_apart_and_those_of_an_earlier_record_are_refused() -> None:
    method = small.learned("piggyback")
    statistics = {f"t{task}": measured(method, task) for task in range(3)}
    inference = Inference(method, "statistics", statistics=statistics)
    x = small.inputs(1, 30)
    found = inference(x)
    own = features_of(method.plain("t2"), method.head, x)
    assert torch.allclose(found.scores[:, 2], statistics["t2"].scores(own), atol=1e-5)
    assert found.choice.count("t1") > 20
    assert torch.allclose(inference(x, together=True).scores[0], found.scores.mean(0))
    with pytest.raises(ValueError, match="statistics of task 't2' as it is now, found none: measure them"):
        Inference(method, "statistics", statistics={t: statistics[t] for t in ("t0", "t1")})
    assert Inference(method, statistics=statistics).way == "statistics"
    assert Inference(method, statistics={"t0": statistics["t0"]}).way == Inference(method).way == "every-mask"
    assert Inference(small.learned(), statistics=statistics).way == "one-shot"
    method.remove("t1")
    small.learn_task(method, 1, steps=5)
    assert Inference(method, statistics=statistics).way == "every-mask"
    with pytest.raises(ValueError, match="'t1' as it is now, found such of an earlier record"):
        inference.update(method)
    inference.update(method, {**statistics, "t1": measured(method, 1)})
    assert inference(x).scores.shape == (30, 3)


def test_what_is_kept_comes_back_and_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    method = small.learned(tasks=2)
    made, key = measured(method, 0, seed=4, dims=16), ("one-shot", "entropy", 1)
    evidence = Evidence(made.digest, made, {key: torch.rand(120)})
    write_evidence(tmp_path, "t0", evidence)
    write_evidence(tmp_path, "t1", Evidence(b"another", None, {key: torch.rand(80)}))
    back = read_evidence(tmp_path, "t0")
    assert back is not None
    assert back.statistics is not None
    assert torch.equal(back.values[key], evidence.values[key])
    assert torch.equal(back.statistics.factor, made.factor)
    for key_of in ("dims", "seed", "head", "digest"):
        assert getattr(back.statistics, key_of) == getattr(made, key_of)
    assert back.is_of(method.records["t0"])
    assert [*statistics_in(tmp_path, method.records)] == ["t0"]
    assert calibration_in(tmp_path, method.records, *key[:2]).count == 120  # nothing of another record
    assert read_evidence(tmp_path, "t2") is None
    path = path_of(tmp_path, "t0")
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:40], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"as a run wrote it, found it cut short or changed .*: delete it; the same"
        ):
            read_evidence(tmp_path, "t0")
