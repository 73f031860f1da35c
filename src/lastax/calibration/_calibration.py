"""Pruning with a refit: what is left learns, in closed form, to do what was removed.

From a few dozen unlabeled sequences, layer by layer from the bottom, each fed by what is already
reduced and aimed at what the layer answered in the original network. No gradient, no training.
"""

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool

from lastax._typing import OnProgress, silent
from lastax.calibration._allocation import Curve, interpolated_curve, probe_sizes
from lastax.calibration._blockwise_pass import (
    all_features,
    enter_all,
    layer_moments,
    layer_of,
    layer_outputs,
    linears_grams,
    outputs_of,
    pass_after,
    pass_through,
    values_per_step,
)
from lastax.calibration._budgets import Budget, BudgetContext, find_budget
from lastax.calibration._closed_forms import (
    refit_dense_outputs,
    refit_head,
    refit_linear,
    refit_outputs,
)
from lastax.calibration._elimination import LayerPath, eliminate, merge_paths
from lastax.calibration._features import (
    feedthrough_from_weights,
    feedthrough_states,
    feedthrough_weights,
    output_weights,
    state_slots,
    with_output_weights,
)
from lastax.calibration._moments import Moments
from lastax.calibration._records import Batch, Chunk, calibration_chunks
from lastax.calibration._report import Divergence, LayerReport, RefitReport, mean_kl_divergence
from lastax.nn._blockwise import BlockwiseForward, HiddenStates, resolve_forward
from lastax.surgery._counts import Ratio, keep_count
from lastax.surgery._layers import UnstableStatesWarning, host_system, replace_layers

# Of the variance of each input of a gate.
_GATE_RIDGE = 1e-4


def calibrate(
    model: Any,
    batches: Batch | Iterable[Batch],
    *,
    dense_feedthrough: bool = False,
    forward: BlockwiseForward | None = None,
    divergence: Divergence = mean_kl_divergence,
    on_progress: OnProgress = silent,
) -> "Calibration":
    """Pass calibration data through a model once; arguments and errors are those of `refit`."""
    forward = resolve_forward("refit", model, forward)
    blocks = list(forward.blocks(model))
    for index, block in enumerate(blocks):
        if not hasattr(layer_of(block), "with_system"):
            raise ValueError(
                f"refit: layer {index}, a {type(layer_of(block)).__name__}, has no method "
                "with_system(system), by which new output maps are written back"
            )
        if dense_feedthrough and len(state_slots(layer_of(block).system())) > 1:
            raise ValueError(
                f"refit: layer {index} has a system for each channel; a full D would mix them"
            )
    given = [batches] if isinstance(batches, Mapping) else list(batches)
    chunks = calibration_chunks(given, values_per_step=values_per_step(blocks))
    streams = enter_all(forward, model, chunks)
    moments = []
    for index, block in enumerate(blocks):
        on_progress(_doing("measuring", index, len(blocks)))
        try:
            moments.append(layer_moments(forward, block, streams))
        except ValueError as error:
            raise ValueError(f"layer {index}: {error}") from error
        streams = [pass_through(forward, block, stream) for stream in streams]
    unstable = [np.abs(host_system(layer_of(block)).lam) >= 1 for block in blocks]
    if any(where.any() for where in unstable):
        named = [np.flatnonzero(where).tolist() for where in unstable]
        warnings.warn(
            f"states with |lam| >= 1 are kept as long as others can go, a layer: {named}",
            UnstableStatesWarning,
            stacklevel=3,
        )
    features = all_features(forward, model, streams, chunks)
    outputs = outputs_of(forward.head(model), features)
    found = [layer_of(block).system() for block in blocks]
    return Calibration(
        model=model,
        batches=given,
        forward=forward,
        divergence=divergence,
        chunks=chunks,
        blocks=blocks,
        systems=found,
        unstable=unstable,
        moments=moments,
        outputs=outputs,
        dense_feedthrough=dense_feedthrough,
        on_progress=on_progress,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """A model and what one pass of calibration data through it has shown; from `calibrate`.

    `moments` are those of each layer's regression on what its states give; inputs and targets are
    those of the model as it is. What the budgets need beside them is measured when it is first
    asked for.
    """

    model: Any
    batches: list[Batch]
    forward: BlockwiseForward
    divergence: Divergence
    chunks: list[Chunk]
    blocks: list[Any]
    systems: list[Any]
    unstable: list[np.ndarray]
    moments: list[Moments]
    outputs: np.ndarray
    dense_feedthrough: bool = False
    on_progress: OnProgress = silent

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
        check_amount(ratio, states, keep)
        chosen = find_budget(budget)
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
    def feedthrough_states(self) -> list[int]:
        """How many states each layer's full `D` counts for, if it gets one."""
        return [
            feedthrough_states(system) if self.dense_feedthrough else 0 for system in self.systems
        ]

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
        streams = enter_all(self.forward, self.model, self.chunks)
        curves = []
        for index, path in enumerate(self.paths):
            self._tell("probing", index)
            states = len(path.order)
            sizes = probe_sizes(states)
            costs = [self._cost(index, path, size, streams) for size in sizes[:-1]] + [0.0]
            curves.append(interpolated_curve(np.array(sizes), np.array(costs), states))
            streams = [pass_through(self.forward, self.blocks[index], s) for s in streams]
        return curves

    def _path(self, index: int, moments: Moments) -> LayerPath:
        """The removal order of a layer's states, by moments in the frame of its inputs."""
        slots = state_slots(self.systems[index])
        present = slots >= 0
        last = self.unstable[index][np.maximum(slots, 0)] & present
        D = feedthrough_weights(self.systems[index])
        features, left = moments.features, moments.targets_without(D)
        if self.dense_feedthrough:
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
        W, D = output_weights(system), feedthrough_weights(system)
        fit = refit_dense_outputs if self.dense_feedthrough else refit_outputs
        new_W, new_D = fit(moments, kept, W, D)
        energy = float(moments.energy.sum())
        truncated = W * np.repeat(kept, moments.width, axis=1)[..., None]
        errors = [
            float(moments.residual(*pair).sum()) / (energy if energy > 0 else 1.0)
            for pair in ((truncated, D), (new_W, new_D))
        ]
        whole = self.dense_feedthrough or np.ndim(system.D) == 2
        system = with_output_weights(system, new_W, feedthrough_from_weights(new_D, whole=whole))
        layer = layer_of(self.blocks[index]).with_system(system)  # type: ignore[attr-defined]
        report = LayerReport(mask, None, errors[0], errors[1], self.feedthrough_states[index])
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
        matrices = sum(self.feedthrough_states)
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
        forward = self.forward
        original = reduced = enter_all(forward, self.model, self.chunks)
        changed = self.dense_feedthrough
        blocks, reports = [], []
        for index, block in enumerate(self.blocks):
            self._tell("refitting", index)
            answers = [layer_outputs(forward, block, stream) for stream in original]
            moments = self.moments[index]
            if changed:
                moments = layer_moments(forward, block, reduced, answers)
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
                new_answers = [layer_outputs(forward, full, stream) for stream in reduced]
                if linear_maps:
                    full = self._with_linears(block, full, original, answers, new_answers)
            reduced = _advanced(forward, full, reduced, new_answers)
            original = _advanced(forward, block, original, answers) if changed else reduced
            blocks.append(replace_layers(full, [layer_of(full).keep(mask)]))
            reports.append(report)
        features = all_features(forward, self.model, reduced, self.chunks)
        head = forward.head(self.model)
        model = eqx.tree_at(lambda m: list(forward.blocks(m)), self.model, blocks)
        if head is not None and changed and linear_maps:
            start = np.asarray(head.weight, float)
            head = head.replaced(*refit_head(features.astype(float), self.outputs, start))
            model = eqx.tree_at(forward.head, model, head)
        moved = self.divergence(self.outputs, outputs_of(head, features))
        steps = int(sum(stream.valid.sum() for stream in reduced))
        return model, RefitReport(reports, moved, len(self.outputs), steps)

    def _tell(self, what: str, index: int) -> None:
        self.on_progress(_doing(what, index, len(self.blocks)))

    def _cost(
        self, index: int, path: LayerPath, size: int, streams: Sequence[HiddenStates]
    ) -> float:
        cut, _ = self._refitted(index, self.moments[index], path.keep(size))
        rest = [cut, *self.blocks[index + 1 :]]
        ends = []
        for stream in streams:
            for block in rest:
                stream = pass_through(self.forward, block, stream)
            ends.append(stream)
        features = all_features(self.forward, self.model, ends, self.chunks)
        outputs = outputs_of(self.forward.head(self.model), features)
        return max(self.divergence(self.outputs, outputs), 0.0)

    def _with_linears(
        self,
        block: Any,
        full: Any,
        original: Sequence[HiddenStates],
        answers: Sequence[np.ndarray],
        new_answers: Sequence[np.ndarray],
    ) -> Any:
        maps = self.forward.linears(full)
        if not maps:
            return full
        pairs = zip(answers, new_answers, strict=True)
        grams = linears_grams(
            self.forward, (block, full), (np.asarray(s.valid) for s in original), pairs
        )
        new = [
            map_.replaced(*refit_linear(gram, np.asarray(map_.weight, float), ridge=_GATE_RIDGE))
            for map_, gram in zip(maps, grams, strict=True)
        ]
        return eqx.tree_at(lambda b: list(self.forward.linears(b)), full, new)


def _doing(what: str, index: int, layers: int) -> str:
    return f"{what} layer {index}, of {layers}"


def _advanced(
    forward: BlockwiseForward,
    block: Any,
    streams: Sequence[HiddenStates],
    answers: Sequence[np.ndarray],
) -> list[HiddenStates]:
    return [pass_after(forward, block, s, y) for s, y in zip(streams, answers, strict=True)]


def check_amount(*choices: Any) -> None:
    if sum(choice is not None for choice in choices) != 1:
        raise ValueError("refit: give one of ratio=, states= and keep=")


def _check_masks(keep: Sequence[np.ndarray], sizes: list[int]) -> None:
    lengths = [len(mask) for mask in keep]
    if lengths != sizes:
        raise ValueError(f"refit: the layers have {sizes} states, but the masks are for {lengths}")
    empty = [index for index, mask in enumerate(keep) if not np.any(mask)]
    if empty:
        raise ValueError(f"refit: layers {empty} would lose all their states")
