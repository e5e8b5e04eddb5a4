"""Export a finished task as one file that needs no polymask, checked against the bank's own answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polymask.asking.named import find_task, listed, places_of
from polymask.disk import write_file
from polymask.export.answer import Takes
from polymask.export.as_onnx import require
from polymask.export.fold import fold_norms
from polymask.export.formats import SUFFIX, WRITERS, Format, as_weights
from polymask.export.made import Source, entrance_of, source_of
from polymask.export.smaller import count, smaller
from polymask.loaded import Loaded, load
from polymask.report.table import human_bytes
from polymask.version import __version__


@dataclass(frozen=True)
class Exported:
    """A file that was written, and what is said of it.

    Args:
        path: the file; beside it lies the same with ``.json`` after its name, which holds ``about``.
        about: task, labels, inputs, preparation, sizes and what was compared, as JSON.
        lines: the same for a reader.
    """

    path: Path
    about: dict[str, Any]
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def export_task(
    run: str | Path | Loaded,
    task: str | None = None,
    out: str | Path | None = None,
    *,
    to: Format = "onnx",
    takes: Takes | None = None,
    shape: Sequence[int] | None = None,
    batch: int | None = None,
    fold: bool = False,
    prune: bool = False,
    overwrite: bool = False,
    base: nn.Module | None = None,
    example: Any = None,
) -> Exported:
    """Write one task as a file of its own, load it again and compare its answers with the bank's.

    The largest difference of any logit is noted; above ``sqrt(eps) * max(1, max |logits|)`` there is no file. Beside
    the file lies its name with ``.json``: task, labels, inputs and their preparation, sizes, what was compared, a hash.

    Args:
        run: a run's folder, a bank, or what ``load`` gave.
        task: its name, or ``#3`` for the third that was learned; None: the only one.
        out: the file, or a folder for it; None: ``export/`` in the run's folder.
        to: "onnx"; "torch", a program that ``torch.export.load`` reads; "safetensors", the weights alone.
        takes: what goes in. "raw": numbers as the task's data had them, images from 0 to 1, or "bytes": both are
            prepared inside the graph. "prepared": what the network reads; how inputs are prepared stands in the json
            beside. None: "raw" where the task's record says how inputs are prepared.
        shape: of one raw input, where it is not what the network reads; images are then taken in any size.
        batch: the number of rows, for a network that takes one alone; None: any.
        fold: fold each BatchNorm into the layer before it.
        prune: take out the units that the task's masks shut.
        overwrite: replace a file that is there.
        base: the network, where the bank does not know how it is built; left alone.
        example: an input as the network reads it, where the bank has no probe.

    Raises:
        FileExistsError: if the file is there.
        KeyError: if there is no such task.
        ModuleNotFoundError: if what ONNX needs is not installed.
        ValueError: if the network cannot be said in this format, or would answer otherwise; no file is written.

    >>> import tempfile
    >>> from polymask import Training, learn
    >>> from polymask.nets import MLP
    >>> from polymask.streams import digits
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = learn(MLP(64, (16,), 2), digits(5)[:1], "packnet", out=folder, training=Training(epochs=1))
    ...     found = export_task(folder, "digits/0-1", to="torch", base=MLP(64, (16,), 2))
    ...     network = torch.export.load(found.path).module()  # needs no polymask
    ...     x = digits(5)[0].test[1][0][None]
    ...     torch.equal(network(x), run.logits("digits/0-1", x)), found.path.name
    (True, 'digits-0-1.pt2')
    """
    require(to)
    loaded = run if isinstance(run, Loaded) else load(run, base)
    name, base = _meant(loaded, task), loaded.base if base is None else base
    path = _path(loaded.bank.path, name, out, to)
    if path.exists() and not overwrite:
        raise FileExistsError(f"expected no file at {path}, found one: give --overwrite, or another --out")
    if to == "safetensors" and (fold or (takes or "prepared") != "prepared"):
        raise ValueError(
            "expected weights as the network's own code reads them, found --fold or --takes, for which a graph is "
            "needed: leave them out, or export --to onnx or --to torch"
        )
    source = source_of(loaded, name, base, example)
    door = entrance_of(source, "prepared" if to == "safetensors" else takes, shape, batch)
    network, done, lines = _slimmed(source, prune, fold)
    about = {**source.about, "to": to, "takes": door.takes, "parameters": count(network), **done}
    about |= {"polymask": __version__, "torch": torch.__version__}
    if to == "safetensors":
        data, form, checked = as_weights(source, network, door, about, base)
    else:
        data, form, checked = WRITERS[to](source, network, door, about)
    about |= {"inputs": form.describe(), "output": "logits", "checked": asdict(checked)}
    about |= {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    _write(path, data, about)
    said = [
        f"task {name!r} of {about['method']}: {_outputs(source)}",
        *lines,
        str(replace(door, form=form)),
        str(checked),
    ]
    return Exported(path, about, (*said, f"Files: {path} ({human_bytes(len(data))}), {beside(path)}"))


def _slimmed(source: Source, prune: bool, fold: bool) -> tuple[nn.Module, dict[str, Any], list[str]]:
    """A task's network, smaller if that is asked for; what was done as JSON, and in words."""
    network, lines = source.plain, list[str]()
    about: dict[str, Any] = {}
    if prune:
        small = smaller(network, source.sites, source.record, source.batch)
        network, about["pruned"], lines = small.network, dict(small.about), [*small.lines]
    if fold:
        network, words = fold_norms(network, source.batch)
        about["folded"] = words
        lines.append(words)
    return network, about, lines


def beside(path: Path) -> Path:
    """Where the json of a file lies.

    >>> beside(Path("a/b.onnx")).name
    'b.onnx.json'
    """
    return path.with_name(f"{path.name}.json")


def _write(path: Path, data: bytes, about: Mapping[str, Any]) -> None:
    """Write a file and what is said of it: both, or what was there before."""
    said = beside(path)
    before = said.read_bytes() if said.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(said, (json.dumps(about, indent=2) + "\n").encode())
    try:
        write_file(path, data)
    except BaseException:
        if before is None:
            said.unlink()
        else:
            write_file(said, before)
        raise


def _meant(loaded: Loaded, task: str | None) -> str:
    """The task that is named; the only one, where none is.

    Raises:
        KeyError: if there is none, or several to choose from.
    """
    if task is not None:
        return find_task(loaded.bank, task)
    if len(loaded.tasks) != 1:
        raise KeyError(f"expected one of the tasks {listed(places_of(loaded.bank))}, found none named: give --task")
    return loaded.tasks[0]


def _path(bank: Path, task: str, out: str | Path | None, to: Format) -> Path:
    """Where the file goes."""
    file = (re.sub(r"[^\w.-]+", "-", task).strip("-.") or "task") + SUFFIX[to]
    if out is None:
        return (bank.parent if bank.name == "bank" else bank) / "export" / file
    path = Path(out).expanduser()
    if path.is_dir() or str(out).endswith("/"):
        return path / file
    if path.suffix != SUFFIX[to] and path.suffix in SUFFIX.values():
        other = next(one for one, suffix in SUFFIX.items() if suffix == path.suffix)
        raise ValueError(f"expected a file {SUFFIX[to]} for {to}, found {out}: name it so, or ask for {other}")
    return path


def _outputs(source: Source) -> str:
    labels, count = source.record.meta.labels, source.record.meta.outputs
    shown = ", ".join(labels if len(labels) <= 12 else [*labels[:10], "...", labels[-1]])
    return f"{count} outputs" + (f" ({shown})" if labels else "")
