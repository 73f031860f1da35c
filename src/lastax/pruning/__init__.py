"""Scores, selection, the registry of methods, plans, and the search for a number of states."""

from lastax.pruning._agreement import rank_agreement as rank_agreement
from lastax.pruning._methods import METHODS as METHODS
from lastax.pruning._methods import Method as Method
from lastax.pruning._methods import ScoreContext as ScoreContext
from lastax.pruning._methods import register_method as register_method
from lastax.pruning._plan import PruningPlan as PruningPlan
from lastax.pruning._plan import plan_pruning as plan_pruning
from lastax.pruning._plan import score_states as score_states
from lastax.pruning._prune import prune as prune
from lastax.pruning._prune_with_optimizer import prune_with_optimizer as prune_with_optimizer
from lastax.pruning._reducer import Reducer as Reducer
from lastax.pruning._reducer import Reduction as Reduction
from lastax.pruning._scores import aire_scores as aire_scores
from lastax.pruning._scores import finite_horizon_last_scores as finite_horizon_last_scores
from lastax.pruning._scores import hankel_scores as hankel_scores
from lastax.pruning._scores import lamp_scores as lamp_scores
from lastax.pruning._scores import last_per_channel_scores as last_per_channel_scores
from lastax.pruning._scores import last_scores as last_scores
from lastax.pruning._scores import layer_adaptive as layer_adaptive
from lastax.pruning._scores import published_last_scores as published_last_scores
from lastax.pruning._scores import random_scores as random_scores
from lastax.pruning._search import AUTO_METHODS as AUTO_METHODS
from lastax.pruning._search import Trial as Trial
from lastax.pruning._search import search_method as search_method
from lastax.pruning._selection import select_global as select_global
from lastax.pruning._selection import select_top as select_top
from lastax.pruning._selection import select_uniform as select_uniform
from lastax.pruning._selection import uniform_counts as uniform_counts

__all__ = [
    "AUTO_METHODS",
    "METHODS",
    "Method",
    "PruningPlan",
    "Reducer",
    "Reduction",
    "ScoreContext",
    "Trial",
    "aire_scores",
    "finite_horizon_last_scores",
    "hankel_scores",
    "lamp_scores",
    "last_per_channel_scores",
    "last_scores",
    "layer_adaptive",
    "plan_pruning",
    "prune",
    "prune_with_optimizer",
    "published_last_scores",
    "random_scores",
    "rank_agreement",
    "register_method",
    "score_states",
    "search_method",
    "select_global",
    "select_top",
    "select_uniform",
    "uniform_counts",
]
