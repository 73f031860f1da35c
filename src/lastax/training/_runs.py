"""A run on disk.

`config.json` has everything that is needed to build the network, `model.safetensors` its best
weights, `metrics.jsonl` one line per epoch, and `results.json` the accuracies. A pruned run is a
run like any other.
"""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import safetensors

from lastax._errors import RunError
from lastax._typing import Record
from lastax.nn._networks import Network
from lastax.serialization._arrays import with_named_arrays
from lastax.serialization._files import write_atomically
from lastax.serialization._save import MODEL_FILE, load_arrays
from lastax.surgery._layers import find_layers
from lastax.training._run_config import CONFIG_FILE, RunConfig, build_from_config, load_config

METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.json"


def load_run(folder: str | Path) -> tuple[RunConfig, Network]:
    """The configuration of a run, and its network with the best weights.

    Raises:
        RunError: if the run is missing, unfinished or damaged.
    """
    folder = Path(folder)
    config = load_config(folder)
    path = folder / MODEL_FILE
    if not path.is_file():
        reason = failure_reason(folder)
        if reason is not None:
            raise RunError(f"run {folder} has no model: {reason}")
        raise RunError(
            f"run {folder} has no {MODEL_FILE}: it has not finished; resume its training "
            f"(lastax train --task {config.task} --out {folder} --resume)"
        )
    try:
        # Only shapes are needed, because all arrays are replaced.
        network = eqx.filter_eval_shape(build_from_config, config)
        return config, with_named_arrays(network, load_arrays(path))
    except (ValueError, OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} is damaged ({error}): restore it, or train again") from error


def has_finished(folder: str | Path) -> bool:
    """Whether a folder has the model and the results of a run, which are written last."""
    return all((Path(folder) / name).is_file() for name in (MODEL_FILE, RESULTS_FILE))


def find_runs(root: str | Path, *, finished: bool = True) -> list[Path]:
    """Trained runs below `root`, the newest last. Pruned runs are left out.

    Args:
        root: folder to search.
        finished: find finished runs; otherwise runs that can be resumed, which have neither
            finished nor diverged. Runs that cannot be read are left out.
    """
    found, root = [], Path(root)
    for path in root.rglob(CONFIG_FILE):
        folder = path.parent
        hidden = any(part.startswith(".") for part in folder.relative_to(root).parts)
        wanted = has_finished(folder) if finished else not (folder / RESULTS_FILE).is_file()
        if hidden or not wanted:
            continue
        with contextlib.suppress(RunError):
            if load_config(folder).parent is None:
                found.append((path.stat().st_mtime, folder))
    return [folder for _, folder in sorted(found)]


def layer_sizes(model: Network) -> list[tuple[int, int]]:
    """Number of parameters and number of bytes of each layer."""
    sizes = []
    for layer in find_layers(model):
        arrays = jax.tree.leaves(eqx.filter(layer, eqx.is_array))
        sizes.append((sum(a.size for a in arrays), sum(a.nbytes for a in arrays)))
    return sizes


def load_results(folder: str | Path) -> Record:
    """Read `results.json`.

    Raises:
        RunError: if it is missing or damaged.
    """
    path = Path(folder) / RESULTS_FILE
    try:
        results = json.loads(path.read_text())
        if not isinstance(results, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, OSError) as error:
        raise RunError(f"{path} is missing or damaged: {error}") from error
    return _migrated(results)


def _migrated(results: Record) -> Record:
    """Results of earlier versions under their present names."""
    names = {"beside": "compared", "full_D_states": "feedthrough_states"}
    within = {
        "divergence": "kl_divergence",
        "hinf_whole": "hinf_original",
        "h2_whole": "h2_original",
    }
    renamed = {names.get(name, name): value for name, value in results.items()}

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {within.get(name, name): part for name, part in value.items()}
        return [rename(part) for part in value] if isinstance(value, list) else value

    return {name: rename(value) for name, value in renamed.items()}


def json_number(value: float) -> float | None:
    """A number for a JSON file, which has neither infinity nor NaN; null stands for them."""
    return float(value) if math.isfinite(value) else None


def save_results(folder: str | Path, results: Mapping[str, Any]) -> None:
    """Write `results.json`: the accuracies, or under "diverged" the reason for an early end."""
    text = json.dumps(results, indent=2, allow_nan=False) + "\n"
    write_atomically(Path(folder) / RESULTS_FILE, text.encode())


def failure_reason(folder: str | Path) -> str | None:
    """Why the training of a run ended early, None if it did not."""
    if not (Path(folder) / RESULTS_FILE).is_file():
        return None
    return load_results(folder).get("diverged")
