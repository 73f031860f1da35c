"""Finding the arrays of the model among everything that a checkpoint holds."""

import re
from collections.abc import Iterable

from lastax._errors import RunError

# Parts of names below which optimizers keep arrays of the shapes of parameters.
_OPTIMIZER = frozenset(
    {
        *("opt_state", "optimizer", "optimizer_state", "optimizer_states", "optim", "opt"),
        *("mu", "nu", "exp_avg", "exp_avg_sq", "momentum_buffer", "optimizer_state_dict"),
    }
)
_AVERAGES = re.compile(r"(^|[._])(ema|swa|averaged?|shadow|target)([._]|$)|ema_", re.IGNORECASE)
# Collections of Flax whose trees have the same paths.
_PARAMETERS, _STATISTICS = "params", "batch_stats"


def model_names(names: Iterable[str], prefix: str | None) -> dict[str, str]:
    """The names in a file of the arrays of the model, by the names that formats know.

    Arrays of optimizers are left out. With Flax, `params.X` and `batch_stats.X` become `X`.

    Args:
        names: names of all arrays of the file.
        prefix: path of the model; None for everything.

    Raises:
        RunError: if nothing is below the prefix, or only arrays of an optimizer are.
    """
    names = list(names)
    chosen = {name: name for name in names}
    if prefix:
        chosen = _below(names, prefix.strip("./").replace("/", "."))
        if not chosen:
            starts = sorted({name.split(".")[0] for name in names})
            raise RunError(
                f"nothing is below the prefix {prefix!r}; the names start with "
                + ", ".join(starts[:12])
            )
    kept = {short: name for short, name in chosen.items() if not _OPTIMIZER & set(short.split("."))}
    if chosen and not kept:
        raise RunError("the file holds only the state of an optimizer, and no parameters")
    return {_merged(short): name for short, name in kept.items()}


def choose_path(paths: Iterable[str]) -> str:
    """The path of the model, where several have the names of one.

    Averages of the weights (EMA) are used only if nothing else is there.

    Raises:
        RunError: if there are several, which the message lists.
    """
    found = sorted(set(paths))
    plain = without_averages(found)
    if len(plain) > 1:
        raise RunError(f"several networks are in the file; pass prefix=, one of {', '.join(plain)}")
    return plain[0]


def without_averages(paths: Iterable[str]) -> list[str]:
    """The paths that are not of averages of the weights, or all if there are no others."""
    paths = list(paths)
    return [path for path in paths if not _AVERAGES.search(path)] or paths


def _below(names: list[str], prefix: str) -> dict[str, str]:
    parts = prefix.split(".")
    prefixes = [prefix]
    for position, part in enumerate(parts):
        # `ema_params` may have statistics of its own, or share those of the model.
        if part.endswith(_PARAMETERS):
            for name in (part.removesuffix(_PARAMETERS) + _STATISTICS, _STATISTICS):
                prefixes.append(".".join([*parts[:position], name, *parts[position + 1 :]]))
    chosen: dict[str, str] = {}
    for start in prefixes:
        for name in names:
            if name.startswith(start + "."):
                chosen.setdefault(name[len(start) + 1 :], name)
    return chosen


def _merged(name: str) -> str:
    parts = name.split(".")
    for collection in (_PARAMETERS, _STATISTICS):
        if collection in parts:
            parts.remove(collection)
            break
    return ".".join(parts)
