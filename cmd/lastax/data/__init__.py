"""`lastax data`: list, fetch, generate, check and draw data sets."""

import click

from lastax.cmd._lazy import LazyGroup

MEMBERS = {
    "list": ("lastax.cmd.data._list:list_data", "List the data sets and how to get them."),
    "fetch": ("lastax.cmd.data._fetch:fetch", "Download, verify and unpack the data of a task."),
    "make": ("lastax.cmd.data._make:make", "Generate the data of a task."),
    "check": ("lastax.cmd.data._check:check", "Read all records of a task and report problems."),
    "show": ("lastax.cmd.data._show:show", "Draw records of a task and the shares of the classes."),
}


@click.group(cls=LazyGroup, members=MEMBERS)
def data() -> None:
    """List, fetch, generate, check and draw data sets."""
