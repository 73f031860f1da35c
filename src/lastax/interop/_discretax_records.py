"""Names for the records of an Equinox file of discretax, which has none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lastax._errors import RunError

_S5 = ("Lambda_re", "Lambda_im", "B", "C", "D", "log_step", "in_features", "P")
_LRU = ("nu_log", "theta_log", "B_re", "B_im", "C_re", "C_im", "D", "gamma_log")
_S4D = (
    *("in_features", "state_dim", "transposed"),
    *("kernel.C", "kernel.log_dt", "kernel.log_a_real", "kernel.A_imag"),
)
# The shape of each record of a mixer: P states, H channels, N states per channel.
_SHAPES: dict[tuple[str, ...], tuple[str, ...]] = {
    _S5: ("P", "P", "PH2", "HP2", "H", "P1", "", ""),
    _LRU: ("P", "P", "PH", "PH", "HP", "HP", "H", "P"),
    _S4D: ("", "", "", "HN", "H", "HN", "HN"),
}


def discretax_names(records: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The records of `equinox.tree_serialise_leaves` under the names of the fields in discretax.

    Args:
        records: all records of a file with one sequence mixer (S5, S4D or LRU), or with a
            `Sequential` of encoder, blocks and classification head, with or without its state.

    Raises:
        RunError: if the records are in another order.
    """
    cursor = _Cursor(records)
    mixer = cursor.mixer("")
    if mixer is not None:
        if not cursor.done():
            raise cursor.unknown("a record after a single sequence mixer")
        return mixer
    named = cursor.network()
    if not cursor.done():
        raise cursor.unknown("a record after the end of a model")
    return named


class _Cursor:
    """Reads records one after the other."""

    def __init__(self, records: Sequence[np.ndarray]) -> None:
        self.records, self.position = records, 0

    def done(self) -> bool:
        return self.position >= len(self.records)

    def unknown(self, expected: str) -> RunError:
        found = "the end" if self.done() else str(self.records[self.position].shape)
        return RunError(
            f"record {self.position} is not that of a known discretax model (expected {expected}, "
            f"found {found}); in Python, pass template= to lastax.interop.read: the model "
            "that was saved, or one of its structure"
        )

    def next(self, dimensions: int, kinds: str = "f") -> np.ndarray | None:
        """The next record, if its number of axes and its dtype are as expected."""
        if self.done():
            return None
        record = self.records[self.position]
        if record.ndim != dimensions or record.dtype.kind not in kinds:
            return None
        self.position += 1
        return record

    def need(self, dimensions: int, expected: str, kinds: str = "f") -> np.ndarray:
        record = self.next(dimensions, kinds)
        if record is None:
            raise self.unknown(expected)
        return record

    def mixer(self, start: str) -> dict[str, np.ndarray] | None:
        for names, shapes in _SHAPES.items():
            part = self.records[self.position : self.position + len(names)]
            sizes = {"1": 1, "2": 2}
            if len(part) == len(names) and all(
                record.ndim == len(axes)
                and all(
                    sizes.setdefault(axis, n) == n
                    for axis, n in zip(axes, record.shape, strict=True)
                )
                for record, axes in zip(part, shapes, strict=True)
            ):
                self.position += len(names)
                return {start + name: record for name, record in zip(names, part, strict=True)}
        return None

    def network(self) -> dict[str, np.ndarray]:
        embedding = self.need(2, "the weight of the encoder")
        bias = self.next(1)
        blocks: dict[str, np.ndarray] = {}
        count = channels = 0
        while (inference := self.next(0, "b")) is not None:
            start = f"layers.1.blocks.{count}."
            mixer = self.mixer(start + "sequence_mixer.")
            if mixer is None:
                raise self.unknown("an S5, S4D or LRU mixer")
            channels = len(next(a for n, a in mixer.items() if n.endswith((".D", ".log_dt"))))
            blocks |= {start + "norm.inference": inference} | mixer
            blocks |= self._channel_mixer(start + "channel_mixer.")
            blocks[start + "drop.p"] = self.need(0, "a dropout rate", "fi")
            blocks[start + "drop.inference"] = self.need(0, "a boolean", "b")
            blocks[start + "prenorm"] = self.need(0, "a boolean", "b")
            count += 1
        if not count:
            raise self.unknown("a block")
        tokens = embedding.shape[0] != channels and embedding.shape[1] == channels
        name = "embedding" if tokens else "linear"
        named = {f"layers.0.{name}.weight": embedding}
        if bias is not None:
            named[f"layers.0.{name}.bias"] = bias
        named |= blocks
        named["layers.2.linear.weight"] = self.need(2, "the weight of the head")
        head_bias = self.next(1)
        if head_bias is not None:
            named["layers.2.linear.bias"] = head_bias
        named["layers.2.reduce"] = self.need(0, "a boolean", "b")
        return named | self._state(count)

    def _channel_mixer(self, start: str) -> dict[str, np.ndarray]:
        named = {}
        number = 1
        while (weight := self.next(2)) is not None:
            named[f"{start}w{number}.weight"] = weight
            bias = self.next(1)
            if bias is not None:
                named[f"{start}w{number}.bias"] = bias
            number += 1
        return named

    def _state(self, blocks: int) -> dict[str, np.ndarray]:
        named = {}
        for number in range(0 if self.done() else blocks):
            start = f"layers.1.blocks.{number}.norm."
            named[start + "first_time"] = self.need(0, "the state of a norm", "b")
            named[start + "mean"] = self.need(1, "a running mean")
            named[start + "var"] = self.need(1, "a running variance")
        return named
