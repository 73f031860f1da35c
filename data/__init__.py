"""Data sets as random-access sources, and one Grain pipeline that batches them.

    data = lastax.data.open_data("speech")
    batches = data.training_batches(batch_size=50, seed=0)

To add a data set, write one file in this folder and add one entry to `_registry.py`.
"""

from lastax._errors import MissingPackageError as _MissingPackageError

try:
    import grain as _grain  # noqa: F401
except ModuleNotFoundError as _error:
    raise _MissingPackageError("lastax.data", _error) from _error

from lastax.data._cache import cache_folder as cache_folder
from lastax.data._check import DataReport as DataReport
from lastax.data._check import SplitReport as SplitReport
from lastax.data._check import check_data as check_data
from lastax.data._check import check_split as check_split
from lastax.data._data_set import Data as Data
from lastax.data._data_set import DataSet as DataSet
from lastax.data._data_set import Remote as Remote
from lastax.data._draw import balanced_records as balanced_records
from lastax.data._draw import draw_data as draw_data
from lastax.data._errors import DataError as DataError
from lastax.data._fetch import fetch as fetch
from lastax.data._folders import data_folder as data_folder
from lastax.data._open import data_settings as data_settings
from lastax.data._open import open_data as open_data
from lastax.data._open import reopen_data as reopen_data
from lastax.data._pipeline import Augment as Augment
from lastax.data._pipeline import Batch as Batch
from lastax.data._pipeline import Example as Example
from lastax.data._pipeline import Source as Source
from lastax.data._pipeline import TrainingBatches as TrainingBatches
from lastax.data._pipeline import batches_per_epoch as batches_per_epoch
from lastax.data._pipeline import evaluation_batches as evaluation_batches
from lastax.data._pipeline import training_batches as training_batches
from lastax.data._registry import DATASETS as DATASETS
from lastax.data._sound_blocks import SoundBlocks as SoundBlocks
from lastax.data._sound_blocks import open_sound as open_sound
from lastax.data._sound_blocks import read_pcm as read_pcm
from lastax.data._sound_scale import SoundScale as SoundScale
from lastax.data._stream_features import FeatureState as FeatureState
from lastax.data._stream_features import StreamFeatures as StreamFeatures
from lastax.data._stream_sound import StreamPrediction as StreamPrediction
from lastax.data._stream_sound import StreamSummary as StreamSummary
from lastax.data._stream_sound import stream_sound as stream_sound
from lastax.data._views import every_step as every_step
from lastax.data._views import first_steps as first_steps
from lastax.data._views import some_records as some_records

__all__ = [
    "DATASETS",
    "Augment",
    "Batch",
    "Data",
    "DataError",
    "DataReport",
    "DataSet",
    "Example",
    "FeatureState",
    "Remote",
    "SoundBlocks",
    "SoundScale",
    "Source",
    "SplitReport",
    "StreamFeatures",
    "StreamPrediction",
    "StreamSummary",
    "TrainingBatches",
    "balanced_records",
    "batches_per_epoch",
    "cache_folder",
    "check_data",
    "check_split",
    "data_folder",
    "data_settings",
    "draw_data",
    "evaluation_batches",
    "every_step",
    "fetch",
    "first_steps",
    "open_data",
    "open_sound",
    "read_pcm",
    "reopen_data",
    "some_records",
    "stream_sound",
    "training_batches",
]
