"""The devices of a training: they share the rows of each batch, and each has a copy of the state.

The devices may belong to several processes (`jax.distributed`). Each process then runs the same
program, and prepares only the rows of its own devices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from lastax._typing import Batch, Model


@dataclasses.dataclass(frozen=True)
class Placement:
    """The devices of a training.

    Attributes:
        rows: sharding of the arrays of a batch.
        everywhere: sharding of the state. Each device has a copy.
    """

    rows: NamedSharding
    everywhere: NamedSharding

    @classmethod
    def over(cls, devices: Sequence[jax.Device]) -> Placement:
        """Divide batches among these devices. With several processes, pass `jax.devices()`."""
        # With automatic axes the compiler inserts the communication between devices.
        mesh = jax.make_mesh(
            (len(devices),), ("batch",), devices=devices, axis_types=(AxisType.Auto,)
        )
        return cls(
            NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
        )

    @classmethod
    def of_this_process(cls) -> Placement | None:
        """Divide batches among the devices of this process; None if it has only one."""
        devices = jax.local_devices()
        return cls.over(devices) if len(devices) > 1 else None

    @property
    def devices(self) -> int:
        """Number of devices, over all processes."""
        return self.rows.mesh.size

    @property
    def shard(self) -> dict[str, int]:
        """Arguments with which an iterator of batches returns only the rows of this process."""
        if self.rows.is_fully_addressable:
            return {}
        return {"shard_index": jax.process_index(), "shard_count": jax.process_count()}

    def batch(self, batch: Batch) -> Batch:
        """Put a batch on the devices, from the rows of this process."""
        return {
            name: jax.make_array_from_process_local_data(self.rows, np.asarray(array))
            for name, array in batch.items()
        }

    def filled_batch(self, batch: Batch) -> Batch:
        """Put a batch on the devices, also if its rows do not divide among them.

        Copies of the last row then fill it up, with weight 0.
        """
        count = len(batch["x"])
        missing = -count % len(self.rows.addressable_devices)
        if not missing:
            return self.batch(batch)
        rows = np.minimum(np.arange(count + missing), count - 1)
        weight = np.asarray(batch.get("weight", np.ones(count, np.float32)))
        filled = {name: np.asarray(array)[rows] for name, array in batch.items()}
        return self.batch({**filled, "weight": np.pad(weight, (0, missing))})

    def state(self, tree: Model) -> Model:
        """Copy a PyTree to each device. The copy remains if the arrays of `tree` are donated."""
        arrays, static = eqx.partition(tree, eqx.is_array)
        return eqx.combine(_copier(self.everywhere)(arrays), static)


# Kept, since a training copies its best model many times, and a new function is compiled anew.
@functools.cache
def _copier(sharding: NamedSharding) -> Callable[[PyTree], PyTree]:
    # Not `device_put`, which may share buffers between devices of several processes.
    return jax.jit(functools.partial(jax.tree.map, jnp.copy), out_shardings=sharding)
