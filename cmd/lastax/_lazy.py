"""Groups of commands that are loaded when they run."""

import importlib
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """A group that lists its commands without loading them, since most of them load JAX."""

    def __init__(
        self, *arguments: Any, members: Mapping[str, tuple[str, str]], **settings: Any
    ) -> None:
        """A group of `members`: for each name of a command its "module:function" and summary."""
        super().__init__(*arguments, **settings)
        self._members = members

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of `members`."""
        return list(self._members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, loaded now."""
        if cmd_name not in self._members:
            return None
        module, _, function = self._members[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), function)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in the help text, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._members.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete options and names of commands, without loading the commands."""
        names = [
            CompletionItem(name, help=summary)
            for name, (_, summary) in self._members.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]
