"""Parts of a self-contained HTML page: headings, numbers, tables and figures.

The page loads no other files and has no scripts. Its layout suits phones, desktops and print, and
follows the light or dark theme of the browser.
"""

import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --faint: #667; --line: #d9dce3; --page: #fff;
  --mark: #2f6f9f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6eb; --faint: #9aa3b2; --line: #343a46;
  --page: #14171d; --mark: #7db4e0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem; }
p.lead { color: var(--faint); margin: 0 0 1.4rem; }
dl.numbers { display: flex; flex-wrap: wrap; gap: 1rem 2.2rem; margin: 0 0 1rem; }
dl.numbers div { min-width: 6rem; }
dl.numbers dt { color: var(--faint); font-size: .85rem; }
dl.numbers dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
figure, p, pre { max-width: 46rem; }
figure { margin: 1rem 0 1.6rem; }
figure svg { display: block; width: 100%; height: auto; color: var(--ink); }
svg text { fill: currentColor; font-family: system-ui, sans-serif; }
figcaption, p.caption { color: var(--faint); font-size: .88rem; margin: .3rem 0 1.4rem; }
div.wide { overflow-x: auto; margin: .8rem 0 .6rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .8rem .28rem 0; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { font-weight: 600; white-space: normal; vertical-align: bottom;
  border-bottom: 1px solid var(--line); }
tbody tr + tr td { border-top: 1px solid var(--line); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .7rem .9rem;
  border: 1px solid var(--line); border-radius: 6px;
  font: .85rem/1.5 ui-monospace, Consolas, monospace; }
@media (min-width: 80rem) { main { max-width: 104rem; padding: 2rem 3rem 4rem; }
  div.sections { columns: 2; column-gap: 4rem; }
  figure, table, dl, pre, section p { break-inside: avoid; } h2 { break-after: avoid; }
  h2 { margin-top: 0; padding-top: 1.8rem; } }
@media print { div.sections { columns: auto; }
  :root { --ink: #000; --page: #fff; --line: #bbb; --faint: #444; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; }
  figure, tr { break-inside: avoid; max-width: none; } div.wide { overflow: visible; }
  table { font-size: 8pt; } th, td { white-space: normal; padding-right: .5rem; } }
"""
_HEADING = "<h2>"


def html_page(title: str, lead: str, parts: Iterable[str]) -> str:
    """A complete page.

    Args:
        title: title and heading; plain text.
        lead: a line below the heading; plain text.
        parts: sections as HTML, made by the other functions of this module.
    """
    before, sections = _sections(_with_unique_ids(part, index) for index, part in enumerate(parts))
    below = "\n".join(f"<section>\n{section}\n</section>" for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Without an icon, browsers request one from the server.
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="lead">{html.escape(lead)}</p>\n'
        f'{before}\n<div class="sections">\n{below}\n</div>\n'
        "</main>\n</body>\n</html>\n"
    )


def html_heading(text: str) -> str:
    """The heading of a section, which ends at the next heading."""
    return f"{_HEADING}{html.escape(text)}</h2>"


def html_text(text: str) -> str:
    """A paragraph."""
    return f"<p>{html.escape(text)}</p>"


def html_numbers(numbers: Mapping[str, str]) -> str:
    """A few large numbers with their names; names and values are plain text."""
    parts = (
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in numbers.items()
    )
    return f'<dl class="numbers">{"".join(parts)}</dl>'


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table with a caption; it scrolls horizontally if it is wider than the page."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    below = f'<p class="caption">{html.escape(caption)}</p>' if caption else ""
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{below}"
    )


def html_code(text: str) -> str:
    """A block of preformatted text."""
    return f"<pre>{html.escape(text)}</pre>"


def html_figure(figure: Figure, caption: str, alternative: str) -> str:
    """A figure as inline SVG, in the colors and the width of the page.

    Args:
        figure: the figure.
        caption: the text below it.
        alternative: what the figure shows, for readers who do not see it; plain text.
    """
    target = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": caption}):
        figure.savefig(
            target,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    drawing = target.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r' (width|height)="[\d.]+pt"', "", drawing, count=2)
    drawing = drawing.replace("#000000", "currentColor")
    label = html.escape(alternative)
    drawing = drawing.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return f"<figure>{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _sections(parts: Iterable[str]) -> tuple[str, list[str]]:
    """The parts before the first heading, and those of each section."""
    groups: list[list[str]] = [[]]
    for part in parts:
        if part.startswith(_HEADING):
            groups.append([])
        groups[-1].append(part)
    before, *sections = ("\n".join(group) for group in groups)
    return before, sections


def _with_unique_ids(part: str, index: int) -> str:
    """Prefix the ids inside a figure, so that two figures of a page share none."""
    if not part.startswith("<figure>"):
        return part
    prefix = f"f{index}-"
    part = part.replace(' id="', f' id="{prefix}').replace("url(#", f"url(#{prefix}")
    return part.replace('href="#', f'href="#{prefix}')
