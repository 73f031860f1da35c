"""The Grain pipeline from random-access sources to batches.

A record is a dict `{"x": float32 (L, d), "label": int32 ()}`, with `"length": int32 ()` if
sequences are padded. A batch is the same dict with a leading batch axis.

The content of a training batch is a function of (seed, batch size, batch number). It does not
depend on the number of worker processes, on shards, or on earlier batches. Therefore the batch
number is the complete state of the iterator, and a run can resume with another number of workers
or machines.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import absl.flags
import grain
import numpy as np
from jaxtyping import Int, Shaped

from lastax.data._processes import exit_with_parent

Example = dict[str, Shaped[np.ndarray | np.generic, "..."]]
Batch = dict[str, Shaped[np.ndarray, "batch ..."]]
Augment = Callable[[Example, np.random.Generator], Example]

# Reading records is cheap compared with a training step, so a short prefetch is enough.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


@runtime_checkable
class Source(Protocol):
    """Random-access records.

    Several threads read a source at once. It must be picklable if worker processes read it.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def batches_per_epoch(source: Source, batch_size: int) -> int:
    """Number of batches per epoch of `training_batches`. Records of an epoch are distinct."""
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
    """Endless batches, shuffled again in each epoch. The order depends on `seed` alone.

    An epoch has `batches_per_epoch` batches of distinct records. Each epoch leaves out other
    records that do not fill a batch.

    Args:
        source: the records.
        batch_size: number of records per batch, over all shards.
        seed: seed of the order and of `augment`, 0..2^32-1.
        augment: `augment(example, rng)` returns a new example. `rng` depends on (seed, epoch,
            record) alone.
        shard_index: number of this shard. Shard i of n gets the i-th of n equal parts of the rows
            of each batch. The concatenated parts equal the batch of a single process.
        shard_count: number of shards; must divide `batch_size`.
        workers: number of processes that prepare batches; 0 uses threads of this process.
            Processes are spawned, so a script needs `if __name__ == "__main__":`, and `augment`
            must be picklable.

    Raises:
        ValueError: if an argument is out of range.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"training_batches: seed must be in 0..2**32-1; got {seed}")
    if workers < 0:
        raise ValueError(f"training_batches: workers must be 0 or more; got {workers}")
    rows = _shard_rows(batch_size, shard_index, shard_count)
    epoch = batches_per_epoch(source, batch_size)
    if epoch == 0:
        raise ValueError(
            f"training_batches: batch_size is {batch_size}, but there are {len(source)} records; "
            f"pass a batch size of at most {len(source)} (--batch-size)"
        )
    # Grain shuffles epoch k with seed + k. Hashing keeps neighboring seeds from sharing epochs.
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
    """One pass over all records, in order. All batches have the same shape.

    The last batch is filled with copies of the last record. `"weight"` (batch,) float32 is 1 for
    records and 0 for these copies. Shards are as in `training_batches`, so all shards get the
    same number of batches.

    Raises:
        ValueError: if an argument is out of range.
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
    """Iterator over training batches whose state can be saved and restored.

    The state of Grain's own iterators depends on the number of workers. The state of this one is
    the number of the next batch, and values that identify the batches.
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
                # Grain's worker processes read absl flags, which only absl programs parse.
                absl.flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=self._workers)
            self._running = iter(rest.mp_prefetch(options, lambda *_: exit_with_parent()))
        batch = next(self._running)
        self._next_batch += 1
        if self._workers:
            # Arrays of workers lie in shared memory, which leaks if the program ends before them.
            batch = {name: np.array(value) for name, value in batch.items()}
        return batch

    def get_state(self) -> dict[str, Any]:
        """The state, as a dict of ints that JSON can hold."""
        return {"next_batch": self._next_batch, **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that `get_state` returned, in this or another process.

        Raises:
            ValueError: if the state belongs to other batches.
        """
        identity = {name: state.get(name) for name in self._identity}
        if identity != self._identity:
            raise ValueError(
                f"TrainingBatches.set_state: the state belongs to batches with {identity}, these "
                f"have {self._identity}; resume with the same data and settings"
            )
        self._stop()
        self._next_batch = int(state["next_batch"])

    def close(self) -> None:
        """Stop threads and worker processes. May be called twice."""
        self._stop()
        self._closed = True

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


class _Load:
    """Record numbers -> the rows of this shard. A class, so that it can be pickled."""

    def __init__(self, source: Source, rows: slice, epoch: int, seed: int, augment: Augment | None):
        self._source = source
        self._rows = rows
        self._epoch = epoch
        self._seed = seed
        self._augment = augment

    def __call__(self, index: int, numbers: Int[np.ndarray, " all_rows"]) -> Batch:
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
            raise ValueError(
                f"records of a batch must have equal shapes; got {shapes[0]} and {shape}"
            )
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _shard_rows(batch_size: int, shard_index: int, shard_count: int) -> slice:
    """Rows of each batch that belong to this shard."""
    if batch_size < 1 or shard_count < 1 or batch_size % shard_count:
        raise ValueError(
            f"batch_size must be a multiple of shard_count {shard_count}; got {batch_size}"
        )
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index must be in 0..{shard_count - 1}; got {shard_index}")
    part = batch_size // shard_count
    return slice(shard_index * part, (shard_index + 1) * part)
