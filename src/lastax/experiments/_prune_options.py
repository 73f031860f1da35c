"""How a run is pruned."""

import dataclasses

from lastax.experiments._calibration_options import CalibrationOptions
from lastax.experiments._default_calibration import default_calibration
from lastax.nn._networks import Network
from lastax.pruning._methods import METHODS
from lastax.pruning._search import AUTO_METHODS
from lastax.training._run_config import RunConfig

# The method that compares several on the validation split.
AUTO = "auto"
# Percentage points of validation accuracy that `auto` may lose by default.
DEFAULT_MAX_LOSS = 1.0
DEFAULT_RATIO = 0.3


class OptionError(ValueError):
    """An option has a value that it cannot have.

    Attributes:
        option: name of the field.
        reason: what is wrong, and what the option may be.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class PruneOptions:
    """How a run is pruned.

    Attributes:
        method: a name in `METHODS`, or "auto" for the one that removes most within `max_loss`.
        ratio: share of all states to remove. Of `ratio`, `states` and `max_loss` at most one is
            given; the default is 30 % (for "auto", 1 percentage point).
        states: or the number of states to keep in total.
        max_loss: or the validation accuracy that may be lost, in percentage points; the number of
            states is found by bisection.
        compare_with: other methods to evaluate at the same number of states.
        calibration: settings of methods that use calibration data. If None, `calibrated` without
            `max_loss` uses `default_calibration`, which depends on the size of the network, and
            all others use `CalibrationOptions()`.
        recalibrate_batch_norm: whether running statistics are measured again after pruning.
        finetune: epochs of training after pruning.
        finetune_rate: learning rates of these epochs, as a share of those of the run.
        distill: whether these epochs use the outputs of the unpruned network instead of labels.
        seed: seed of random pruning and of the choice of calibration data.
        limit: number of records per split to evaluate on; all if None.
    """

    method: str = "last"
    ratio: float | None = None
    states: int | None = None
    max_loss: float | None = None
    compare_with: tuple[str, ...] = ()
    calibration: CalibrationOptions | None = None
    recalibrate_batch_norm: bool = False
    finetune: int = 0
    finetune_rate: float = 0.1
    distill: bool = False
    seed: int = 0
    limit: int | None = None

    def check(self, config: RunConfig | None = None) -> None:
        """Reject options that do not suit a run.

        Args:
            config: its configuration; None checks what does not depend on a run.

        Raises:
            OptionError: naming the option, its value, and what it may be.
        """
        if sum(amount is not None for amount in (self.ratio, self.states, self.max_loss)) > 1:
            raise OptionError("ratio", "pass only one of ratio, states and max_loss")
        if self.max_loss is not None and not 0 <= self.max_loss <= 100:
            raise OptionError(
                "max_loss", f"must be 0 to 100 percentage points, got {self.max_loss}"
            )
        if config is not None and self.states is not None:
            least, most = len(config.states), sum(config.states)
            if not least <= self.states <= most:
                allowed = f"{least} (one per layer) to {most}"
                raise OptionError("states", f"this run allows {allowed}, got {self.states}")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise OptionError("ratio", f"must be at least 0 and below 1, got {self.ratio}")
        if self.method not in (*METHODS, AUTO):
            known = ", ".join((*METHODS, AUTO))
            raise OptionError("method", f"no {self.method!r}; choose one of {known}")
        for name in self.compare_with:
            if name not in METHODS:
                raise OptionError(
                    "compare_with", f"no {name!r}; choose one of {', '.join(METHODS)}"
                )
        if self._calibration.dense_feedthrough and not (
            self.method in METHODS and METHODS[self.method].refit
        ):
            refits = ", ".join(name for name, method in METHODS.items() if method.refit)
            raise OptionError("dense_feedthrough", f"needs a method that refits: {refits}")
        if self.limit is not None and self.limit < 1:
            raise OptionError("limit", f"must be at least 1, got {self.limit}")
        if self.distill and not self.finetune:
            raise OptionError("distill", "needs a number of epochs (finetune)")

    @property
    def label(self) -> str:
        """What distinguishes the folder of the pruned run from that of the run."""
        if self.max_loss is not None or (self.method == AUTO and self._no_amount):
            amount = f"loss{DEFAULT_MAX_LOSS if self.max_loss is None else self.max_loss:g}"
        elif self.states is not None:
            amount = f"states{self.states}"
        else:
            amount = f"{100 * (DEFAULT_RATIO if self.ratio is None else self.ratio):g}"
        parts, calibration, default = [self.method, amount], self._calibration, CalibrationOptions()
        if self.needs_calibration:
            sequences, budget = calibration.sequences, calibration.budget
            parts += [f"{sequences}seq"] if sequences != default.sequences else []
            parts += [f"{budget}-budget"] if budget != default.budget else []
        parts += ["dense-feedthrough"] if calibration.dense_feedthrough else []
        parts += [f"reconstructed{calibration.reconstruct}"] if calibration.reconstruct else []
        parts += ["recalibrated"] if self.recalibrate_batch_norm else []
        if self.finetune:
            parts.append(f"{'distilled' if self.distill else 'tuned'}{self.finetune}")
            usual = self.finetune_rate == type(self).finetune_rate
            parts += [] if usual else [f"rate{self.finetune_rate:g}"]
        uses_key = self.method in METHODS and METHODS[self.method].uses_key
        seeded = uses_key or (self.needs_calibration and self.seed != 0)
        parts += [f"seed{self.seed}"] if seeded else []
        return "-".join(parts)

    @property
    def needs_calibration(self) -> bool:
        """Whether calibration data are used."""
        methods = AUTO_METHODS if self.method == AUTO else (self.method,)
        return (
            self.recalibrate_batch_norm
            or self._calibration.reconstruct > 0
            or any(METHODS[name].needs_calibration for name in (*methods, *self.compare_with))
        )

    def only_truncates(self, method: str) -> bool:
        """Whether no parameter is fitted after states are removed or balanced.

        Worst-case bounds of the layers then say something. A refit gives up frequencies that the
        data do not have.
        """
        fitted = METHODS[method].refit or self._calibration.reconstruct or self.finetune
        return not fitted

    @property
    def chooses_calibration(self) -> bool:
        """Whether the default calibration depends on the network, as for one run of `calibrated`.

        A search by `max_loss` would reconstruct many networks.
        """
        calibrated = self.method in METHODS and METHODS[self.method].uses_budget
        return calibrated and self.max_loss is None

    def calibration_for(self, model: Network, length: int) -> CalibrationOptions:
        """The calibration of a network: the given one, or the default.

        Args:
            model: the network to prune.
            length: number of steps per sequence.
        """
        if self.calibration is None and self.chooses_calibration:
            return default_calibration(model, length)
        return self._calibration

    @property
    def _calibration(self) -> CalibrationOptions:
        return CalibrationOptions() if self.calibration is None else self.calibration

    @property
    def _no_amount(self) -> bool:
        return self.ratio is None and self.states is None and self.max_loss is None
