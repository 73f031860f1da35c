"""A check that all processes of a training have the same configuration and data."""

import hashlib
import json
from collections.abc import Mapping

import jax
import numpy as np

from lastax._errors import RunError
from lastax._typing import Record


def require_agreement(values: Mapping[str, Record | str | bool]) -> None:
    """Wait for all processes of `jax.distributed`, and check that they have the same values.

    Args:
        values: JSON values that must be equal, by a name for the message.

    Raises:
        RunError: on every process, if a value differs. The message names the first such value and
            the processes.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    digests = np.stack([_digest(value) for value in values.values()])
    all_digests = np.asarray(multihost_utils.process_allgather(digests))
    for name, own in zip(values, all_digests.swapaxes(0, 1), strict=True):
        others = [process for process, digest in enumerate(own) if (digest != own[0]).any()]
        if others:
            listed = ", ".join(map(str, others))
            raise RunError(
                f"process {jax.process_index()} of {jax.process_count()}: {name} differs between "
                f"process 0 and process {listed}: start all processes with the same command, "
                "versions, data and file system"
            )


def _digest(value: object) -> np.ndarray:
    """256 bits of a JSON value, as 32-bit numbers, because JAX has no longer ones by default."""
    text = json.dumps(value, sort_keys=True, default=str)
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
