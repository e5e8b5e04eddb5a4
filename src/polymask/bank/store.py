"""Files on disk: tensors named by what they hold, one json as the commit; whole or not there, and checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from polymask.disk import write_file
from polymask.parts.nest import nest_state

COMMIT = "bank.json"
_OURS = re.compile(r"[0-9a-f]{32}\.(safetensors|json)|\.([0-9a-f]{32}\.(safetensors|json)|bank\.json)\.tmp")


class DamagedBank(ValueError):  # noqa: N818 - the name says what is wrong
    """A file of a bank is missing, cut short or changed."""


class Gone(DamagedBank):
    """A file of a bank is not there: lost, or released by a later commit."""


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b-128 of the sorted (name, dtype, shape, payload), never of a file's bytes.

    >>> a, b = torch.zeros(2), torch.ones(1)
    >>> digest_of({"a": a, "b": b}) == digest_of({"b": b, "a": a}) != digest_of({"a": b, "b": a})
    True
    """
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode() + b"\n")
        if value.numel():
            found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def path_of(folder: Path, digest: str) -> Path:
    """Where the tensors of a digest lie."""
    return folder / f"{digest}.safetensors"


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], digest: str | None = None) -> str:
    """Write tensors as one safetensors file named by their digest; a file that is there already stays as it is.

    Args:
        folder: where; must exist.
        tensors: name -> tensor, on any device; tensors may share memory, the file holds each by itself.
        digest: their digest, where it is known.

    Returns:
        The digest.
    """
    digest = digest or digest_of(tensors)
    if not path_of(folder, digest).exists():
        write_file(path_of(folder, digest), to_bytes(tensors))
    return digest


def write_shared(folder: Path, tensors: Mapping[str, Tensor], digest: str) -> None:
    """Write tensors that other banks may hold too, once for all of them: a link to one file in the user's cache.

    That is POLYMASK_CACHE, else ~/.cache/polymask. Where no link can be made, the bank has a file of its own; a damaged
    one in the cache is written anew, and the banks that are linked to it stay damaged.
    """
    if path_of(folder, digest).exists():
        return
    home = Path(os.environ.get("POLYMASK_CACHE", "~/.cache/polymask")).expanduser() / "hosts"
    try:
        home.mkdir(parents=True, exist_ok=True)
        try:
            read_tensors(home, digest)
        except DamagedBank:
            path_of(home, digest).unlink(missing_ok=True)
            write_file(path_of(home, digest), to_bytes(tensors))
        os.link(path_of(home, digest), path_of(folder, digest))
    except OSError:
        write_tensors(folder, tensors, digest)


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as one safetensors file; those that share memory lie in it each by itself."""
    seen: set[int] = set()
    alone = {}
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        alone[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return save(alone)


def read_tensors(folder: Path, digest: str) -> dict[str, Tensor]:
    """Read the tensors of a digest and check that they are what was written.

    Raises:
        Gone: if the file is missing.
        DamagedBank: if it is cut short or changed.
    """
    path = path_of(folder, digest)
    try:
        # Sorted, because the reader's order is another at every call.
        tensors: dict[str, Tensor] = dict(sorted(load(path.read_bytes()).items()))
    except FileNotFoundError as error:
        raise Gone(_gone(path)) from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedBank(
            f"expected a whole safetensors file, found {path} cut short or changed ({error}): restore it from a copy"
        ) from error
    if (found := digest_of(tensors)) != digest:
        raise DamagedBank(f"expected content {digest} in {path}, found {found}: it was changed, restore it from a copy")
    return tensors


def read_state(folder: Path, digest: str) -> dict[str, Any]:
    """Read a nested state that was written as ``flatten_state`` gives it.

    Raises:
        DamagedBank: if the file is missing, cut short or changed, or is no such state.
    """
    tensors = read_tensors(folder, digest)
    try:
        return nest_state(tensors)
    except (ValueError, KeyError, RecursionError) as error:
        raise DamagedBank(
            f"expected a nested state in {path_of(folder, digest)}, found another content ({type(error).__name__}): "
            "restore it from a copy"
        ) from error


def entry_path(folder: Path, digest: str) -> Path:
    """Where the entry of a digest lies."""
    return folder / f"{digest}.json"


def write_entry(folder: Path, entry: Mapping[str, Any]) -> str:
    """Write a json mapping as a file named by its text's hash.

    Returns:
        The hash.
    """
    text = json.dumps(entry, indent=1, allow_nan=False) + "\n"
    digest = hash_of(text)
    if not entry_path(folder, digest).exists():
        write_file(entry_path(folder, digest), text.encode())
    return digest


def read_entry(folder: Path, digest: str) -> dict[str, Any]:
    """Read what ``write_entry`` wrote, and check every byte of it.

    Raises:
        Gone: if the file is missing.
        DamagedBank: if it is cut short or changed.
    """
    path = entry_path(folder, digest)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise Gone(_gone(path)) from error
    damaged = DamagedBank(f"expected {path} as it was written, found it changed: restore it from a copy")
    if hashlib.blake2b(data, digest_size=16).hexdigest() != digest:
        raise damaged
    try:
        found: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged from error
    return found


def _gone(path: Path) -> str:
    return (
        f"expected the file {path}, found none: if the bank was written to since you opened it, open it again; "
        "else restore the file from a copy"
    )


def hash_of(text: str) -> str:
    """BLAKE2b-128 of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def as_json(value: Any, what: str) -> Any:
    """A value as it comes back from a json file: tuples as lists.

    Args:
        value: anything.
        what: what it is, for the error.

    Raises:
        ValueError: if it is no JSON.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except RecursionError as error:
        raise ValueError(f"expected {what} of a few levels, found it nested too deeply: make it flatter") from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected {what} of names, numbers, strings, lists and mappings, found {value!r} ({error})"
        ) from error


def size_of(path: Path) -> int:
    """The bytes of a file; 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def sweep(folder: Path, keep: Collection[str]) -> None:
    """Delete what no commit refers to: tensor files of other digests, and what an interrupted write left.

    Args:
        folder: the bank's folder; a file whose name is none of ours is left alone.
        keep: the digests in use.
    """
    for path in sorted(folder.iterdir()):
        if _OURS.fullmatch(path.name) and path.stem not in keep:
            path.unlink(missing_ok=True)


def free(folder: Path, digests: Collection[str]) -> None:
    """Delete the files of these digests."""
    for digest in sorted(digests):
        for path in (path_of(folder, digest), entry_path(folder, digest)):
            path.unlink(missing_ok=True)
