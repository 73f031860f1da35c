"""HTML reports on folders of runs and sweeps."""

from collections.abc import Sequence
from pathlib import Path

from lastax._errors import RunError
from lastax._typing import OnProgress, silent
from lastax.experiments._sweep import SWEEP_RESULTS
from lastax.plots._report_run import run_report
from lastax.plots._report_sweep import sweep_report
from lastax.training._run_config import CONFIG_FILE


def report_page(
    folders: Sequence[str | Path], *, time_forward: bool = True, on_warning: OnProgress = silent
) -> str:
    """A self-contained HTML page on one run, or on one or several sweeps.

    Args:
        folders: the folder of a run, or folders of finished sweeps.
        time_forward: whether to time the forward pass before and after pruning on this machine.
        on_warning: called with a sentence on each part that is missing from the page.

    Raises:
        RunError: if a folder is neither a run nor a finished sweep, or is damaged.
    """
    paths = [Path(folder) for folder in folders]
    missing = [str(path) for path in paths if not (path / SWEEP_RESULTS).is_file()]
    if paths and not missing:
        return sweep_report(paths, on_warning=on_warning)
    if len(paths) != 1:
        raise RunError(
            "report_page: needs one run, or finished sweeps; "
            f"no {SWEEP_RESULTS} in {', '.join(missing) or 'no folder'}"
        )
    if not (paths[0] / CONFIG_FILE).is_file():
        raise RunError(
            f"{paths[0]} is neither a run ({CONFIG_FILE}) nor a finished sweep ({SWEEP_RESULTS})"
        )
    return run_report(paths[0], time_forward=time_forward, on_warning=on_warning)
