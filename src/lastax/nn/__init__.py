"""State-space layers (S5, S4D, LRU), residual blocks and networks, as Equinox modules."""

from lastax.nn._blocks import Block as Block
from lastax.nn._blocks import Gate as Gate
from lastax.nn._blocks import Linear as Linear
from lastax.nn._blocks import drop_channels as drop_channels
from lastax.nn._blocks import gelu as gelu
from lastax.nn._blockwise import BlockwiseForward as BlockwiseForward
from lastax.nn._blockwise import HiddenStates as HiddenStates
from lastax.nn._blockwise import NetworkForward as NetworkForward
from lastax.nn._cell_block import CellBlock as CellBlock
from lastax.nn._cell_block import CellNorm as CellNorm
from lastax.nn._channel_recurrence import ChannelRecurrence as ChannelRecurrence
from lastax.nn._configuration import ModelConfig as ModelConfig
from lastax.nn._configuration import build_network as build_network
from lastax.nn._diagonal_layer import DiagonalLayer as DiagonalLayer
from lastax.nn._encoder import Encoder as Encoder
from lastax.nn._hippo import BlockBasis as BlockBasis
from lastax.nn._hippo import NormalPart as NormalPart
from lastax.nn._hippo import hippo_block_basis as hippo_block_basis
from lastax.nn._hippo import hippo_legs as hippo_legs
from lastax.nn._hippo import hippo_low_rank as hippo_low_rank
from lastax.nn._hippo import hippo_normal_part as hippo_normal_part
from lastax.nn._initialization import as_complex as as_complex
from lastax.nn._initialization import as_pair as as_pair
from lastax.nn._initialization import complex_normal_C as complex_normal_C
from lastax.nn._initialization import initialize_B as initialize_B
from lastax.nn._initialization import initialize_log_step as initialize_log_step
from lastax.nn._initialization import lecun_normal_C as lecun_normal_C
from lastax.nn._initialization import truncated_standard_normal_C as truncated_standard_normal_C
from lastax.nn._layer import Layer as Layer
from lastax.nn._layer import WritableLayer as WritableLayer
from lastax.nn._lru import LRU as LRU
from lastax.nn._networks import Classifier as Classifier
from lastax.nn._networks import Network as Network
from lastax.nn._networks import Retrieval as Retrieval
from lastax.nn._networks import with_precision as with_precision
from lastax.nn._normalization import BatchNorm as BatchNorm
from lastax.nn._normalization import LayerNorm as LayerNorm
from lastax.nn._normalization import RunningStatistics as RunningStatistics
from lastax.nn._normalization import split_trainable as split_trainable
from lastax.nn._precision import PRECISIONS as PRECISIONS
from lastax.nn._precision import Precision as Precision
from lastax.nn._prediction import Predictor as Predictor
from lastax.nn._prediction import predict as predict
from lastax.nn._recurrence import Recurrence as Recurrence
from lastax.nn._running_pool import RunningSum as RunningSum
from lastax.nn._s4d import S4D as S4D
from lastax.nn._s4d_eigenvalues import S4D_EIGENVALUES as S4D_EIGENVALUES
from lastax.nn._s4d_eigenvalues import s4d_inv as s4d_inv
from lastax.nn._s4d_eigenvalues import s4d_inv2 as s4d_inv2
from lastax.nn._s4d_eigenvalues import s4d_legs as s4d_legs
from lastax.nn._s4d_eigenvalues import s4d_lin as s4d_lin
from lastax.nn._s4d_eigenvalues import s4d_quad as s4d_quad
from lastax.nn._s4d_eigenvalues import s4d_real as s4d_real
from lastax.nn._s5 import S5 as S5
from lastax.nn._streaming import streaming as streaming
from lastax.nn._streaming_cell import StreamingCell as StreamingCell
from lastax.nn._streaming_cell import StreamingState as StreamingState

__all__ = [
    "LRU",
    "PRECISIONS",
    "S4D",
    "S4D_EIGENVALUES",
    "S5",
    "BatchNorm",
    "Block",
    "BlockBasis",
    "BlockwiseForward",
    "CellBlock",
    "CellNorm",
    "ChannelRecurrence",
    "Classifier",
    "DiagonalLayer",
    "Encoder",
    "Gate",
    "HiddenStates",
    "Layer",
    "LayerNorm",
    "Linear",
    "ModelConfig",
    "Network",
    "NetworkForward",
    "NormalPart",
    "Precision",
    "Predictor",
    "Recurrence",
    "Retrieval",
    "RunningStatistics",
    "RunningSum",
    "StreamingCell",
    "StreamingState",
    "WritableLayer",
    "as_complex",
    "as_pair",
    "build_network",
    "complex_normal_C",
    "drop_channels",
    "gelu",
    "hippo_block_basis",
    "hippo_legs",
    "hippo_low_rank",
    "hippo_normal_part",
    "initialize_B",
    "initialize_log_step",
    "lecun_normal_C",
    "predict",
    "s4d_inv",
    "s4d_inv2",
    "s4d_legs",
    "s4d_lin",
    "s4d_quad",
    "s4d_real",
    "split_trainable",
    "streaming",
    "truncated_standard_normal_C",
    "with_precision",
]
