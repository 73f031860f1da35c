"""What weights in 8 bits cost in accuracy, as `lastax export` shows it."""

from __future__ import annotations

from typing import Any

import lastax
from lastax._errors import DataError, RunError
from lastax.cmd._console import err, percent
from lastax.cmd._options import DataLocation

SPLIT = "test"
STEPS = 64


def rounding_loss(
    config: lastax.training.RunConfig,
    network: lastax.nn.Network,
    quantize: lastax.deployment.Quantization,
    location: DataLocation,
) -> dict[str, Any]:
    """The accuracies before and after rounding, or a difference of logits if there are no data."""
    rounded = lastax.deployment.quantized_cell(network, quantize)
    try:
        with err.status(f"opening {config.data.name}"):
            data = location.open(config)
    except (DataError, RunError) as error:
        err.print(f"the accuracy was not measured: {error}")
        return {"logit_difference": _difference(config, network, rounded)}
    fidelity = lastax.training.compare_split(network, rounded, data, SPLIT)
    return {
        "split": SPLIT,
        "accuracy_before": fidelity.original_accuracy,
        "accuracy_after": fidelity.other_accuracy,
        "agreement": fidelity.agreement,
    }


def rounding_line(loss: dict[str, Any]) -> str:
    """The same as a line of text."""
    if "logit_difference" in loss:
        return (
            f"rounding changes logits by up to {percent(loss['logit_difference'])} of the largest "
            "one, on noise"
        )
    before, after = percent(loss["accuracy_before"]), percent(loss["accuracy_after"])
    same = percent(loss["agreement"])
    return f"{loss['split']} accuracy before rounding {before}, after {after}; same class {same}"


def _difference(
    config: lastax.training.RunConfig,
    network: lastax.nn.Network,
    rounded: lastax.nn.StreamingCell,
) -> float:
    import numpy as np

    rng = np.random.default_rng(0)
    if network.encoder.tokens:
        x = rng.integers(0, config.input_size, (1, STEPS)).astype(np.int32)
    else:
        x = rng.standard_normal((1, STEPS, config.input_size)).astype(np.float32)
    before, after = (np.asarray(lastax.predict(one, {"x": x})) for one in (network, rounded))
    return float(np.abs(after - before).max() / np.abs(before).max())
