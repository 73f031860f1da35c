"""Draw the figures of the documentation from the tables of its pages, so that both agree.

    python docs/figures.py

writes `images/sweep.png` (docs/study.md and docs/refit.md), `images/study.png` (docs/study.md),
`images/speed.png` (docs/performance.md) and `images/device.png` (docs/device.md). The tables have
means over seeds and no ranges.
"""

import re
from pathlib import Path

from lastax.experiments import SweepCurves
from lastax.plots import draw_sizes, draw_speeds, draw_sweep

DOCS = Path(__file__).parent
METHODS = (
    *("random", "global-magnitude", "last", "last-finite-horizon", "aire", "empirical-energy"),
    "calibrated",
)
# Rows of docs/refit.md, which join the methods in `sweep.png`.
RECONSTRUCTED = {
    "LAST, reconstructed, 256 clips": "last, reconstructed",
    "calibrated, 256 clips, reconstructed": "calibrated, reconstructed",
}


def tables(page: str) -> list[tuple[str, list[list[str]]]]:
    """The tables of a page as rows of cells, each with the section that it is in."""
    found, section, inside = [], "", False
    for line in (DOCS / page).read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if line.startswith("|"):
            if not inside:
                found.append((section, []))
            found[-1][1].append([cell.strip(" `*") for cell in line.strip("|").split("|")])
        inside = line.startswith("|")
    return [(section, [rows[0], *rows[2:]]) for section, rows in found]


def numbers(text: str) -> list[float]:
    """All numbers of a cell."""
    return [float(number) for number in re.findall(r"\d*\.?\d+", text)]


def curves(rows: list[list[str]], name: str, ratios: list[float]) -> SweepCurves:
    """The rows of a table; `name` ends with the accuracy of the unpruned networks."""
    test = {
        method: {ratio: [float(cell) / 100] for ratio, cell in zip(ratios, cells, strict=True)}
        for method, *cells in rows
        if method in METHODS
    }
    missing = set(METHODS) - set(test)
    if missing:
        raise ValueError(f"{name}: no row of {', '.join(missing)}")
    ordered = {method: test[method] for method in METHODS}
    return SweepCurves([numbers(name)[-1] / 100], ordered, [], {}, {}, {})


def study_curves() -> dict[str, SweepCurves]:
    """The groups of docs/study.md by name, for example `speech, s5, bidirectional`."""
    groups = {}
    for section, (header, *rows) in tables("study.md"):
        if header[1:] and all(re.fullmatch(r"\d+ %", cell) for cell in header[1:]):
            name = f"{section}, {header[0]}" if header[0] else section
            ratios = [numbers(cell)[0] / 100 for cell in header[1:]]
            groups[name] = curves(rows, name, ratios)
    return {name.partition(" (")[0].lower(): group for name, group in groups.items()}


def sweep_curves() -> dict[str, SweepCurves]:
    """The group of bidirectional S5 layers, with block-wise reconstruction."""
    name = "speech, s5, bidirectional"
    group = study_curves()[name]
    test = {method: points for method, points in group.test.items() if method != "empirical-energy"}
    (header, *rows) = next(
        rows for section, rows in tables("refit.md") if section.lower().startswith(name)
    )
    for label, *cells in rows:
        if label in RECONSTRUCTED:
            # The number before the standard deviation.
            test[RECONSTRUCTED[label]] = {
                numbers(percent)[0] / 100: [numbers(cell)[0] / 100]
                for percent, cell in zip(header[1:], cells, strict=True)
            }
    return {name: SweepCurves(group.unpruned, test, [], {}, {}, {})}


def step_times() -> dict[str, dict[str, list[float]]]:
    """Times relative to the reference implementation, from the speedups of docs/performance.md.

    The spread of the table becomes five runs with its median and quartiles.
    """
    header, *rows = next(
        rows for section, rows in tables("performance.md") if section == "Networks"
    )
    speedup, milliseconds = header.index("speedup"), header.index("lastax, ms")
    times: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        operation, _, remat = row[1].partition(",")
        median, spread = 1 / float(row[speedup]), numbers(row[milliseconds])[1]
        low, high = (median * (1 + sign * spread / 200) for sign in (-1, 1))
        group = times.setdefault(f"{row[0]} {operation}", {"reference": [1.0]})
        group["lastax, remat" if remat else "lastax"] = [low, low, median, high, high]
    return times


def device_curves() -> dict[str, dict[float, list[float]]]:
    """Accuracies by kilobytes of flash, from docs/device.md, the unpruned networks included."""
    (header, *rows) = next(rows for _, rows in tables("device.md") if "flash, bytes" in rows[0])
    accuracy, flash = header.index("accuracy, %"), header.index("flash, bytes")
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for row in rows:
        _, method, weights, *_ = row
        if weights not in ("float32", "int8"):
            # Rounded activations change neither the flash nor, visibly, the accuracy.
            continue
        size = numbers(row[flash].replace(",", ""))[0] / 1000
        points = found.setdefault(weights, {}).setdefault(method, {})
        points[size] = [numbers(row[accuracy])[0] / 100]
    return {
        method if weights == "float32" else f"{method}, {weights}": methods[""] | points
        for weights, methods in found.items()
        for method, points in methods.items()
        if method
    }


def main() -> None:
    """Draw all figures."""
    title = "train-step: speedup over the reference implementation"
    figures = {
        "sweep": draw_sweep(sweep_curves()),
        "study": draw_sweep(study_curves()),
        "speed": draw_speeds(step_times(), "reference", title=title),
        "device": draw_sizes(device_curves(), xlabel="flash, kB"),
    }
    for name, figure in figures.items():
        figure.savefig(DOCS / "images" / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
