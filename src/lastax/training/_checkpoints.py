"""Checkpoints of a training run, through Orbax: arrays, and progress as JSON."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from lastax._errors import MissingPackageError, RunError
from lastax._typing import Record
from lastax.serialization._arrays import named_arrays, with_named_arrays


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Delay SIGINT until the block ends.

    Orbax writes with threads and an event loop. An interrupt in the middle would leave partial
    files behind, and messages on the terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Signals interrupt only the main thread.
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        for number in held[:1]:
            signal.raise_signal(number)


class Checkpoints:
    """The two newest checkpoints of a run. A checkpoint is written completely or not at all.

    A context manager: leaving it waits for pending writes, and so does SIGINT.
    """

    def __init__(self, folder: Path) -> None:
        """Open the checkpoints in `folder`, which is created if it does not exist."""
        try:
            import orbax.checkpoint as orbax
        except ModuleNotFoundError as error:
            raise MissingPackageError("training with checkpoints", error) from error
        self.folder = folder
        self._args = orbax.args
        options = orbax.CheckpointManagerOptions(
            max_to_keep=2,
            enable_async_checkpointing=False,
            # What a process left behind that was killed while it wrote a checkpoint.
            cleanup_tmp_directories=True,
        )
        with _interrupts_held():
            self._manager = orbax.CheckpointManager(folder.resolve(), options=options)

    def __enter__(self) -> "Checkpoints":
        """Return the open checkpoints."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the manager's files."""
        with _interrupts_held():
            self._manager.close()

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, tree: Any, progress: Record) -> None:
        """Write the arrays of `tree`, and the progress as JSON, as one checkpoint."""
        with _interrupts_held():
            self._manager.save(
                step,
                args=self._args.Composite(
                    arrays=self._args.StandardSave(named_arrays(tree)),
                    progress=self._args.JsonSave(progress),
                ),
            )

    def progress(self) -> Record:
        """The progress of the newest checkpoint alone.

        Raises:
            RunError: if there is none, or if it cannot be read.
        """
        with self._reading() as read:
            return read(progress=self._args.JsonRestore())["progress"]

    def restore(self, like: Any) -> tuple[Any, Record]:
        """The arrays of the newest checkpoint in the structure of `like`, and its progress.

        Raises:
            RunError: if there is none, or if it cannot be read or belongs to another model.
        """
        with self._reading() as read:
            restored = read(
                arrays=self._args.StandardRestore(named_arrays(like)),
                progress=self._args.JsonRestore(),
            )
            return with_named_arrays(like, restored["arrays"]), restored["progress"]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Callable[..., Any]]:
        """A function that reads items of the newest checkpoint."""
        step = self.latest_step()
        if step is None:
            raise RunError(f"no checkpoint in {self.folder}: start the run again")
        try:
            with _interrupts_held():
                yield lambda **items: self._manager.restore(
                    step, args=self._args.Composite(**items)
                )
        # Orbax and its dependencies raise a dozen types of errors for damaged files.
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(
                f"checkpoint {self.folder / str(step)} cannot be read ({reason}): "
                "remove that folder to resume from the checkpoint before it"
            ) from error
