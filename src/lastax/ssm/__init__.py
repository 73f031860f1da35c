"""The discrete diagonal state-space system: discretization, recurrence, convolution."""

from lastax.ssm._compensated import RecurrentState as RecurrentState
from lastax.ssm._convolution import channel_kernels as channel_kernels
from lastax.ssm._convolution import convolve as convolve
from lastax.ssm._discretization import discretize_bilinear as discretize_bilinear
from lastax.ssm._discretization import discretize_zoh as discretize_zoh
from lastax.ssm._discretization import inverse_of as inverse_of
from lastax.ssm._discretization import invert_bilinear as invert_bilinear
from lastax.ssm._discretization import invert_zoh as invert_zoh
from lastax.ssm._multi_siso import AnySystem as AnySystem
from lastax.ssm._multi_siso import MultiSISO as MultiSISO
from lastax.ssm._multi_siso import channel_systems as channel_systems
from lastax.ssm._recurrence import diagonal_scan as diagonal_scan
from lastax.ssm._recurrence import diagonal_step as diagonal_step
from lastax.ssm._scan_methods import ScanMethod as ScanMethod
from lastax.ssm._step_sizes import StepSizes as StepSizes
from lastax.ssm._system import System as System
from lastax.ssm._system import frequency_response as frequency_response
from lastax.ssm._system import impulse_response as impulse_response
from lastax.ssm._system import real_system as real_system
from lastax.ssm._system import transfer_function as transfer_function

__all__ = [
    "AnySystem",
    "MultiSISO",
    "RecurrentState",
    "ScanMethod",
    "StepSizes",
    "System",
    "channel_kernels",
    "channel_systems",
    "convolve",
    "diagonal_scan",
    "diagonal_step",
    "discretize_bilinear",
    "discretize_zoh",
    "frequency_response",
    "impulse_response",
    "inverse_of",
    "invert_bilinear",
    "invert_zoh",
    "real_system",
    "transfer_function",
]
