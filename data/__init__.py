"""Data sets as random-access sources, and the one pipeline that makes batches of them.

    source = lastax.data.DATASETS["speech"].source("train")
    batches = lastax.data.training_batches(source, batch_size=50, seed=0)

A new data set is one new file beside this one and one entry in DATASETS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lastax.data import speech as _speech
from lastax.data._cache import cache_folder as cache_folder
from lastax.data._errors import DataError as DataError
from lastax.data._pipeline import Augment as Augment
from lastax.data._pipeline import Batch as Batch
from lastax.data._pipeline import Example as Example
from lastax.data._pipeline import Source as Source
from lastax.data._pipeline import TrainingBatches as TrainingBatches
from lastax.data._pipeline import batches_per_epoch as batches_per_epoch
from lastax.data._pipeline import evaluation_batches as evaluation_batches
from lastax.data._pipeline import training_batches as training_batches


@dataclass(frozen=True)
class DataSet:
    """What the rest of the program needs to know of a data set.

    `source(split)` opens the split "train", "validation" or "test"; records have "x" of shape
    (length, input_size). `augment` is for training only, None if there is none.
    """

    name: str
    source: Callable[[str], Source]
    augment: Augment | None
    classes: tuple[str, ...]
    input_size: int
    length: int
    license: str
    citation: str


DATASETS: Mapping[str, DataSet] = MappingProxyType(
    {
        "speech": DataSet(
            name="speech",
            source=_speech.Speech,
            augment=_speech.augment,
            classes=_speech.CLASSES,
            input_size=_speech.BANDS,
            length=_speech.LENGTH,
            license="CC BY 4.0",
            citation=(
                "P. Warden, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, "
                "arXiv:1804.03209, 2018"
            ),
        ),
    }
)
