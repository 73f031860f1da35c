"""What training and evaluation need of a data set. `lastax.data.Data` is one."""

import hashlib
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from lastax._typing import Array, Batch, Record
from lastax.nn._prediction import Predictor
from lastax.training._batch_reader import Batches
from lastax.training._evaluation import Evaluation, Fidelity, compare, evaluate
from lastax.training._placement import Placement


@runtime_checkable
class TrainingData(Protocol):
    """A data set with the splits "train", "validation" and "test"."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, ..."""

    @property
    def input_size(self) -> int:
        """Number of values per step; for tokens, size of the vocabulary."""

    @property
    def length(self) -> int:
        """Number of steps per record, padding included."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Names of the tokens by id; empty if records are not tokens."""

    def records(self, split: str) -> int:
        """Number of records of a split."""

    def training_batches(
        self, *, batch_size: int, seed: int, augment: bool = False, workers: int = 0, **shard: int
    ) -> Batches:
        """Endless batches of the training split, in an order that depends on `seed` alone.

        With several processes, `shard_index` and `shard_count` select equal parts of the rows of
        each batch.
        """

    def evaluation_batches(
        self, split: str, *, batch_size: int | None = None, limit: int | None = None, **shard: int
    ) -> Iterable[Batch]:
        """One pass over a split, or over `limit` of its records, the same ones every time.

        Batches may be filled up with rows of weight 0. `shard` is as in `training_batches`.
        """


def evaluate_split(
    model: Predictor,
    data: TrainingData,
    split: str,
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    step_rescale: float = 1.0,
    placement: Placement | None = None,
) -> Evaluation:
    """Accuracy and loss of a model on all records of a split.

    Args:
        model: the network, or its streaming cell.
        data: the data set.
        split: "train", "validation" or "test".
        batch_size: sequences per batch; by default as many as fit in memory.
        limit: number of records to evaluate on; all if None.
        step_rescale: 2 at half the sampling rate that the model was trained at.
        placement: devices that share each batch; the default device if None.
    """
    shard = {} if placement is None else placement.shard
    batches = data.evaluation_batches(split, batch_size=batch_size, limit=limit, **shard)
    return evaluate(model, batches, step_rescale=step_rescale, placement=placement)


def data_fingerprint(data: TrainingData) -> Record:
    """What distinguishes a data set from others: its sizes, names and first training records."""
    (first,) = data.evaluation_batches("train", batch_size=1, limit=1)
    return {
        "classes": data.classes,
        "vocabulary": data.vocabulary,
        "sizes": [data.input_size, data.length],
        "records": [data.records(split) for split in ("train", "validation", "test")],
        "first": {name: _digest(array) for name, array in first.items()},
    }


def _digest(array: Shaped[Array | np.ndarray, "..."]) -> str:
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()


def compare_split(
    original: Predictor,
    other: Predictor,
    data: TrainingData,
    split: str,
    *,
    limit: int | None = None,
    placement: Placement | None = None,
) -> Fidelity:
    """How close the outputs of `other` are to those of `original` on the records of a split.

    Args:
        original: the unpruned network.
        other: the network to compare with it.
        data: the data set.
        split: "train", "validation" or "test".
        limit: number of records to compare on; all if None.
        placement: as for `evaluate_split`.
    """
    shard = {} if placement is None else placement.shard
    batches = data.evaluation_batches(split, limit=limit, **shard)
    return compare(original, other, batches, placement=placement)


def calibration_batch(
    data: TrainingData, sequences: int, *, seed: int = 0, placement: Placement | None = None
) -> Batch:
    """Unlabeled records of the training split, drawn at random and not augmented.

    Args:
        data: the data set.
        sequences: number of records; all of the split if it has fewer.
        seed: seed of the draw.
        placement: devices that share the records; on the host if None.
    """
    size = min(sequences, data.records("train"))
    batch = next(data.training_batches(batch_size=size, seed=seed))
    unlabeled = {name: value for name, value in batch.items() if name != "label"}
    return unlabeled if placement is None else placement.filled_batch(unlabeled)
