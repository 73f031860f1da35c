"""Data sets as random-access sources, and the one pipeline that makes batches of them.

    data = lastax.data.DATASETS["speech"].open(lastax.data.data_folder())
    batches = lastax.data.training_batches(data.sources["train"], batch_size=50, seed=0)

A new data set is one new file beside this one and one entry in DATASETS.
"""

from collections.abc import Mapping
from types import MappingProxyType

from lastax.data import arrays as _arrays
from lastax.data import audio_folder as _audio_folder
from lastax.data import cifar as _cifar
from lastax.data import listops as _listops
from lastax.data import mnist as _mnist
from lastax.data import pathfinder as _pathfinder
from lastax.data import retrieval as _retrieval
from lastax.data import speech as _speech
from lastax.data import speech35 as _speech35
from lastax.data import text as _text
from lastax.data._cache import cache_folder as cache_folder
from lastax.data._data_set import Data as Data
from lastax.data._data_set import DataSet as DataSet
from lastax.data._data_set import Remote as Remote
from lastax.data._errors import DataError as DataError
from lastax.data._folders import data_folder as data_folder
from lastax.data._pipeline import Augment as Augment
from lastax.data._pipeline import Batch as Batch
from lastax.data._pipeline import Example as Example
from lastax.data._pipeline import Source as Source
from lastax.data._pipeline import TrainingBatches as TrainingBatches
from lastax.data._pipeline import batches_per_epoch as batches_per_epoch
from lastax.data._pipeline import evaluation_batches as evaluation_batches
from lastax.data._pipeline import training_batches as training_batches

DATASETS: Mapping[str, DataSet] = MappingProxyType(
    {
        data_set.name: data_set
        for data_set in (
            _speech.DATA_SET,
            _speech35.DATA_SET,
            _listops.DATA_SET,
            _text.DATA_SET,
            _retrieval.DATA_SET,
            _cifar.IMAGE,
            _pathfinder.PATHFINDER,
            _pathfinder.PATHX,
            _mnist.SMNIST,
            _mnist.PSMNIST,
            _cifar.SCIFAR,
            _audio_folder.DATA_SET,
            _arrays.DATA_SET,
        )
    }
)
