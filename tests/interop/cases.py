"""The cases of a folder of reference outputs: what to read, with which options, and the outputs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

BUNDLED = Path(__file__).parent / "golden"

# Largest differences relative to the largest value of an array.
LAYER, LAYER_FLOAT64, S4D_LAYER = 2e-6, 5e-6, 5e-6
NETWORK, S4_NETWORK, TRAINED, OSCILLATORS = 2e-6, 5e-6, 4e-5, 1e-5
TRAINED_OTHER_GELU = 1e-3


@dataclasses.dataclass
class Case:
    """One model of a foreign code.

    Attributes:
        file: the file to read.
        options: arguments of `read`.
        arrays: arrays of the case by name.
        inputs: name of the input; `lengths` is there if it is padded.
        outputs: largest allowed difference of each output.
        log_softmax: whether outputs are those of `log_softmax`.
        refused: whether lastax cannot express the model.
        format: name of the format.
    """

    file: Path
    options: dict[str, Any]
    arrays: dict[str, np.ndarray]
    inputs: str
    outputs: dict[str, float]
    log_softmax: bool = False
    refused: bool = False
    format: str = ""


def cases(folder: Path) -> dict[str, Case]:
    """All cases of a folder, by name."""
    found: dict[str, Case] = {}
    readers = {
        "s4_small": _s4,
        "s5_pytorch": _s5_pytorch,
        "lindermanlab_s5": _lindermanlab,
        "lru": _lru,
        "discretax": _discretax,
    }
    for kind, reader in readers.items():
        if not (folder / f"{kind}.json").is_file():
            continue
        infos = json.loads((folder / f"{kind}.json").read_text())
        with np.load(folder / f"{kind}.npz") as stored:
            for name, info in infos.items():
                start = f"{name}/"
                arrays = {
                    key.removeprefix(start): stored[key]
                    for key in stored.files
                    if key.startswith(start) and "/params/" not in key and "/leaves/" not in key
                }
                if arrays and isinstance(info, dict):
                    case = reader(folder, kind, name, info, arrays)
                    if case is not None:
                        found[f"{kind}-{name}"] = case
    return found


def _s4(folder, kind, name, info, arrays):
    options = {"prenorm": info["prenorm"], "dropout": info["dropout"]}
    outputs = {"logits": S4_NETWORK, "logits_float64": S4_NETWORK}
    return Case(folder / info["file"], options, arrays, "x", outputs, format="s4")


def _s5_pytorch(folder, kind, name, info, arrays):
    if "file" not in info:
        return None  # The block, which is in `arrays` only for the record.
    options = {"step_rescale": info["step_scale"]}
    outputs = {} if info["options"].get("liquid") else {"y": LAYER}
    return Case(folder / info["file"], options, arrays, "u", outputs, format="s5-pytorch")


def _lindermanlab(folder, kind, name, info, arrays):
    given = info.get("options", info)
    options = {
        "conj_sym": given["conj_sym"],
        "discretization": given["discretization"],
        "clip_eigenvalues": given["clip_eigs"],
    }
    if "msgpack" not in info:
        options |= {"step_rescale": info["step_rescale"], "prefix": f"{name}/params"}
        outputs = {"y": LAYER, "y_float64": LAYER_FLOAT64}
        return Case(folder / f"{kind}.npz", options, arrays, "u", outputs, format="s5")
    options |= {
        "prenorm": given["prenorm"],
        "activation": given["activation"],
        "pooling": {"pool": "mean", "last": "last"}[given["mode"]],
        "norm_momentum": given["bn_momentum"],
    }
    outputs = {"log_softmax": NETWORK}
    file = folder / info["msgpack"]
    return Case(file, options, arrays, "x", outputs, log_softmax=True, format="s5")


def _lru(folder, kind, name, info, arrays):
    given = info["options"]
    if "msgpack" in info:
        if given["pooling"] not in ("mean", "last") or given.get("multidim", 1) > 1:
            return None
        options = {"prenorm": given["prenorm"], "pooling": given["pooling"]}
        outputs = {"log_softmax": NETWORK}
        file = folder / info["msgpack"]
        return Case(file, options, arrays, "x", outputs, log_softmax=True, format="minimal-lru")
    foreign = "jax-rtrl" if "d_input" in given else "minimal-lru"
    return Case(
        folder / f"{kind}.npz",
        {"prefix": f"{name}/params"},
        arrays,
        "u",
        (
            {"y": LAYER, "y_float64": LAYER_FLOAT64}
            if given.get("activation") is None
            else {"before_activation_float64": LAYER_FLOAT64}
        ),
        refused=given.get("d_input") != given.get("d_output"),
        format=foreign,
    )


def _discretax(folder, kind, name, info, arrays):
    if "damping" in info:
        options = {
            "prefix": f"{name}/params",
            "oscillator": info["discretization"].lower(),
        }
        outputs = {"y": OSCILLATORS}
        return Case(folder / f"{kind}.npz", options, arrays, "u", outputs, format="linoss")
    options = {"format": "discretax"}
    names = {"clip_eigs": "clip_eigenvalues"}
    for key in ("conj_sym", "discretization", "clip_eigs", "step_rescale"):
        given = info | info.get("options", {})
        if key in given:
            options[names.get(key, key)] = given[key]
    file = folder / info["file"]
    if "x" in arrays:
        outputs = {"log_softmax": NETWORK}
        return Case(file, options, arrays, "x", outputs, log_softmax=True, format="discretax")
    is_s4d = any("log_a_real" in leaf[0] for leaf in info["leaves"])
    outputs = {"y": S4D_LAYER if is_s4d else LAYER, "y_float64": LAYER_FLOAT64}
    return Case(file, options, arrays, "u", outputs, format="discretax")
