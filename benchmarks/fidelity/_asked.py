"""Every way of asking one learner, and its images themselves, which task they are of; all scores are kept in files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _domains import SIZE, Images
from safetensors.torch import load_file, save
from torch import Tensor

from _tasks_of import Asked as Pixels
from _tasks_of import by_nearest_class_image, by_nearest_mean_image, by_pixel_statistics
from polymask import Inference, Method, Task, Training, learn
from polymask.disk import write_file
from polymask.inference.features import features_of
from polymask.inference.infer import By, Way
from polymask.inference.stacks import digest_of
from polymask.inference.statistics import Statistics
from polymask.method.heads import is_shared
from polymask.nets import build_net

TOGETHER = 16
"""Images of one task that are asked about at once."""
CHUNK, TIMED = 160, 9
DIMS: Mapping[str, int | None] = {"16": 16, "32": 32, "64": 64, "full": None}
MIXED: Mapping[str, tuple[Way, By]] = {
    "one-shot, H": ("one-shot", "entropy"),
    "one-shot, G": ("one-shot", "superfluous"),
    "binary, G": ("binary", "superfluous"),
}
"""Of tasks that share a head."""
EACH: Mapping[str, tuple[Way, By]] = {
    "every mask, entropy": ("every-mask", "entropy"),
    "every mask, confidence": ("every-mask", "confidence"),
}
PIXELS = "pixels"
"""Not a method: what is told from the images alone."""
TRAINED = "trained to tell domains"
"""Not a method either: one network that sees the images of all tasks at once, and learns their domains."""
Scores = dict[str, Tensor]
"""Which images -> (images, tasks); "together" of batches; and two numbers, "ms" of an image and "bytes" of a task."""


Measured = dict[int | None, dict[str, Statistics]]
"""Dimensions -> task -> its statistics."""


@dataclass(frozen=True)
class Asked:
    """All that is known of a learner.

    Args:
        by_way: way -> its scores.
        labels: the label of every test image as every task has it, (images, tasks); of images alone there is none.
        size: bytes of a task on disk, whatever is asked.
    """

    by_way: Mapping[str, Scores]
    labels: Tensor | None = None
    size: float = float("nan")


def kept(path: Path, make: Callable[[], Scores]) -> Scores:
    """Tensors from a file, made where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        write_file(path, save(make()))
        print(f"{path.parent.name}: {path.stem} ({time.process_time() - start:.0f} CPU s)", flush=True)
    return load_file(path)


def ask(
    score: Callable[[Tensor], Tensor], images: Images, size: float, together: Callable[[Tensor], Tensor] | None = None
) -> Scores:
    """The scores of all images one by one, of test images in batches of one task, and what asking costs.

    Args:
        score: images -> (images, tasks).
        images: what is asked about.
        size: bytes that the way keeps of a task.
        together: images of one task -> (1, tasks); None: the mean of their scores, as of all ways that ask each task.
    """
    found = {name: torch.cat([score(part) for part in x.split(CHUNK)]) for name, x in images.asked.items()}
    x = images.asked["test"]
    if together is None:
        found["together"] = found["test"].unflatten(0, (-1, TOGETHER)).mean(1)
    else:
        found["together"] = torch.cat([together(batch) for batch in x.split(TOGETHER)])
    spent = []
    for one in x[:TIMED].split(1):
        start = time.process_time()
        score(one)
        spent.append(1e3 * (time.process_time() - start))
    return {**found, "ms": torch.tensor(median(spent)), "bytes": torch.tensor(float(size))}


def ask_learner(method: Method, images: Images, place: Path) -> dict[str, Scores]:
    """Every way that fits a learner; those that an earlier call has asked are read."""
    ways = {**(MIXED if is_shared(method.sites, method.head) else {}), **EACH}
    found = {
        name: kept(place / f"{name}.safetensors", partial(_ask_by, method, images, way, by))
        for name, (way, by) in ways.items()
    }
    # Read once for all dimensions, and not at all where nothing is missing.
    measured = cache(partial(statistics_of, method, images))
    for name, dims in DIMS.items():
        make = partial(_ask_statistics, method, images, measured, dims)
        found[f"statistics, {name}"] = kept(place / f"statistics, {name}.safetensors", make)
    return found


def ask_pixels(images: Images, place: Path) -> dict[str, Scores]:
    """What every way of asking has to beat."""
    ways: dict[str, Callable[[], Pixels]] = {
        "nearest mean image": partial(by_nearest_mean_image, images.train),
        "nearest class image": partial(by_nearest_class_image, images.train),
    }
    for name, dims in DIMS.items():
        ways[f"statistics, {name}"] = partial(by_pixel_statistics, images.train, images.held_out, dims=dims)
    return {name: kept(place / f"{name}.safetensors", partial(_ask_pixels, way, images)) for name, way in ways.items()}


def ask_trained(images: Images, place: Path, domains: Tensor, seed: int) -> dict[str, Scores]:
    """What the images themselves would say of their domains to a network that is shown all of them together."""
    return {TRAINED: kept(place / "scores.safetensors", partial(_train_and_ask, images, domains, seed))}


def _train_and_ask(images: Images, domains: Tensor, seed: int) -> Scores:
    x = torch.cat([x for x, _ in images.train.values()])
    y = torch.cat([domains[place].expand(len(y)) for place, (_, y) in enumerate(images.train.values())])
    held = torch.cat([x for x, _ in images.held_out.values()])
    kinds = torch.cat([domains[place].expand(len(y)) for place, (_, y) in enumerate(images.held_out.values())])
    task = Task("domains", (x, y), val=(held, kinds), outputs=len(domains.unique()))
    network = build_net("convnet", (1, *SIZE), len(domains.unique()), widths=(16, 32, 64), pool=False, seed=seed)
    training = Training(epochs=5, batch_size=64, device="cpu", quiet=True)
    network = learn(network, [task], "independent", seed=seed, training=training).method.plain("domains").eval()

    @torch.no_grad()
    def score(part: Tensor) -> Tensor:
        return network(part).log_softmax(-1)[:, domains]

    return ask(score, images, 0)


def statistics_of(method: Method, images: Images) -> Measured:
    """The statistics of all tasks, for all dimensions of the same features."""
    found: Measured = {dims: {} for dims in DIMS.values()}
    for task, (x, y) in images.train.items():
        network, digest = method.plain(task), digest_of(method.records[task])
        read = partial(_features, network, method.head)
        z, held = read(x), read(images.held_out[task][0])
        for dims in DIMS.values():
            how: dict[str, Any] = {"dims": dims, "seed": method.seed, "head": method.head, "digest": digest}
            found[dims][task] = Statistics.fit(z, y, held, **how)
    return found


@torch.no_grad()
def labels_of(method: Method, images: Images) -> Tensor:
    """The likeliest label of every test image as every task has it, (images, tasks)."""
    x, found = images.asked["test"], []
    for task, record in method.records.items():
        network = method.plain(task).eval()
        logits = torch.cat([network(part)[:, : record.meta.outputs] for part in x.split(CHUNK)])
        found.append(logits.argmax(-1))
    return torch.stack(found, 1)


def _features(network: torch.nn.Module, head: str, x: Tensor) -> Tensor:
    return torch.cat([features_of(network, head, part) for part in x.split(CHUNK)])


def _ask_by(method: Method, images: Images, way: Way, by: By) -> Scores:
    inference = Inference(method, way, by)
    return ask(
        partial(_one_by_one, inference), images, 0, None if way == "every-mask" else partial(_at_once, inference)
    )


def _ask_statistics(method: Method, images: Images, measured: Callable[[], Measured], dims: int | None) -> Scores:
    statistics = measured()[dims]
    inference = Inference(method, "statistics", statistics=statistics)
    return ask(partial(_one_by_one, inference), images, max(one.nbytes for one in statistics.values()))


def _ask_pixels(way: Callable[[], Pixels], images: Images) -> Scores:
    score, size = way()
    return ask(score, images, size)


def _one_by_one(inference: Inference, x: Tensor) -> Tensor:
    return inference(x).scores


def _at_once(inference: Inference, x: Tensor) -> Tensor:
    return inference(x, together=True).scores
