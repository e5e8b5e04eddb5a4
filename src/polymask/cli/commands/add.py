"""The subcommand that gives a finished run more tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from polymask.asking.wanted import wanted_by
from polymask.cli.commands.run import arguments, summary
from polymask.cli.parsers import choose
from polymask.cli.values import UsageError
from polymask.learning.extend import extend, training_of
from polymask.learning.objective import Objective
from polymask.learning.training import Training
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
    values = arguments(values)
    folder, wanted, how = Path(dir), task, values["how"]
    held = load(folder)
    shape: list[int] = (held.bank.outline["builder"] or {}).get("args", {}).get("example_shape") or []
    fits = len(shape) == 3
    tasks = make_stream(
        values["stream"],
        values["data"],
        data_root=values["data_root"],
        tasks=values["tasks"],
        order=values["order"] or (),
        size=values["size"] or ((shape[1], shape[2]) if fits else None),
        channels=values["channels"] or (shape[0] if fits else None),
        **{key: values[key] for key in ("mean", "std", "crop", "flip", "area", "examples")},
        **words_of(held, folder, values),
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
        training = _over(training_of(folder), values["training"])
        objective = Objective.of(values["metrics"] or config_of(folder).get("metrics") or ["accuracy"])
        report = extend(folder, one, method=_own_method(folder), training=training, objective=objective).report
    for line in summary({**report, "out": str(bank_folder(folder).parent)}):
        say(line)
    return 0


def words_of(held: Loaded, folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Columns and tokenizer: as the command line says, else as those of the run's last task, where it reads texts."""
    said = {key: values[key] for key in ("text", "tokenizer", "length", "label") if values[key]}
    last = wanted_by(held.bank, held.bank.record(held.tasks[-1]).meta).text if held.tasks else None
    if last is None:
        return said
    columns = {} if last.columns in ((), ("first", "second")) else {"text": list(last.columns)}
    known = {"label": config_of(folder).get("label"), "tokenizer": last.tokenizer, "length": last.length}
    return {**columns, **known, **said}


def config_of(folder: Path) -> dict[str, Any]:
    """What a run's config.yaml says."""
    found: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return found


def _own_method(folder: Path) -> str | None:
    """The address of a run's method, where it is of the user's own: the bank knows its name alone."""
    method: str = config_of(folder)["method"]
    return method if ":" in method else None


def _over(base: Training, mine: Training) -> Training:
    """The settings of the run with those put over it that the command line gave."""
    default = asdict(Training())
    return replace(base, **{key: value for key, value in asdict(mine).items() if value != default[key]})
