"""`lastax import`."""

from pathlib import Path
from typing import Any

import click

from lastax.cmd._console import emit, out, percent
from lastax.cmd._flags import SectionedCommand, setting_names, setting_options
from lastax.cmd._foreign import foreign_options, import_checkpoint
from lastax.cmd._options import debug_option, json_option, limit_option, root_option
from lastax.interop import ImportOptions
from lastax.training import DataConfig

SECTIONS = {
    "What to import": ("task", "file_format", "prefix"),
    "Settings that the file does not contain": setting_names(ImportOptions),
    "Data": ("root", *setting_names(DataConfig)),
    "Output": (),  # all others
}


@click.command("import", cls=SectionedCommand, sections=SECTIONS)
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the run.  [default: runs/TASK/NAME of the file]",
)
@limit_option
@foreign_options
@root_option
@json_option
@debug_option
@setting_options(ImportOptions, DataConfig)
def import_(
    file: Path,
    folder: Path | None,
    limit: int | None,
    task: str | None,
    file_format: str | None,
    prefix: str | None,
    root: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write the network of FILE, trained by other people's code, as a run.

    FILE is a checkpoint of torch, Flax, Equinox or Orbax, a safetensors file, an npz file or a
    pickle of arrays. Nothing in it is executed. The command prints the accuracy of the network,
    which shows whether the settings fit. All commands accept the run like a trained one.
    """
    chosen = {name: value for name, value in settings.items() if value is not None}
    options = {name: chosen.pop(name) for name in setting_names(ImportOptions) if name in chosen}
    run = import_checkpoint(
        file,
        folder,
        task=task,
        file_format=file_format,
        prefix=prefix,
        root=root,
        limit=limit,
        data=chosen,
        options=options,
    )
    if as_json:
        emit(run.results)
        return
    for split in ("validation", "test"):
        reached = run.results[split]
        out.print(
            f"{split}: accuracy {percent(reached['accuracy'])}, loss {reached['loss']:.4f}, "
            f"{reached['examples']} examples"
        )
    out.print(f"run: {run.folder}")
