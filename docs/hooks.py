"""MkDocs hooks: pages that are generated from the code, and a check of the API reference."""

import html
import importlib
from pathlib import Path

import click
from mkdocs.exceptions import PluginError

import lastax

PACKAGES = (
    *("ssm", "analysis", "nn", "surgery", "calibration", "pruning"),
    *("serialization", "training", "experiments", "interop", "deployment", "plots", "data"),
)


def on_page_markdown(markdown, **_):
    """Fill in the generated parts of a page."""
    for marker, generate in GENERATED.items():
        if marker in markdown:
            markdown = markdown.replace(marker, generate())
    return markdown


def on_post_build(config, **_):
    """Fail if a public name has no entry on the page of its package."""
    missing = []
    for package in PACKAGES:
        page = (Path(config.site_dir) / "api" / f"{package}.html").read_text()
        names = importlib.import_module(f"lastax.{package}").__all__
        missing += [
            f"lastax.{package}.{name}"
            for name in names
            if f'id="lastax.{package}.{name}"' not in page
        ]
    if missing:
        raise PluginError(f"not in the API reference: {', '.join(missing)}")


def top_level_names() -> str:
    """A table of `lastax.__all__`, with a link to the entry in the page of the package."""
    rows = ["| name | |", "|---|---|"]
    for name in sorted(lastax.__all__, key=str.lower):
        package = home(name)
        link = f"[`lastax.{name}`][lastax.{package}.{name}]"
        rows.append(f"| {link} | {summary(getattr(lastax, name))} |")
    return "\n".join(rows)


def home(name: str) -> str:
    """The package that exports a name of the top level."""
    return next(
        package
        for package in PACKAGES
        if name in importlib.import_module(f"lastax.{package}").__all__
    )


def summary(value: object) -> str:
    """The first line of the docstring of a class or function."""
    if not (isinstance(value, type) or callable(value)):
        return ""
    text = (value.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|")


def command_line() -> str:
    """The help text of the program and of each command."""
    from lastax.cmd.main import cli

    return "\n".join(help_of(cli, "lastax", None))


def help_of(command: click.Command, name: str, parent: click.Context | None) -> list[str]:
    """The help text of a command, then those of its subcommands."""
    settings = {"max_content_width": 80, "terminal_width": 80, "show_default": True}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    lines = [
        f"## {context.command_path}",
        "",
        f'<pre class="help">{html.escape(command.get_help(context))}</pre>',
        "",
    ]
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            lines += help_of(command.get_command(context, child), child, context)
    return lines


GENERATED = {
    "<!-- top-level names -->": top_level_names,
    "<!-- command line -->": command_line,
}
