"""`lastax data`: list, fetch, generate, check and draw data sets."""

import click

from lastax.cmd.data._check import check
from lastax.cmd.data._fetch import fetch
from lastax.cmd.data._list import list_data
from lastax.cmd.data._make import make
from lastax.cmd.data._show import show


@click.group()
def data() -> None:
    """List, fetch, generate, check and draw data sets."""


for _command in (list_data, fetch, make, check, show):
    data.add_command(_command)
