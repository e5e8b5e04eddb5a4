"""The subcommand that gives a finished run more tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from polymask.asking.wanted import wanted_by
from polymask.cli.catalog import RUN_FILE, read
from polymask.cli.commands.run import arguments, summary
from polymask.cli.parsers import choose
from polymask.cli.values import UsageError
from polymask.learning.extend import extend, training_of
from polymask.learning.folder import read_config
from polymask.learning.objective import Objective
from polymask.loaded import Loaded, bank_folder, load
from polymask.streams.by_name import make_stream


def add(say: Callable[[str], None], dir: str, task: str | None = None, **values: Any) -> int:
    """Give a finished run more tasks, without the data of the older ones.

    Examples:
        polymask add runs/first --stream digits-rotated --tasks 2
        polymask add runs/first --data ./photos --task photos

    Args:
        say: called with every line.
        dir: the run's folder.
        task: which task of the stream; without it all that the run does not have.
        values: of the stream and of training.

    Raises:
        UsageError: if the run has these tasks already.

    Example:
        polymask add runs/first --stream digits-rotated --tasks 2
    """
    given = {name: value for name in read(RUN_FILE)["training"] if (value := values[name]) is not None}
    values = arguments(values)
    folder, wanted, how = Path(dir), task, values["how"]
    held, config = load(folder), read_config(folder / "config.yaml")
    shape: list[int] = (held.bank.outline["builder"] or {}).get("args", {}).get("example_shape") or []
    fits = len(shape) == 3
    tasks = make_stream(
        values["stream"],
        values["data"],
        data_root=values["data_root"],
        tasks=values["tasks"],
        order=values["order"] or (),
        seed=int(config.get("seed", 0)),
        size=values["size"] or ((shape[1], shape[2]) if fits else None),
        channels=values["channels"] or (shape[0] if fits else None),
        **{key: values[key] for key in ("mean", "std", "crop", "flip", "area", "examples")},
        **words_of(held, config, values),
        **how,
    )
    names = [task.name for task in tasks]
    if wanted is not None:
        choose("task", wanted, names)
    # A task that was removed is learned again only if it is named.
    removed = [] if wanted else [name for name in names if name in held.bank.removed]
    todo = [task for task in tasks if task.name not in (*held.tasks, *removed) and wanted in (None, task.name)]
    if not todo:
        hint = f"; to learn {removed[0]} again, which was removed, name it with --task" if removed else ""
        raise UsageError(f"expected a new task, found {wanted or ', '.join(names)}, which {folder} has already{hint}")
    for one in todo:
        training = replace(training_of(folder), **given)
        objective = Objective.of(values["metrics"] or config.get("metrics") or ["accuracy"])
        report = extend(folder, one, method=_own_method(config), training=training, objective=objective).report
    for line in summary({**report, "out": str(bank_folder(folder).parent)}):
        say(line)
    return 0


def words_of(held: Loaded, config: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Columns and tokenizer: as the command line says, else as those of the run's last task, where it reads texts."""
    said = {key: values[key] for key in ("text", "tokenizer", "length", "label") if values[key]}
    last = wanted_by(held.bank, held.bank.record(held.tasks[-1]).meta).text if held.tasks else None
    if last is None:
        return said
    columns = {} if last.columns in ((), ("first", "second")) else {"text": list(last.columns)}
    known = {"label": config.get("label"), "tokenizer": last.tokenizer, "length": last.length}
    return {**columns, **known, **said}


def _own_method(config: dict[str, Any]) -> str | None:
    """The address of a run's method, where it is of the user's own: the bank knows its name alone."""
    method = str(config.get("method", ""))
    return method if ":" in method else None
