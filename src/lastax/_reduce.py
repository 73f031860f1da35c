"""Pruning with a refit: what is left learns, in closed form, to do what was removed.

From a few dozen unlabeled sequences, layer by layer from the bottom, each fed by what is already
reduced and aimed at what the layer answered in the original network. No gradient, no training.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from lastax._budgets import Curve, interpolated_curve, minimax_counts, probe_sizes
from lastax._calibrate import (
    Batch,
    Chunk,
    all_features,
    calibration_chunks,
    enter_all,
    layer_moments,
    layer_of,
    layer_outputs,
    linears_grams,
    numbers_a_step,
    outputs_of,
    pass_after,
    pass_through,
)
from lastax._elimination import LayerPath, eliminate, merge_paths
from lastax._features import (
    direct_weights,
    full_D_states,
    output_weights,
    state_slots,
    weighted_D,
    with_output_weights,
)
from lastax._refit import (
    Moments,
    refit_full_outputs,
    refit_head,
    refit_linear,
    refit_outputs,
)
from lastax._selection import Ratio, keep_count
from lastax._stages import Stages, Stream, known_stages
from lastax._surgery import Model, UnstableStatesWarning, host_system, replace_layers
from lastax._typing import Progress, silent

# Of the variance of each input of a gate.
_GATE_RIDGE = 1e-4

Divergence = Callable[[Float[np.ndarray, "n m"], Float[np.ndarray, "n m"]], float]


@dataclasses.dataclass(frozen=True)
class BudgetContext:
    """What a budget may go by: each layer's removal order and energy, bounds, and a probe.

    `probe()` gives a curve a layer: how far the network's outputs move if that layer alone is cut
    to a size. It takes a forward pass of the calibration data for each of about ten sizes a layer.
    """

    total: int
    paths: Sequence[LayerPath]
    energies: Sequence[float]
    minimum: Sequence[int]
    maximum: Sequence[int]
    probe: Callable[[], list[Curve]]

    def shared_out(self, curves: Sequence[Curve]) -> list[int]:
        """Counts within the bounds by which the costliest layer costs least (`minimax_counts`)."""
        return minimax_counts(curves, self.total, minimum=self.minimum, maximum=self.maximum)

    @property
    def sizes(self) -> list[int]:
        """Number of states of each layer."""
        return [len(path.order) for path in self.paths]


# From a context to the number of states that each layer keeps.
Budget = Callable[[BudgetContext], Sequence[int]]


def _uniform(given: BudgetContext) -> Sequence[int]:
    return given.shared_out([1 - np.arange(size + 1) / size for size in given.sizes])


def _by_relative_error(given: BudgetContext) -> Sequence[int]:
    return given.shared_out(
        [
            path.residuals / (energy if energy > 0 else 1.0)
            for path, energy in zip(given.paths, given.energies, strict=True)
        ]
    )


def _by_probe(given: BudgetContext) -> Sequence[int]:
    return given.shared_out(given.probe())


BUDGETS: Mapping[str, Budget] = MappingProxyType(
    {"uniform": _uniform, "relative-error": _by_relative_error, "probe": _by_probe}
)


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What was done to one layer, and how well it answers on the calibration data.

    `order` is that in which states were given up, the first to go first (None where the caller
    chose). Errors are mean squares relative to the original answer's, on inputs from the reduced
    layers below: of the states that are left as they were, and refitted. `full_D_states` is how
    many states a `D` counts for that was made a whole matrix.
    """

    keep: Bool[np.ndarray, " _"]
    order: np.ndarray | None
    error_truncated: float
    error: float
    full_D_states: int = 0


@dataclasses.dataclass(frozen=True)
class RefitReport:
    """What `refit` did: a report a layer, and how far the outputs moved on the calibration data.

    `divergence` is the mean of `KL(original || reduced)` in nats, or what the caller measures.
    """

    layers: list[LayerReport]
    divergence: float
    sequences: int
    steps: int

    @property
    def keep(self) -> list[Bool[np.ndarray, " _"]]:
        """A mask a layer."""
        return [layer.keep for layer in self.layers]

    @property
    def states_before(self) -> list[int]:
        """Number of states of each layer as it was."""
        return [len(layer.keep) for layer in self.layers]

    @property
    def states_after(self) -> list[int]:
        """Number of states of each layer that stay; what a full `D` counts for is not in it."""
        return [int(layer.keep.sum()) for layer in self.layers]


def mean_divergence(
    original: Float[np.ndarray, "n classes"], reduced: Float[np.ndarray, "n classes"]
) -> float:
    """Mean of `KL(p || q)` in nats, with `p` and `q` the softmax of original and reduced logits."""
    log_p, log_q = _log_softmax(original), _log_softmax(reduced)
    return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))


def refit(
    model: Model,
    batches: Batch | Iterable[Batch],
    *,
    ratio: Ratio | None = None,
    states: int | None = None,
    keep: Sequence[Bool[np.ndarray, " _"]] | None = None,
    budget: str | Budget = "probe",
    minimum: int | Sequence[int] = 1,
    maximum: Sequence[int] | None = None,
    linear_maps: bool = True,
    full_D: bool = False,
    stages: Stages | None = None,
    divergence: Divergence = mean_divergence,
    progress: Progress = silent,
) -> tuple[Model, RefitReport]:
    """Remove states, chosen greedily, and fit what is left to do what the whole network did.

    In each layer `C` and `D` change, poles and `B` of the states that stay do not. A layer that
    loses nothing and whose input is as it was stays as it is, bit for bit. On the calibration data
    no layer answers worse than it would if its states were only cut.

    `calibrate(model, batches).refit(...)` is the same; it serves many budgets with one pass.

    Args:
        model: a `Classifier` or `Retrieval`, or with `stages` any model.
        batches: calibration data, one batch or several: arrays `x`, `length` where sequences are
            padded, `weight` with 0 for rows that only fill up. Labels are not looked at. Training
            data; 16 to 64 sequences serve the layers, the head gains from some hundreds.
        ratio: share of all states to remove, in [0, 1).
        states: or the number of states to keep in all.
        keep: or a mask a block, to refit states that were chosen otherwise (`plan_pruning`).
        budget: how many states each layer keeps: a name in `BUDGETS`, or a function of a
            `BudgetContext`.
        minimum: least number of states of each layer, or one number for all.
        maximum: most states of each layer. Equal to the minimum it fixes the layer.
        linear_maps: also refit the linear maps of the gates and the head, with no change of shape.
        full_D: fit `D` from every input to every output. Its weights count as states
            (`full_D_states` a layer), of which so many fewer stay; not so with `keep`.
        stages: how data pass a model of another kind.
        divergence: how far outputs are from the original ones, for the probe and the report.
        progress: is told which layer is being worked on, and what is done to it.

    Returns:
        The smaller model, and what was done.

    Raises:
        ValueError: unless exactly one of `ratio`, `states` and `keep` is given and possible, or if
            the calibration data are empty or not finite.
    """
    _check_amount(ratio, states, keep)
    calibration = calibrate(
        model, batches, full_D=full_D, stages=stages, divergence=divergence, progress=progress
    )
    return calibration.refit(
        ratio=ratio,
        states=states,
        keep=keep,
        budget=budget,
        minimum=minimum,
        maximum=maximum,
        linear_maps=linear_maps,
    )


def calibrate(
    model: Any,
    batches: Batch | Iterable[Batch],
    *,
    full_D: bool = False,
    stages: Stages | None = None,
    divergence: Divergence = mean_divergence,
    progress: Progress = silent,
) -> "Calibration":
    """Pass calibration data through a model once; arguments and errors are those of `refit`."""
    stages = known_stages("refit", model, stages)
    blocks = list(stages.blocks(model))
    for index, block in enumerate(blocks):
        if not hasattr(layer_of(block), "with_system"):
            raise ValueError(
                f"refit: layer {index}, a {type(layer_of(block)).__name__}, has no method "
                "with_system(system), by which new output maps are written back"
            )
        if full_D and len(state_slots(layer_of(block).system())) > 1:
            raise ValueError(
                f"refit: layer {index} has a system for each channel; a full D would mix them"
            )
    chunks = calibration_chunks(batches, numbers_a_step=numbers_a_step(blocks))
    streams = enter_all(stages, model, chunks)
    moments = []
    for index, block in enumerate(blocks):
        progress(_doing("measuring", index, len(blocks)))
        try:
            moments.append(layer_moments(stages, block, streams))
        except ValueError as error:
            raise ValueError(f"layer {index}: {error}") from error
        streams = [pass_through(stages, block, stream) for stream in streams]
    unstable = [np.abs(host_system(layer_of(block)).lam) >= 1 for block in blocks]
    if any(where.any() for where in unstable):
        named = [np.flatnonzero(where).tolist() for where in unstable]
        warnings.warn(
            f"states with |lam| >= 1 are kept as long as others can go, a layer: {named}",
            UnstableStatesWarning,
            stacklevel=3,
        )
    features = all_features(stages, model, streams, chunks)
    outputs = outputs_of(stages.head(model), features)
    found = [layer_of(block).system() for block in blocks]
    return Calibration(
        model=model,
        stages=stages,
        divergence=divergence,
        chunks=chunks,
        blocks=blocks,
        systems=found,
        unstable=unstable,
        moments=moments,
        outputs=outputs,
        full_D=full_D,
        progress=progress,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """A model and what one pass of calibration data through it has shown; from `calibrate`.

    `moments` are those of each layer's regression on what its states give; inputs and targets are
    those of the model as it is. What the budgets need beside them is measured when it is first
    asked for.
    """

    model: Any
    stages: Stages
    divergence: Divergence
    chunks: list[Chunk]
    blocks: list[Any]
    systems: list[Any]
    unstable: list[np.ndarray]
    moments: list[Moments]
    outputs: np.ndarray
    full_D: bool = False
    progress: Progress = silent

    def refit(
        self,
        *,
        ratio: Ratio | None = None,
        states: int | None = None,
        keep: Sequence[Bool[np.ndarray, " _"]] | None = None,
        budget: str | Budget = "probe",
        minimum: int | Sequence[int] = 1,
        maximum: Sequence[int] | None = None,
        linear_maps: bool = True,
    ) -> tuple[Any, RefitReport]:
        """The model made smaller, and what was done; see the function `refit`."""
        _check_amount(ratio, states, keep)
        chosen = _known_budget(budget)
        sizes = [len(where) for where in self.unstable]
        if keep is not None:
            _check_masks(keep, sizes)
            masks: list[np.ndarray | None] = [np.asarray(mask) for mask in keep]
            return self._reduced([int(mask.sum()) for mask in keep], masks, linear_maps)
        if states is None:
            states = keep_count(sum(sizes), ratio or 0, at_least=len(sizes))
        counts = self._counts(states, chosen, minimum, maximum)
        return self._reduced(counts, [None] * len(sizes), linear_maps)

    @property
    def full_D_states(self) -> list[int]:
        """How many states each layer's full `D` counts for, if it gets one."""
        return [full_D_states(system) if self.full_D else 0 for system in self.systems]

    @functools.cached_property
    def paths(self) -> list[LayerPath]:
        """The order in which each layer gives up its states, fed by the original network."""
        paths = []
        for index, moments in enumerate(self.moments):
            self._tell("ordering states of", index)
            paths.append(self._path(index, moments))
        return paths

    @functools.cached_property
    def probed(self) -> list[Curve]:
        """For each layer and size: how far outputs move if this layer alone is cut to it."""
        streams = enter_all(self.stages, self.model, self.chunks)
        curves = []
        for index, path in enumerate(self.paths):
            self._tell("probing", index)
            states = len(path.order)
            sizes = probe_sizes(states)
            costs = [self._cost(index, path, size, streams) for size in sizes[:-1]] + [0.0]
            curves.append(interpolated_curve(np.array(sizes), np.array(costs), states))
            streams = [pass_through(self.stages, self.blocks[index], s) for s in streams]
        return curves

    def _path(self, index: int, moments: Moments) -> LayerPath:
        """The removal order of a layer's states, by moments in the frame of its inputs."""
        slots = state_slots(self.systems[index])
        present = slots >= 0
        last = self.unstable[index][np.maximum(slots, 0)] & present
        D = direct_weights(self.systems[index])
        features, left = moments.features, moments.targets_without(D)
        if self.full_D:
            features, left = moments.without_inputs(D)
        path = eliminate(features, left, moments.width, present=present, last=last)
        is_last = np.take_along_axis(last, np.maximum(path.order, 0), axis=1)
        costs = np.where(is_last, np.inf, path.costs)
        path = dataclasses.replace(path, costs=costs)
        return merge_paths(path, slots, moments.energy.sum(axis=1))

    def _refitted(self, index: int, moments: Moments, mask: np.ndarray) -> tuple[Any, LayerReport]:
        """A block whose layer has all its states still, but only those in the mask are heard."""
        system = self.systems[index]
        slots = state_slots(system)
        kept = (slots >= 0) & mask[np.maximum(slots, 0)]
        W, D = output_weights(system), direct_weights(system)
        fit = refit_full_outputs if self.full_D else refit_outputs
        new_W, new_D = fit(moments, kept, W, D)
        energy = float(moments.energy.sum())
        truncated = W * np.repeat(kept, moments.width, axis=1)[..., None]
        errors = [
            float(moments.residual(*pair).sum()) / (energy if energy > 0 else 1.0)
            for pair in ((truncated, D), (new_W, new_D))
        ]
        whole = self.full_D or np.ndim(system.D) == 2
        system = with_output_weights(system, new_W, weighted_D(new_D, whole=whole))
        layer = layer_of(self.blocks[index]).with_system(system)  # type: ignore[attr-defined]
        report = LayerReport(mask, None, errors[0], errors[1], self.full_D_states[index])
        return replace_layers(self.blocks[index], [layer]), report

    def _counts(
        self,
        total: int,
        budget: Budget,
        minimum: int | Sequence[int],
        maximum: Sequence[int] | None,
    ) -> list[int]:
        """How many states each layer keeps."""
        sizes = [len(where) for where in self.unstable]
        least = [minimum] * len(sizes) if isinstance(minimum, int) else list(minimum)
        most = sizes if maximum is None else list(maximum)
        if not len(least) == len(most) == len(sizes):
            raise ValueError(
                f"refit: {len(sizes)} layers, but bounds for {len(least)} and {len(most)}"
            )
        least = [max(low, int(u.sum())) for low, u in zip(least, self.unstable, strict=True)]
        if not all(
            1 <= low <= high <= size for low, high, size in zip(least, most, sizes, strict=True)
        ):
            raise ValueError(
                f"refit: layers of {sizes} states cannot keep at least {least} (one, or all with "
                f"|lam| >= 1) and at most {most}"
            )
        matrices = sum(self.full_D_states)
        if not sum(least) + matrices <= total <= sum(most) + matrices:
            counted = f", {matrices} of which are for each layer's full D" if matrices else ""
            raise ValueError(
                f"refit: {total} states to keep, but {len(sizes)} layers of {sizes} states allow "
                f"{sum(least) + matrices} to {sum(most) + matrices}{counted}"
            )
        total -= matrices
        if total == sum(sizes):
            return sizes
        energies = [float(moments.energy.sum()) for moments in self.moments]
        context = BudgetContext(total, self.paths, energies, least, most, lambda: self.probed)
        counts = [int(count) for count in budget(context)]
        fits = len(counts) == len(sizes) and all(
            low <= count <= high for low, count, high in zip(least, counts, most, strict=True)
        )
        if sum(counts) != total or not fits:
            raise ValueError(
                f"refit: the budget gives {counts} states to layers of {sizes}; it must give "
                f"{total} in all, at least {least} and at most {most}"
            )
        return counts

    def _reduced(
        self, counts: Sequence[int], masks: Sequence[np.ndarray | None], linear_maps: bool
    ) -> tuple[Any, RefitReport]:
        """Cut and refit from the bottom."""
        stages = self.stages
        original = reduced = enter_all(stages, self.model, self.chunks)
        changed = self.full_D
        blocks, reports = [], []
        for index, block in enumerate(self.blocks):
            self._tell("refitting", index)
            answers = [layer_outputs(stages, block, stream) for stream in original]
            moments = self.moments[index]
            if changed:
                moments = layer_moments(stages, block, reduced, answers)
            mask, order = masks[index], None
            if mask is None:
                path = self._path(index, moments)
                mask, order = path.keep(counts[index]), path.order
            full, new_answers = block, answers
            report = LayerReport(mask, order, 0.0, 0.0)
            if changed or not mask.all():
                changed = True
                full, report = self._refitted(index, moments, mask)
                report = dataclasses.replace(report, order=order)
                new_answers = [layer_outputs(stages, full, stream) for stream in reduced]
                if linear_maps:
                    full = self._with_linears(block, full, original, answers, new_answers)
            reduced = _advanced(stages, full, reduced, new_answers)
            original = _advanced(stages, block, original, answers) if changed else reduced
            blocks.append(replace_layers(full, [layer_of(full).keep(mask)]))
            reports.append(report)
        features = all_features(stages, self.model, reduced, self.chunks)
        head = stages.head(self.model)
        model = eqx.tree_at(lambda m: list(stages.blocks(m)), self.model, blocks)
        if head is not None and changed and linear_maps:
            start = np.asarray(head.weight, float)
            head = head.replaced(*refit_head(features.astype(float), self.outputs, start))
            model = eqx.tree_at(stages.head, model, head)
        moved = self.divergence(self.outputs, outputs_of(head, features))
        steps = int(sum(stream.valid.sum() for stream in reduced))
        return model, RefitReport(reports, moved, len(self.outputs), steps)

    def _tell(self, what: str, index: int) -> None:
        self.progress(_doing(what, index, len(self.blocks)))

    def _cost(self, index: int, path: LayerPath, size: int, streams: Sequence[Stream]) -> float:
        cut, _ = self._refitted(index, self.moments[index], path.keep(size))
        rest = [cut, *self.blocks[index + 1 :]]
        ends = []
        for stream in streams:
            for block in rest:
                stream = pass_through(self.stages, block, stream)
            ends.append(stream)
        features = all_features(self.stages, self.model, ends, self.chunks)
        outputs = outputs_of(self.stages.head(self.model), features)
        return max(self.divergence(self.outputs, outputs), 0.0)

    def _with_linears(
        self,
        block: Any,
        full: Any,
        original: Sequence[Stream],
        answers: Sequence[np.ndarray],
        new_answers: Sequence[np.ndarray],
    ) -> Any:
        maps = self.stages.linears(full)
        if not maps:
            return full
        pairs = zip(answers, new_answers, strict=True)
        grams = linears_grams(
            self.stages, (block, full), (np.asarray(s.valid) for s in original), pairs
        )
        new = [
            map_.replaced(*refit_linear(gram, np.asarray(map_.weight, float), ridge=_GATE_RIDGE))
            for map_, gram in zip(maps, grams, strict=True)
        ]
        return eqx.tree_at(lambda b: list(self.stages.linears(b)), full, new)


def _doing(what: str, index: int, layers: int) -> str:
    return f"{what} layer {index}, of {layers}"


def _advanced(
    stages: Stages, block: Any, streams: Sequence[Stream], answers: Sequence[np.ndarray]
) -> list[Stream]:
    return [pass_after(stages, block, s, y) for s, y in zip(streams, answers, strict=True)]


def _check_amount(*choices: Any) -> None:
    if sum(choice is not None for choice in choices) != 1:
        raise ValueError("refit: give one of ratio=, states= and keep=")


def _check_masks(keep: Sequence[np.ndarray], sizes: list[int]) -> None:
    lengths = [len(mask) for mask in keep]
    if lengths != sizes:
        raise ValueError(f"refit: the layers have {sizes} states, but the masks are for {lengths}")
    empty = [index for index, mask in enumerate(keep) if not np.any(mask)]
    if empty:
        raise ValueError(f"refit: layers {empty} would lose all their states")


def _known_budget(budget: str | Budget) -> Budget:
    if not isinstance(budget, str):
        return budget
    if budget not in BUDGETS:
        raise ValueError(f"no budget {budget!r}; there are {', '.join(BUDGETS)}")
    return BUDGETS[budget]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
