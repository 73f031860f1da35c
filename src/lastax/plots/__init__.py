"""Figures of runs, sweeps and benchmarks, and HTML reports.

Functions `draw_*` return a Matplotlib figure; functions `html_*` return parts of a page.
"""

from lastax._errors import MissingPackageError as _MissingPackageError

try:
    import matplotlib as _matplotlib  # noqa: F401
except ModuleNotFoundError as _error:
    raise _MissingPackageError("lastax.plots", _error) from _error

from lastax.plots._curves import draw_learning as draw_learning
from lastax.plots._curves import draw_sizes as draw_sizes
from lastax.plots._curves import draw_speeds as draw_speeds
from lastax.plots._curves import draw_sweep as draw_sweep
from lastax.plots._html import html_code as html_code
from lastax.plots._html import html_figure as html_figure
from lastax.plots._html import html_heading as html_heading
from lastax.plots._html import html_numbers as html_numbers
from lastax.plots._html import html_page as html_page
from lastax.plots._html import html_table as html_table
from lastax.plots._html import html_text as html_text
from lastax.plots._pruning import draw_layout as draw_layout
from lastax.plots._pruning import draw_poles as draw_poles
from lastax.plots._pruning import draw_states as draw_states
from lastax.plots._pruning import save_pruning_figures as save_pruning_figures
from lastax.plots._records import draw_records as draw_records
from lastax.plots._report import report_page as report_page

__all__ = [
    "draw_layout",
    "draw_learning",
    "draw_poles",
    "draw_records",
    "draw_sizes",
    "draw_speeds",
    "draw_states",
    "draw_sweep",
    "html_code",
    "html_figure",
    "html_heading",
    "html_numbers",
    "html_page",
    "html_table",
    "html_text",
    "report_page",
    "save_pruning_figures",
]
