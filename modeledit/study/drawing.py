"""How a study's pictures look, and the files they become: the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any

from modeledit.errors import ModelEditError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours, which stay apart for all kinds of colour vision; black is left for text.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
GREY, INK, RULE = "#8A8F98", "#1B1F24", "#D9DDE3"
DIVERGING, RISING = "RdBu_r", "viridis"
DASHES = ("-", "--", ":", "-.")
DPI = 110
STYLE: Any = {  # matplotlib types its settings by name
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.5,
    "figure.titlesize": 12,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "modeledit",
    "text.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def require() -> None:
    """Refuse a study whose pictures could not be drawn, before any work."""
    if find_spec("matplotlib") is None:
        raise ModelEditError(
            "studies draw with matplotlib, which is not installed: pip install 'modeledit[study]'"
        )


@contextmanager
def style() -> Iterator[None]:
    """The look of everything that is made inside; the caller's settings come back afterwards."""
    require()
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def sheet(width: float, height: float, title: str) -> Figure:
    """An empty page of inches; call it, and draw on it, inside `style`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def grid(figure: Figure, rows: int, columns: int, **shared: Any) -> list[list[Axes]]:
    """Panels, `rows` x `columns`, also where there is only one."""
    panels = figure.subplots(rows, columns, squeeze=False, **shared)
    return [list(row) for row in panels]


def files(name: str, figure: Figure) -> dict[str, bytes]:
    """{NAME.png, NAME.svg}: nothing in them depends on time or place."""
    found = {}
    with style():
        for kind, metadata in (
            ("png", {"Software": None}),
            ("svg", {"Date": None, "Creator": None}),
        ):
            buffer = BytesIO()
            figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
            found[f"{name}.{kind}"] = buffer.getvalue()
    return found


def shortened(text: str, most: int) -> str:
    """Both ends of a long name: the end of a layer's tells most."""
    if len(text) <= most:
        return text
    head = (most - 1) // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
