"""What numbers in 8 bits cost in accuracy, as `lastax export` shows it."""

from __future__ import annotations

from typing import Any

import lastax
from lastax.cmd._console import percent

SPLIT = "test"
STEPS = 64


def rounding_loss(
    config: lastax.training.RunConfig,
    network: lastax.nn.Network,
    rounded: lastax.nn.StreamingCell,
    data: lastax.data.Data | None,
) -> dict[str, Any]:
    """The accuracies before and after rounding, or a difference of logits if there are no data."""
    if data is None:
        return {"logit_difference": _difference(config, network, rounded)}
    fidelity = lastax.training.compare_split(network, rounded, data, SPLIT)
    return {
        "split": SPLIT,
        "accuracy_before": fidelity.original_accuracy,
        "accuracy_after": fidelity.other_accuracy,
        "agreement": fidelity.agreement,
    }


def rounding_line(loss: dict[str, Any]) -> str:
    """The same as text, and what was rounded."""
    sequences = loss["calibration_sequences"]
    what = (
        f"weights and activations ({sequences} calibration sequences)" if sequences else "weights"
    )
    return f"8 bits: {what}\n{_loss_line(loss)}"


def _loss_line(loss: dict[str, Any]) -> str:
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
