"""Style of all charts: one palette, one font, thin grids, no frames."""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Colors of Okabe and Ito, which color-blind readers can distinguish, with gray and a darker yellow.
OKABE_ITO = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#7f7f7f', '#b8a900')
FAINT = '#ececec'  # of grids
STYLE: dict[Any, Any] = {
    'font.family': ['DejaVu Sans', 'sans-serif'],
    'font.size': 9,
    'axes.titlesize': 10,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.axisbelow': True,
    'legend.frameon': False,
    'text.parse_math': False,  # names may contain $
    'savefig.dpi': 160,
}


@contextmanager
def styled(changes: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Context with the style of all figures; a character that the font lacks is drawn as a box, without a
    warning.

    Args:
        changes: Settings of Matplotlib that differ from `STYLE`.
    """
    with matplotlib.rc_context({**STYLE, **(changes or {})}), warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Glyph .* missing from')
        yield


def new_figure(
    width: float, height: float, layout: Literal['constrained'] | None = 'constrained'
) -> Figure:
    """Return an empty figure of this size in inches, independent of any window."""
    figure = Figure((width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def encode(figure: Figure, kind: str = 'png') -> bytes:
    """Return a figure as the content of a file."""
    data = io.BytesIO()
    options = {'quality': 90} if kind == 'jpg' else None
    figure.savefig(data, format=kind, facecolor='white', pil_kwargs=options)
    return data.getvalue()
