"""The subcommand that draws a folder as a page."""

from __future__ import annotations

from collections.abc import Callable

from polymask.pages.write import write_report


def report(say: Callable[[str], None], dir: str, out: str | None = None) -> int:
    """Draw a run, a comparison or a bank as one self-contained HTML page.

    Args:
        say: called with where the page is.
        dir: the folder of the run, of the comparison, or a bank.
        out: the page; without it report.html in the folder.

    Example:
        polymask report runs/compare
    """
    path = write_report(dir, out)
    say(f"{path} ({path.stat().st_size / 1e6:.2f} MB): open it in a browser")
    return 0
