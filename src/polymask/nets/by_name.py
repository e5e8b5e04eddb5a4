"""Networks by name: ours, timm's, transformers', or a factory of your own."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polymask.nets import NETS, build_net
from polymask.parts.seeds import seed_of
from polymask.surgery.adapters import add_adapters

RANDOM, PRETRAINED = "random", "pretrained"


def build_model(
    name: str,
    example_shape: Sequence[int] | None,
    outputs: int,
    *,
    weights: str = RANDOM,
    seed: int = 0,
    adapters: int = 0,
    **net: Any,
) -> nn.Module:
    """A network by name; what a bank calls to build it again.

    Args:
        name: a key of ``polymask.nets.NETS``, ``package.module:factory``, a name of timm, or a folder or a name with a
            slash of transformers (a model for sequence classification).
        example_shape: of one example, without the batch: (C, H, W); None for token ids.
        outputs: width of the head.
        weights: "random", drawn from ``seed``; or "pretrained", those that timm or transformers download.
        seed: what random weights are drawn from; the global generators stay as they are.
        adapters: units of an adapter at the end of each branch of a transformer, all else frozen; 0: none.
        net: further arguments of the network.

    Raises:
        ValueError: there is no such network, it does not take an argument, or it has no such weights.

    >>> build_model("mlp", (1, 8, 8), 2, hidden=[16]).head
    Linear(in_features=16, out_features=2, bias=True)
    """
    if weights not in (RANDOM, PRETRAINED):
        raise ValueError(f"expected weights {RANDOM!r} or {PRETRAINED!r}, found {weights!r}: a file is read afterwards")
    if weights == PRETRAINED and (name in NETS or ":" in name):
        raise ValueError(
            f"expected weights of {name!r} from a file or 'random', found 'pretrained': it has none to load"
        )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed_of(seed, "init"))
        try:
            model = _made(name, example_shape, outputs, weights == PRETRAINED, seed, net)
        except TypeError as error:
            raise ValueError(f"expected arguments that the network {name!r} takes, found {net}: {error}") from error
    return add_adapters(model, example_of(example_shape), adapters, seed=seed) if adapters else model


def default_net(example_shape: Sequence[int]) -> str:
    """The network that suits examples of a shape, where none is asked for.

    >>> default_net((1, 8, 8)), default_net((3, 32, 32))
    ('mlp', 'convnet')
    """
    return "convnet" if len(example_shape) == 3 and example_shape[0] > 1 else "mlp"


def is_transformers(name: str) -> bool:
    """Whether a name is one of transformers: a folder, or a name with a slash that is not timm's."""
    return name not in NETS and ":" not in name and ("/" in name.removeprefix("timm/") or Path(name).is_dir())


def example_of(shape: Sequence[int] | None) -> Any:
    """Two examples of a shape, or of token ids."""
    if shape is not None:
        return torch.zeros(2, *shape)
    return {"input_ids": torch.ones(2, 8, dtype=torch.long), "attention_mask": torch.ones(2, 8, dtype=torch.long)}


def _made(
    name: str, shape: Sequence[int] | None, outputs: int, pretrained: bool, seed: int, net: Mapping[str, Any]
) -> nn.Module:
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise FileNotFoundError(f"expected a network's name, or the folder of one, found no {name}")
    if name in NETS:
        return build_net(name, shape or (), outputs, seed=seed, **net)
    if ":" in name:
        return _from_factory(name, outputs, net)
    if is_transformers(name):
        return _from_transformers(name, outputs, pretrained, net)
    short = name.removeprefix("timm/")
    # A name that stands nowhere in its text is none, neither one of now nor one that it takes for another.
    if (source := timm_source()) and not re.search(rf"\b{re.escape(short.partition('.')[0])}\b", source):
        raise _unknown(name, registered(source))
    timm = _optional("timm", name, "vision")
    if not timm.is_model(short):
        raise _unknown(name, timm.list_models())
    channels = shape[0] if shape is not None and len(shape) == 3 else 3
    model: nn.Module = timm.create_model(short, pretrained=pretrained, num_classes=outputs, in_chans=channels, **net)
    return model


def _from_factory(name: str, outputs: int, net: Mapping[str, Any]) -> nn.Module:
    package, _, leaf = name.partition(":")
    try:
        factory = getattr(importlib.import_module(package), leaf)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"expected package.module:factory that can be imported, found {name!r} ({error}): install its package, or "
            "start from the folder in which it lies"
        ) from error
    wanted = {"outputs": outputs} if "outputs" in inspect.signature(factory).parameters else {}
    model = factory(**wanted, **net)
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected {name!r} to return a module, found {type(model).__name__}")
    return model


def _from_transformers(name: str, outputs: int, pretrained: bool, net: Mapping[str, Any]) -> nn.Module:
    transformers = _optional("transformers", name, "text", "AutoModelForSequenceClassification")
    kind = transformers.AutoModelForSequenceClassification
    try:
        if pretrained:
            return _loaded(kind, name, outputs, net)
        model: nn.Module = kind.from_config(transformers.AutoConfig.from_pretrained(name, num_labels=outputs, **net))
        return model
    except TypeError:
        raise
    except Exception as error:  # it raises of many kinds where there is no such model, or a damaged one
        if isinstance(error, ModuleNotFoundError) and error.name is None:
            raise _broken(error, "transformers") from error  # the network's own file is imported only now
        why = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"expected a folder of transformers, or a name on the hub, of a model that classifies sequences, found "
            f"{name!r}, of which none can be made: {why}"
        ) from error


def _loaded(kind: Any, name: str, outputs: int, net: Mapping[str, Any]) -> nn.Module:
    """A model with its weights, but for the last layer's where those are of other classes: a task has its own."""
    how = {"num_labels": outputs, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, about = kind.from_pretrained(name, **how, **net)
    odd = [key for key, saved, made in about["mismatched_keys"] if saved[1:] != made[1:] or made[0] != outputs]
    if odd:
        raise ValueError(f"{len(odd)} tensors have other sizes than its configuration says, as {min(odd)}")
    found: nn.Module = model
    return found


def timm_source() -> str:
    """The text of timm's own networks, read without importing it, which takes seconds; empty where it is not."""
    found = importlib.util.find_spec("timm")
    places = [] if found is None else list(found.submodule_search_locations or ())
    files = [file for place in places for file in sorted(Path(place).glob("models/*.py"))]
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def registered(source: str) -> list[str]:
    r"""The networks that timm's text registers.

    >>> registered("@register_model\ndef resnet18d(pretrained=False):")
    ['resnet18d']
    """
    return re.findall(r"^@register_model\s+def (\w+)\(", source, re.MULTILINE)


def _unknown(name: str, others: Sequence[str]) -> ValueError:
    short = name.removeprefix("timm/")
    near = difflib.get_close_matches(short, NETS, 1, 0.8) or difflib.get_close_matches(short, [*NETS, *others], 3, 0.5)
    hint = f": did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    return ValueError(
        f"expected a network of {', '.join(NETS)}, of timm, of transformers (a folder, or owner/name) or "
        f"package.module:factory, found {name!r}{hint}"
    )


def _optional(package: str, network: str, extra: str, needed: str | None = None) -> Any:
    """A package, with what is needed of it: some import their parts late."""
    try:
        module = importlib.import_module(package)
        if needed is not None:
            getattr(module, needed)
        return module
    except ModuleNotFoundError as error:
        if error.name is None:
            raise _broken(error, package) from error
        if error.name != package:
            raise ModuleNotFoundError(
                f"expected to import {package}, found that it needs the package {error.name}, which is not there: "
                f"pip install 'polymask[{extra}]'"
            ) from error
        near = difflib.get_close_matches(network, NETS, 1, 0.6)
        raise ModuleNotFoundError(
            f"expected a network of {', '.join(NETS)}, or the package {package} for {network!r}, found neither"
            + (f": did you mean {near[0]}? For {package}'s" if near else ": for it")
            + f", pip install 'polymask[{extra}]'"
        ) from error
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise _broken(error, package) from error


def _broken(error: BaseException, package: str) -> RuntimeError:
    # torchvision built for another torch fails so, and takes along whatever imports it.
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    whose = _failing(first, package)
    return RuntimeError(
        f"expected to import {package}, found that {whose} cannot be imported ({first}): install {whose} anew, a "
        f"version for torch {torch.__version__}"
    )


def _failing(error: BaseException, package: str) -> str:
    """The package in whose files an import failed: the last on the way that is not torch, else the one asked for."""
    trace, found = error.__traceback__, package
    while trace is not None:
        parts = Path(trace.tb_frame.f_code.co_filename).parts
        places = [i for i, part in enumerate(parts[:-1]) if part in ("site-packages", "dist-packages")]
        if places and parts[places[-1] + 1] != "torch":
            found = parts[places[-1] + 1].removesuffix(".py")
        trace = trace.tb_next
    return found
