"""What the rest of the program needs to know of a data set, before and after it is opened."""

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

# Of an evaluation batch.
_MOST_RECORDS = 128
_MOST_STEPS = 2**18

Kind = Literal["audio", "image", "text", "features"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set that was opened.

    Attributes:
        sources: of "train", "validation" and "test". Records hold "x" of shape
            (length, input_size), or, if there is a `vocabulary`, token ids of shape (length,);
            both with a leading axis of 2 if they are `pairs`.
        classes: what the labels 0, 1, ... mean.
        input_size: values a step; of tokens, how many kinds there are.
        length: steps a record, padding included.
        augment: how training records may be varied; None if in no way.
        vocabulary: kinds of tokens by id, 0 is padding; empty if records are not tokens.
        skipped: bad items that were left out, as asked for.
        pairs: records are two sequences with one label.
    """

    sources: Mapping[str, Source]
    classes: tuple[str, ...]
    input_size: int
    length: int
    augment: Augment | None = None
    vocabulary: tuple[str, ...] = ()
    skipped: int = 0
    pairs: bool = False

    def records(self, split: str) -> int:
        """Number of records of a split."""
        return len(self.sources[split])

    def training_batches(
        self, *, batch_size: int, seed: int, augment: bool = False, workers: int = 0
    ) -> TrainingBatches:
        """Endless batches of the training split (`lastax.data.training_batches`)."""
        return training_batches(
            self.sources["train"],
            batch_size=batch_size,
            seed=seed,
            augment=self.augment if augment else None,
            workers=workers,
        )

    def evaluation_batches(self, split: str, *, batch_size: int | None = None) -> Iterator[Batch]:
        """One pass over a split (`lastax.data.evaluation_batches`).

        Without `batch_size`, a batch holds at most 128 records and 2^18 steps, so that the memory
        of an evaluation is bounded.
        """
        steps = self.length * (2 if self.pairs else 1)
        fitting = max(1, min(_MOST_RECORDS, _MOST_STEPS // steps))
        return evaluation_batches(self.sources[split], batch_size=batch_size or fitting)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file that a data set's publisher offers.

    Attributes:
        url: its official address.
        size: its bytes.
        sha256: of its content, in hexadecimal.
        unpacks_to: file or folder below the root that it yields.
    """

    url: str
    size: int
    sha256: str
    unpacks_to: str


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What is known of a data set without opening it.

    Attributes:
        name: what users call it.
        open: `open(root, *, skip_bad=False, **options)`: the data set below the folder `root`,
            prepared on first use. A bad item raises DataError, or is left out with `skip_bad`.
        kind: how its records are drawn.
        needs: one line: which files, where below the root, and which command gets them.
        present: whether they are there.
        options: names that `open` takes beside `skip_bad`.
        remotes: what can be downloaded.
        expected: published number of records a split, with the options left at their defaults.
        generate: `generate(root, *, seed, workers, on_progress, **sizes)` makes the files anew;
            None if they cannot be made.
        size: of the files, for people.
        license: of the data.
        citation: what to cite.
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
