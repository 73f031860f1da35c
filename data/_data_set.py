"""Descriptions of data sets, and opened data sets."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from lastax.data._pipeline import (
    Augment,
    Batch,
    Source,
    TrainingBatches,
    evaluation_batches,
    training_batches,
)
from lastax.data._selection import some
from lastax.data._stream_features import StreamFeatures

# Limits of a default evaluation batch.
_MOST_RECORDS = 128
_MOST_STEPS = 2**16

Kind = Literal["audio", "image", "text", "features"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """An opened data set.

    Attributes:
        sources: sources of the splits "train", "validation" and "test". A record holds "x" of
            shape (length, input_size), or token ids of shape (length,) if there is a
            `vocabulary`. Both have a leading axis of size 2 if `pairs` is true.
        classes: names of the labels 0, 1, ...
        input_size: number of values per step; for tokens, size of the vocabulary.
        length: number of steps per record, padding included.
        augment: function that augments a training record; None if there is none.
        vocabulary: names of the tokens by id, where id 0 is padding; empty if records are not
            tokens.
        skipped: number of items that were left out: bad ones (`skip_bad=True`), and those that
            `left_out` counts.
        left_out: number of files of each kind that the data set does not read, by suffix.
        notes: what a user should know about how the files were read, one line each.
        pairs: whether a record holds two sequences with one label.
        read_file: reads a file as records like those of the sources, but without labels; None if
            records are not read from files.
        stream_features: makes the features of a sound that comes in block by block; None if records
            are not sounds. It raises DataError if the features need the whole sound.
    """

    sources: Mapping[str, Source]
    classes: tuple[str, ...]
    input_size: int
    length: int
    augment: Augment | None = None
    vocabulary: tuple[str, ...] = ()
    skipped: int = 0
    left_out: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()
    pairs: bool = False
    read_file: Callable[[Path], Source] | None = None
    stream_features: Callable[[], StreamFeatures] | None = None

    def records(self, split: str) -> int:
        """Number of records of a split."""
        return len(self.sources[split])

    def training_batches(
        self, *, batch_size: int, seed: int, augment: bool = False, workers: int = 0, **shard: int
    ) -> TrainingBatches:
        """Endless batches of the training split; see `lastax.data.training_batches`."""
        return training_batches(
            self.sources["train"],
            batch_size=batch_size,
            seed=seed,
            augment=self.augment if augment else None,
            workers=workers,
            **shard,
        )

    def evaluation_batches(
        self, split: str, *, batch_size: int | None = None, limit: int | None = None, **shard: int
    ) -> Iterator[Batch]:
        """One pass over a split; see `lastax.data.evaluation_batches`.

        Args:
            split: "train", "validation" or "test".
            batch_size: number of records per batch. Default: at most 128 records and 2^16 steps,
                which limits the memory that an evaluation needs.
            limit: maximal number of records; the choice is deterministic
                (`lastax.data.some_records`).
            shard: `shard_index` and `shard_count`, as in `lastax.data.training_batches`.
        """
        steps = self.length * (2 if self.pairs else 1)
        fitting = max(1, min(_MOST_RECORDS, _MOST_STEPS // steps))
        # Shards get equal parts of a batch.
        fitting += -fitting % shard.get("shard_count", 1)
        source = self.sources[split] if limit is None else some(self.sources[split], limit)
        return evaluation_batches(source, batch_size=batch_size or fitting, **shard)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file that the publisher of a data set offers for download.

    Attributes:
        url: official URL.
        size: number of bytes.
        sha256: SHA-256 of the content, in hexadecimal.
        unpacks_to: resulting file or folder, relative to the root.
    """

    url: str
    size: int
    sha256: str
    unpacks_to: str


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Description of a data set.

    Attributes:
        name: name of the data set.
        open: `open(root, *, skip_bad=False, **options)` opens the data set in the folder `root`
            and prepares it on first use. A bad item raises DataError, or is skipped if `skip_bad`
            is true.
        kind: type of the records; decides how they are drawn.
        needs: one line that names the required files and the command that gets them.
        present: `present(root)` tells whether the files exist.
        options: names of the options of `open`, except `skip_bad`.
        remotes: files that can be downloaded.
        expected: published number of records per split, for default options.
        generate: `generate(root, *, seed, workers, on_progress, **sizes)` generates the files;
            None if there is no generator.
        size: size of the files, as text.
        license: license of the data.
        citation: publications to cite.
    """

    name: str
    open: Callable[..., Data]
    kind: Kind
    needs: str
    present: Callable[[Path], bool]
    options: tuple[str, ...] = ()
    remotes: tuple[Remote, ...] = ()
    expected: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    generate: Callable[..., None] | None = None
    size: str = ""
    license: str
    citation: str
