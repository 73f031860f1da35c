"""What a pruned run says of its pruning, in `results.json` and in `config.json`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lastax._typing import Batch, Record
from lastax.analysis._certificates import Certificate
from lastax.calibration._layer_errors import layer_errors
from lastax.experiments._calibration_options import CalibrationOptions
from lastax.experiments._prune_options import AUTO, DEFAULT_MAX_LOSS, PruneOptions
from lastax.nn._networks import Network
from lastax.pruning._methods import METHODS
from lastax.pruning._reducer import Reduction
from lastax.surgery._layers import state_counts
from lastax.training._evaluation import Fidelity
from lastax.training._runs import json_number, layer_sizes


def size_results(
    original: Network, pruned: Network, reduction: Reduction, batch: Batch | None
) -> Record:
    """States, parameters and bytes of each layer, before and after; its error on `batch`."""
    errors: list[Record] = [{} for _ in reduction.unstable]
    if batch is not None:
        errors = [
            {"output_error": json_number(error)} for error in layer_errors(original, pruned, batch)
        ]
    before, after = (
        [(states, *sizes) for states, sizes in zip(state_counts(m), layer_sizes(m), strict=True)]
        for m in (original, pruned)
    )
    names = ("states", "parameters", "bytes")
    layers = [
        {f"{name}_before": value for name, value in zip(names, old, strict=True)}
        | {f"{name}_after": value for name, value in zip(names, new, strict=True)}
        | {"unstable": np.flatnonzero(mask).tolist()}
        | error
        for old, new, mask, error in zip(before, after, reduction.unstable, errors, strict=True)
    ]
    return {
        "states_before": sum(reduction.states_before),
        "states_after": sum(reduction.states_after),
        "layers": layers,
    }


def score_results(
    scores: Sequence[Float[np.ndarray, " _"]], certificates: Sequence[Certificate]
) -> Record:
    """The score of each state, and the norms of each layer's error."""
    return {
        "scores": [[json_number(score) for score in layer] for layer in scores],
        "certificates": [
            {name: json_number(norm) for name, norm in certificate._asdict().items()}
            for certificate in certificates
        ],
    }


def fidelity_results(fidelity: Fidelity) -> dict[str, float | None]:
    """Accuracy before and after, and how close the outputs are."""
    return {
        "before": fidelity.original_accuracy,
        "after": fidelity.other_accuracy,
        "kl_divergence": json_number(fidelity.kl_divergence),
        "agreement": fidelity.agreement,
    }


def pruning_record(
    options: PruneOptions, calibration: CalibrationOptions, method: str
) -> Mapping[str, Any]:
    """What the configuration of a pruned run says of its pruning."""
    amounts = {"ratio": options.ratio, "states": options.states, "max_loss": options.max_loss}
    if options.method == AUTO and all(amount is None for amount in amounts.values()):
        amounts["max_loss"] = DEFAULT_MAX_LOSS
    record: Record = {"method": method, "seed": options.seed, **amounts}
    if options.limit is not None:
        record["limit"] = options.limit
    # The methods that `method` was compared with play no part.
    if dataclasses.replace(options, method=method, compare_with=()).needs_calibration:
        record |= dataclasses.asdict(calibration)
        if not METHODS[method].uses_budget:
            del record["budget"]
    if options.recalibrate_batch_norm:
        record["recalibrate_batch_norm"] = True
    if options.finetune:
        names = ("finetune", "finetune_rate", "distill")
        record |= {name: getattr(options, name) for name in names}
    return record
