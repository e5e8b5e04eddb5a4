"""Rows of results as text that people read: aligned, Markdown and LaTeX tables, byte counts, mean ± deviation.

A row maps column names to values. Columns come in the order given or, if none is, as first seen. What is
missing, None or NaN shows as ``-``; a column whose entries all begin as numbers do is set to the right.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence

Rows = Sequence[Mapping[str, object]]

MISSING = "-"
_LATEX = {one: rf"\{one}" for one in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}
NUMBER = re.compile(r"[-+]?(\d|inf)")


def table(rows: Rows, columns: Sequence[str] | None = None, floatfmt: str = ".3f") -> str:
    """An aligned table in plain text, without a final newline.

    Args:
        rows: what to show.
        columns: which keys, in which order; None: all.
        floatfmt: the format of floats.

    Raises:
        KeyError: a column that no row has.
        ValueError: no column at all.

    >>> print(table([{"method": "packnet", "accuracy": 0.5}, {"method": "hat", "tasks": 10}]))
    method   accuracy  tasks
    -------  --------  -----
    packnet     0.500      -
    hat             -     10
    """
    lines, right = _cells(rows, columns, floatfmt)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(_pad(line, widths, right)).rstrip() for line in lines)


def markdown(rows: Rows, columns: Sequence[str] | None = None, floatfmt: str = ".3f") -> str:
    """The same table in GitHub's Markdown, see ``table`` for arguments and errors.

    >>> print(markdown([{"method": "packnet", "accuracy": 0.5}, {"method": "hat", "tasks": 10}]))
    | method  | accuracy | tasks |
    | :------ | -------: | ----: |
    | packnet |    0.500 |     - |
    | hat     |        - |    10 |
    """
    lines, right = _cells(rows, columns, floatfmt)
    lines = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    widths = [max(2, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * (width - 1) for width in widths]
    lines.insert(1, [f"{dashes}:" if r else f":{dashes}" for dashes, r in zip(rule, right, strict=True)])
    return "\n".join(f"| {' | '.join(_pad(line, widths, right))} |" for line in lines)


def latex(rows: Rows, columns: Sequence[str] | None = None, floatfmt: str = ".3f") -> str:
    r"""The same table in LaTeX, for the package booktabs, see ``table`` for arguments and errors.

    >>> print(latex([{"method": "linear_probe", "accuracy": "0.50 ± 0.01"}]))
    \begin{tabular}{lr}
    \toprule
    method & accuracy \\
    \midrule
    linear\_probe & 0.50 $\pm$ 0.01 \\
    \bottomrule
    \end{tabular}
    """
    lines, right = _cells(rows, columns, floatfmt)
    head, *body = [" & ".join(map(_in_latex, line)) + r" \\" for line in lines]
    begin = rf"\begin{{tabular}}{{{''.join('r' if one else 'l' for one in right)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(one, one) for one in text)


def human_bytes(n: int) -> str:
    """A byte count with three digits, in decimal units (1 kB = 1000 B) as the papers count.

    Raises:
        ValueError: a negative count.

    >>> human_bytes(512), human_bytes(3320), human_bytes(2_931_250), human_bytes(999_999)
    ('512 B', '3.32 kB', '2.93 MB', '1.00 MB')
    """
    if n < 0:
        raise ValueError(f"expected a count of bytes, at least 0, found {n}")
    if n < 1000:
        return f"{n} B"
    # Rounding first, not last, keeps 999,999 from becoming 1000 kB.
    value, units = float(f"{n:.3g}"), iter(("kB", "MB", "GB", "TB", "PB", "EB"))
    unit = "B"
    while value >= 1000 and (larger := next(units, None)):
        value, unit = value / 1000, larger
    return f"{value:#.3g}".rstrip(".") + f" {unit}"


def mean_std(values: Sequence[float | None], floatfmt: str = ".2f") -> str:
    """``mean ± s`` over runs, s the sample standard deviation (n - 1); the mean alone for one run.

    A value that is None or NaN makes the whole ``-``: a mean over the runs that happen to be there misleads.

    Raises:
        ValueError: no values.

    >>> mean_std([93.0, 94.0, 95.0]), mean_std([93.0]), mean_std([93.0, None])
    ('94.00 ± 1.00', '93.00', '-')
    """
    if not values:
        raise ValueError("expected the values of at least one run, found none")
    known = [value for value in values if value is not None and not math.isnan(value)]
    if len(known) < len(values):
        return MISSING
    mean = _text(statistics.fmean(known), floatfmt)
    return mean if len(known) == 1 else f"{mean} ± {_text(statistics.stdev(known), floatfmt)}"


def _cells(rows: Rows, columns: Sequence[str] | None, floatfmt: str) -> tuple[list[list[str]], list[bool]]:
    """Header and body as text, and which columns are set to the right."""
    seen = list(dict.fromkeys(key for row in rows for key in row))
    names = seen if columns is None else list(columns)
    if not names:
        raise ValueError("expected at least one column to show, found none: give rows with keys, or columns")
    if rows and (unknown := [name for name in names if name not in seen]):
        raise KeyError(f"no row has the columns {unknown}; there are {seen}")
    body = [[_text(row.get(name), floatfmt) for name in names] for row in rows]
    right = [all(cell == MISSING or NUMBER.match(cell) for cell in column) for column in zip(*body, strict=True)]
    return [[_text(name, floatfmt) for name in names], *body], right or [False] * len(names)


def _text(value: object, floatfmt: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    # Adding 0.0 turns -0.0 into 0.0: a sign there would read as a loss too small to show.
    return format(value + 0.0, floatfmt) if isinstance(value, float) else " ".join(str(value).split())


def _pad(cells: list[str], widths: list[int], right: list[bool]) -> list[str]:
    return [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
