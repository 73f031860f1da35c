"""Norms, Hankel singular values, balanced truncation and error certificates of systems."""

from lastax.analysis._balancing import Gramians as Gramians
from lastax.analysis._balancing import balanced_truncation as balanced_truncation
from lastax.analysis._balancing import hankel_singular_values as hankel_singular_values
from lastax.analysis._certificates import Certificate as Certificate
from lastax.analysis._certificates import certify as certify
from lastax.analysis._certificates import difference as difference
from lastax.analysis._certificates import error_bound as error_bound
from lastax.analysis._certificates import error_h2 as error_h2
from lastax.analysis._certificates import error_hinf as error_hinf
from lastax.analysis._penalties import STATE_PENALTIES as STATE_PENALTIES
from lastax.analysis._penalties import hankel_penalty as hankel_penalty
from lastax.analysis._penalties import modal_penalty as modal_penalty
from lastax.analysis._state_norms import finite_horizon_hinf_norms as finite_horizon_hinf_norms
from lastax.analysis._state_norms import hinf_norms as hinf_norms
from lastax.analysis._state_norms import impulse_energies as impulse_energies
from lastax.analysis._state_norms import magnitudes as magnitudes
from lastax.analysis._state_norms import (
    published_squared_hinf_norms as published_squared_hinf_norms,
)
from lastax.analysis._state_norms import swept_hinf_norms as swept_hinf_norms
from lastax.analysis._system_norms import h2_norm as h2_norm
from lastax.analysis._system_norms import hinf_norm as hinf_norm

__all__ = [
    "STATE_PENALTIES",
    "Certificate",
    "Gramians",
    "balanced_truncation",
    "certify",
    "difference",
    "error_bound",
    "error_h2",
    "error_hinf",
    "finite_horizon_hinf_norms",
    "h2_norm",
    "hankel_penalty",
    "hankel_singular_values",
    "hinf_norm",
    "hinf_norms",
    "impulse_energies",
    "magnitudes",
    "modal_penalty",
    "published_squared_hinf_norms",
    "swept_hinf_norms",
]
