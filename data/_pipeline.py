"""The one Grain pipeline: from any random-access source to batches.

A record is a dict `{"x": float32 (L, d), "label": int32 ()}`, with `"length": int32 ()` where
sequences are padded. A batch is the same dict with a leading batch axis.

What a training batch holds is a function of (seed, batch size, number of the batch) alone: not of
the number of worker processes, of shards, or of what was read before. So one number is the whole
state, and a run may go on with other workers or on another number of machines.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import absl.flags
import grain
import numpy as np
from jaxtyping import Int, Shaped

from lastax.data._processes import stay_with_parent

Example = dict[str, Shaped[np.ndarray | np.generic, "..."]]
Batch = dict[str, Shaped[np.ndarray, "batch ..."]]
Augment = Callable[[Example, np.random.Generator], Example]

# Records are cheap to read next to a training step, so a few batches ahead are enough.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


@runtime_checkable
class Source(Protocol):
    """Records by number. Read from several threads; picklable if workers are to read it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def batches_per_epoch(source: Source, batch_size: int) -> int:
    """How many batches of distinct records `training_batches` makes of one epoch."""
    return len(source) // batch_size


def training_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    augment: Augment | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
    workers: int = 0,
) -> "TrainingBatches":
    """Batches without end, in an order that is new in each epoch and the same for one seed.

    An epoch is `batches_per_epoch` batches of distinct records; what does not fill a batch is left
    out, each epoch something else. `augment(example, rng)` gets a generator that depends on
    (seed, epoch, record) alone and returns a new example.

    `batch_size` is that of all shards together: shard i of n gets the i-th n-th of each batch's
    rows, so the shards' parts, one after the other, are exactly the batch of a single process.

    `workers` processes prepare batches; with 0 threads of this process do. Worker processes start
    afresh (spawn): a script that uses them needs `if __name__ == "__main__":`, and `augment` must
    be picklable.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"training_batches: seed is {seed}, must be in 0..2**32-1")
    if workers < 0:
        raise ValueError(f"training_batches: workers is {workers}, must be 0 or more")
    rows = _shard_rows(batch_size, shard_index, shard_count)
    epoch = batches_per_epoch(source, batch_size)
    if epoch == 0:
        raise ValueError(
            f"training_batches: batch_size {batch_size} is more than the {len(source)} records"
        )
    # Grain shuffles epoch k by seed + k. Hashing keeps neighboring seeds from sharing epochs.
    order_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    batches = (
        grain.MapDataset.range(len(source))
        .shuffle(seed=order_seed)
        .batch(batch_size, drop_remainder=True)
        .map_with_index(_Load(source, rows, epoch, seed, augment))
        .repeat()
    )
    identity = {"seed": seed, "batch_size": batch_size, "records": len(source)}
    return TrainingBatches(batches, identity, workers)


def evaluation_batches(
    source: Source, *, batch_size: int, shard_index: int = 0, shard_count: int = 1
) -> Iterator[Batch]:
    """One pass over all records in order, each exactly once, all batches of one shape.

    The last batch is filled up with copies of the last record. `"weight"` (batch,) float32 is 1
    for a record and 0 for filling. Shards take rows of each batch as in `training_batches`, so all
    of them get the same number of batches.
    """
    rows = _shard_rows(batch_size, shard_index, shard_count)
    load = _Load(source, rows, 1, 0, None)

    def filled(start: int) -> Batch:
        numbers = np.arange(start, start + batch_size)
        batch = load(0, np.minimum(numbers, len(source) - 1))
        return {**batch, "weight": (numbers[rows] < len(source)).astype(np.float32)}

    starts = grain.MapDataset.range(0, len(source), batch_size)
    return iter(starts.map(filled).to_iter_dataset(_READ))


class TrainingBatches(grain.DatasetIterator):
    """Iterator over training batches that can be stopped and continued anywhere.

    Grain's own iterator state depends on the number of workers; this one is the number of the
    next batch, with what identifies the batches.
    """

    def __init__(self, batches: grain.MapDataset, identity: dict[str, int], workers: int):
        super().__init__()
        self._batches = batches
        self._identity = identity
        self._workers = workers
        self._next_batch = 0
        self._running: grain.DatasetIterator | None = None

    def __next__(self) -> Batch:
        if self._running is None:
            rest = self._batches.slice(slice(self._next_batch, None)).to_iter_dataset(_READ)
            if self._workers:
                # Grain's worker processes read absl flags, which only an absl program parses.
                absl.flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=self._workers)
            self._running = iter(rest.mp_prefetch(options, lambda *_: stay_with_parent()))
        batch = next(self._running)
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Where the iterator stands, as a dict of ints fit for JSON."""
        return {"next_batch": self._next_batch, **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called, in this process or an earlier one."""
        identity = {name: state.get(name) for name in self._identity}
        if identity != self._identity:
            raise ValueError(
                f"TrainingBatches: the state is of batches with {identity}, these have "
                f"{self._identity}; continue with the same data and settings"
            )
        self._stop()
        self._next_batch = int(state["next_batch"])

    def close(self) -> None:
        """End threads and worker processes. Also safe to call twice."""
        self._stop()
        self._closed = True

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


class _Load:
    """Numbers of a batch's records -> this shard's part of the batch. A class, to be picklable."""

    def __init__(self, source: Source, rows: slice, epoch: int, seed: int, augment: Augment | None):
        self._source = source
        self._rows = rows
        self._epoch = epoch
        self._seed = seed
        self._augment = augment

    def __call__(self, index: int, numbers: Int[np.ndarray, " whole"]) -> Batch:
        epoch = index // self._epoch
        return _stack([self._example(epoch, int(number)) for number in numbers[self._rows]])

    def _example(self, epoch: int, number: int) -> Example:
        example = self._source[number]
        if self._augment is None:
            return example
        return self._augment(example, np.random.default_rng((self._seed, epoch, number)))


def _stack(examples: list[Example]) -> Batch:
    shapes = [{name: np.shape(value) for name, value in example.items()} for example in examples]
    for shape in shapes:
        if shape != shapes[0]:
            raise ValueError(f"records of one batch must agree: {shapes[0]} against {shape}")
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _shard_rows(batch_size: int, shard_index: int, shard_count: int) -> slice:
    """The rows of each batch that belong to this shard."""
    if batch_size < 1 or shard_count < 1 or batch_size % shard_count:
        raise ValueError(f"batch_size {batch_size} is no multiple of shard_count {shard_count}")
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index is {shard_index}, must be in 0..{shard_count - 1}")
    part = batch_size // shard_count
    return slice(shard_index * part, (shard_index + 1) * part)
