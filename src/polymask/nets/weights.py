"""A network's weights from a file: all of its body, and of its head what fits."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def load_weights(model: nn.Module, path: str | Path, head: str) -> None:
    """Fill a network from a file of its state dict; of the head only what fits, of the rest all.

    Args:
        model: changed in place.
        path: .safetensors, or whatever ``torch.load`` reads without unpickling objects.
        head: the name of its head module.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no state dict of this network.
    """
    state, own = read_state(Path(path).expanduser()), model.state_dict()
    inside = f"{head}."
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    wrong = [name for name in {**own, **state} if name not in fitting and not name.startswith(inside)]
    if wrong:
        what = "; ".join(_difference(name, state, own) for name in wrong[:3])
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"expected {path} to hold this network, found another: {what}{more}. Is it the right --model?")
    model.load_state_dict(fitting, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, also from one that keeps it under "state_dict" or "model"."""
    if not path.is_file():
        raise FileNotFoundError(f"expected a file of weights, 'random', 'pretrained' or 'first-task', found no {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            loaded: Any = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"expected {path} to hold tensors, found {error}") from error
    else:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            found = next(iter(str(error).splitlines()), "an empty file")
            raise ValueError(f"expected {path} to hold tensors alone, found {found}") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"expected {path} to hold a state dict, names and tensors, found {type(loaded).__name__}")
    return dict(loaded)


def _difference(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    if name not in state:
        return f"{name!r} is missing"
    if name not in own:
        return f"{name!r} is not of this network"
    return f"{name!r} has shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
