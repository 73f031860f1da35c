"""Where a training runs: the rows of each batch are distributed over devices, its state is on all.

The devices may belong to several processes (`jax.distributed`). Every process then runs the same
program, and prepares only the rows of its own devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lastax._typing import Batch, Model


@dataclasses.dataclass(frozen=True)
class Placement:
    """The devices of a training.

    Attributes:
        rows: sharding of the arrays of a batch.
        everywhere: sharding of the state, of which each device has a copy.
    """

    rows: NamedSharding
    everywhere: NamedSharding

    @classmethod
    def over(cls, devices: Sequence[jax.Device]) -> Placement:
        """The placement over some devices. With several processes these must be all devices."""
        # With automatic axes the compiler inserts the communication between devices.
        mesh = jax.make_mesh(
            (len(devices),), ("batch",), devices=devices, axis_types=(AxisType.Auto,)
        )
        return cls(
            NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
        )

    @property
    def devices(self) -> int:
        """Number of devices of all processes."""
        return self.rows.mesh.size

    @property
    def shard(self) -> dict[str, int]:
        """Arguments that make an iterator of batches return the rows of this process alone."""
        if jax.process_count() == 1:
            return {}
        return {"shard_index": jax.process_index(), "shard_count": jax.process_count()}

    def batch(self, batch: Batch) -> Batch:
        """A batch on the devices, from the rows of this process."""
        return {
            name: jax.make_array_from_process_local_data(self.rows, np.asarray(array))
            for name, array in batch.items()
        }

    def state(self, tree: Model) -> Model:
        """A copy on each device, which remains when the arrays of `tree` are donated."""
        arrays, static = eqx.partition(tree, eqx.is_array)
        # Not `device_put`, which may share buffers between devices of several processes.
        copy = jax.jit(lambda arrays: jax.tree.map(jnp.copy, arrays), out_shardings=self.everywhere)
        return eqx.combine(copy(arrays), static)
