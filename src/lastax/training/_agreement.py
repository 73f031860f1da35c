"""Checks that all processes of a training have the same configuration and data, and go on."""

import json
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from lastax._errors import RunError
from lastax._typing import Record

# Longer values, such as a vocabulary, are shortened in messages.
_LONGEST = 60


def require_agreement(values: Mapping[str, Record | str | int | bool]) -> None:
    """Wait for all processes of `jax.distributed`, and check that they have the same values.

    Args:
        values: JSON values that must be equal, by a name for the message.

    Raises:
        RunError: on every process, if a value differs. The message names the first difference to
            process 0.
    """
    if jax.process_count() == 1:
        return
    first, *others = ({_name(path): value for path, value in _leaves(one)} for one in _all(values))
    for process, other in enumerate(others, 1):
        for name in first | other:
            pair = [one.get(name, "missing") for one in (first, other)]
            if pair[0] != pair[1]:
                raise RunError(
                    f"process {jax.process_index()} of {jax.process_count()}: processes 0 and "
                    f"{process} differ in {name}: {' and '.join(map(_shortened, pair))}; start all "
                    "processes with the same command, versions, data and file system"
                )


def require_success(failure: Exception | None) -> None:
    """Wait for all processes of `jax.distributed`, and fail on each of them if one has failed.

    Args:
        failure: the error of this process; None if it did not fail. It is raised.

    Raises:
        RunError: with the message of the first process that failed, if this one did not.
    """
    failures = [None if failure is None else str(failure)]
    if jax.process_count() > 1:
        failures = [one["failure"] for one in _all({"failure": failures[0]})]
    if failure is not None:
        raise failure
    for reason in failures:
        if reason is not None:
            raise RunError(reason)


def _all(values: Mapping[str, object]) -> list[Record]:
    """The values of all processes, in the order of the processes."""
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(values, default=str).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(text.size))
    # All processes need arrays of one shape. JSON ignores spaces at its end.
    padded = np.full(sizes.max(), ord(" "), np.uint8)
    padded[: text.size] = text
    return [json.loads(one.tobytes()) for one in multihost_utils.process_allgather(padded)]


def _leaves(value: object, *path: str) -> Iterator[tuple[tuple[str, ...], object]]:
    """The values of nested mappings, with the keys that lead to them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, *path, key)
    else:
        yield path, value


def _name(path: tuple[str, ...]) -> str:
    """For example `the setting training.learning_rate`."""
    return f"{path[0]} {'.'.join(path[1:])}".rstrip()


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
