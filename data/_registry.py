"""The registry of data sets: one entry per data set."""

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
from lastax.data._data_set import DataSet

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
