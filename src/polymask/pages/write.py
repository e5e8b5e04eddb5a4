"""A folder as one page of HTML: what is in it is read, drawn, and written as a single file that needs no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from polymask.disk import write_file
from polymask.learning.options import JOINT
from polymask.pages import of_bank, of_cost, of_run
from polymask.pages.comparison import comparison_page
from polymask.pages.run import Run, read_run, references
from polymask.pages.runs import run_folders
from polymask.pages.section import Page, Section, Table, as_number
from polymask.report.labels import counted, listed, number, printable, shortened
from polymask.report.table import human_bytes
from polymask.version import __version__

HERE = Path(__file__).parent


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about a run, a comparison or a bank; the same folder gives the same bytes.

    What the folder lacks, or what in it is damaged, is a sentence on the page.

    Args:
        folder: what ``--out`` of a run or of a comparison was, or a bank.
        out: the page; None: ``report.html`` in the folder.

    Returns:
        Where the page is.

    Raises:
        FileNotFoundError: if the folder holds none of these.
        OSError: if the page cannot be written; an older one is still there.

    >>> import tempfile
    >>> from polymask.learning.learn import learn
    >>> from polymask.learning.training import Training
    >>> from polymask.nets import MLP
    >>> from polymask.streams.images import digits
    >>> with tempfile.TemporaryDirectory() as out:
    ...     _ = learn(MLP(64, (16,), 2), digits(5)[:2], "piggyback", out=out, training=Training(epochs=1))
    ...     page = write_report(out)
    ...     page.name, "Nothing was forgotten" in page.read_text()
    ('report.html', True)
    """
    place = Path(folder).expanduser()
    path = place / "report.html" if out is None else Path(out).expanduser()
    runs = {} if (place / "results.json").exists() or (place / "config.yaml").exists() else run_folders(place)
    page = comparison_page(place, runs) if runs else run_page(read_run(place))
    kind = "comparison" if runs else "run"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"expected to write {path}, found: {error.strerror}; choose another out") from error
    # Half a character, which a name may hold, has no bytes.
    write_file(path, render(page, f"About the {kind} in {place.resolve().name}.").encode("utf-8", "replace"))
    return path


def render(page: Page, origin: str) -> str:
    """The page as HTML; every text in it is escaped.

    >>> render(Page("<b>", "", {}, []), "").count("<b>")
    0
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    css = (HERE / "page.css").read_text()
    return environment.get_template("page.html").render(page=page, css=css, origin=origin, version=__version__)


def run_page(run: Run) -> Page:
    """All that a run's folder says."""
    beside = references(run)
    sections = [
        of_run.accuracy_matrix(run),
        of_run.tasks_with_references(run, beside),
        of_run.over_the_run(run, beside),
        of_run.forgetting(run),
        *of_bank.masks(run),
        of_cost.bytes_per_task(run),
        of_cost.training(run),
        of_bank.roles(run),
        _settings(run),
    ]
    stream = (run.results.get("stream") or {}).get("name") or run.config.get("stream") or ""
    title = f"{run.method} on {stream}" if stream else run.method
    return Page(printable(str(title)), _summary(run) + _removed(run), _figures(run), sections, run.problems)


def _summary(run: Run) -> str:
    done, metric = run.finished, run.metric
    average, drift = run.results.get("average_accuracy"), run.results.get("max_logit_drift")
    said = f"{printable(run.method)} learned {counted(len(done), 'task')} one after the other"
    if run.method == JOINT:
        said = f"Joint training on all {counted(len(run.tasks), 'task')} at once"
    elif len(done) < len(run.tasks):
        said = f"{printable(run.method)} has learned {len(done):,} of {counted(len(run.tasks), 'task')}, not all yet"
    if isinstance(average, int | float):
        said += f": average {metric} {number(average)} {'at the end' if run.ended else 'so far'}"
    if drift == 0:
        return f"{said}. Nothing was forgotten: no logit of a finished task has changed by a bit."
    if isinstance(drift, int | float):
        return f"{said}. The largest change of a logit of a finished task is {number(drift)}."
    return f"{said}."


def _removed(run: Run) -> str:
    """Which tasks were taken out since; nothing else on the page speaks of them."""
    names = [shortened(task) for task in run.removed]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" Removed since: {listed(names[:5])}{more}." if names else ""


def _figures(run: Run) -> dict[str, str]:
    results, sizes = run.results, dict(run.results.get("bytes") or {})
    each = list(sizes.get("per_task") or ())
    found = {
        f"average {run.metric}": number(as_number(results.get("average_accuracy")), 4),
        "backward transfer": number(as_number(results.get("bwt_gem"))),
        "largest logit drift": number(as_number(results.get("max_logit_drift"))),
        "bytes per task": human_bytes(round(sum(each) / len(each))) if each else "–",
        "shared bytes": human_bytes(sizes["backbone"]) if sizes.get("backbone") is not None else "–",
        **_identities(results.get("identities") or {}),
        "tasks": f"{len(run.tasks if run.method == JOINT else run.finished):,}",
        "seconds of training": number(as_number(results.get("seconds"))),
    }
    return {name: value for name, value in found.items() if value != "–"}


def _identities(found: dict[str, Any]) -> dict[str, str]:
    """What was scored where nobody names the tasks."""
    where = f"{found.get('scenario')}, {found.get('rows')} inputs at once"
    names = {"inference": f"tasks found ({where})", "inferred": "accuracy with the task found", "given": "and named"}
    return {name: number(as_number(found.get(key)), 4) for key, name in names.items()}


def _settings(run: Run) -> Section:
    """The options of the run, and the settings in which its metric was measured."""
    rows = [[str(key), printable(str(value))] for key, value in run.config.items() if value not in (None, {}, [])]
    settings = list(dict.fromkeys(one for one in run.results.get("settings") or () if one))
    rows += [["measured as", printable(str(one))] for one in settings]
    sentence = (
        "What config.yaml says, which starts the same run again; options that are not set are left out."
        if run.config
        else "There is no config.yaml that can be read."
    )
    table = Table("settings", ["option", "value"], rows, words=True) if rows else None
    return Section("settings", "Settings", sentence, (), table)
