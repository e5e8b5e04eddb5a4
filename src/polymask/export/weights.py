"""Weights alone: a plain network's tensors in one safetensors file, and how they come into a network again."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from polymask.builder import Builder
from polymask.sites.plugs import plug_again
from polymask.sites.trace import Place, places


def to_bytes(plain: nn.Module, private: Collection[str], about: Mapping[str, Any]) -> bytes:
    """A network's state dict as the bytes of a ``.safetensors`` file, what is said of it in its metadata.

    Args:
        plain: the network.
        private: the names of the task's own tensors: of these the file holds those that no state dict has, too.
        about: what is said; texts as they are, all else as JSON.

    Raises:
        ValueError: if the state dict holds what is no tensor.
    """
    state = plain.state_dict()
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"expected a state dict of tensors, found {odd[0]!r} in it, which is none: export it --to torch"
        )
    for name, spots in places(plain).items():
        if name in private:
            state.setdefault(name, spots[0].tensor())
    # A file holds each by itself: names that share memory come with a copy each.
    alone = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    return save(alone, {"format": "pt", **words})


@torch.no_grad()
def load_weights(file: str | Path, base: nn.Module | None = None) -> nn.Module:
    """The network of a safetensors file that ``export`` wrote: built as its metadata say, in evaluation mode.

    Layers take the sizes of their tensors: a head, a layer that grew, and one whose units were taken out.

    Args:
        file: the ``.safetensors`` file.
        base: the network to put the weights into, where the file does not say how it is built; it is left alone. A
            builder is code that runs: open files of those you trust, or bring the network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of ours, or of another network.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"expected a .safetensors file, found no {path}")
    try:
        with safe_open(path, "pt") as opened:
            words, tensors = opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"expected a whole safetensors file, found {path} cut short or changed ({error})") from error
    builder = json.loads(words.get("builder", "null"))
    if base is None and builder is None:
        raise ValueError(
            f"expected {path} to say how its network is built, found nothing of it: bring the network as base="
        )
    built = Builder.from_json(builder).build() if base is None else copy.deepcopy(base)
    return put_weights(plug_again(built, json.loads(words.get("plugged", "[]"))), tensors)


@torch.no_grad()
def put_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Write tensors into a network, in place, whose layers take their sizes.

    Raises:
        ValueError: if a name is missing on either side.
    """
    state = network.state_dict(keep_vars=True)
    where = {f"{path}.{leaf}".lstrip("."): Place(module, leaf) for path, module, leaf in _spots(network)}
    if wrong := sorted({*state} - {*tensors}) + sorted({*tensors} - {*where}):
        raise ValueError(
            f"expected the tensors of one network in both, found {wrong[0]!r} in one alone: another network"
        )
    tied: dict[int, nn.Parameter] = {}
    for name, value in tensors.items():
        place = where[name]
        old = place.tensor()
        if isinstance(place.module, nn.modules.conv._ConvNd) and place.leaf == "weight":
            _regroup(place.module, value)
        if isinstance(old, nn.Parameter):
            fresh = tied.setdefault(id(old), nn.Parameter(value.to(old.device), old.requires_grad))
            place.replace(fresh)
        else:
            place.replace(value.to(old.device))
    return network.eval()


def _spots(network: nn.Module) -> list[tuple[str, nn.Module, str]]:
    return [
        (path, module, leaf)
        for path, module in network.named_modules(remove_duplicate=False)
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    ]


def _regroup(module: nn.modules.conv._ConvNd, weight: Tensor) -> None:
    """Let a depthwise convolution that lost channels have as many groups as it has channels left."""
    if module.groups == module.in_channels == module.out_channels:
        module.groups = len(weight)
