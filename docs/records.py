"""Tables and pictures of the documentation, made from the records in ``results/`` alone.

``python -m docs.records`` writes them: the full table of each record beside it, and what the pages
show in ``docs/made/``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import loader, ogb_loop, readouts, scale
from benchmarks.records import read
from benchmarks.report import report as report_benchmark
from docs.pictures import figures, svg
from docs.tables import folders, pages
from experiments.common import write_text
from experiments.molpcba.summary import summarise as summarise_runs
from experiments.studies.records import Records
from experiments.studies.report import markdown

TRAINER = {
    "loader": loader,
    "ogb-loop": ogb_loop,
    "scale": scale,
    "readouts": readouts,
    "heads": readouts,
}


def main() -> None:
    """Writes all tables and pictures."""
    for path, make in (full_tables() | pages()).items():
        write_text(path, make())
    for path, draw in figures().items():
        write_text(path, svg(draw))


def full_tables() -> dict[Path, Callable[[], str]]:
    """What makes the table of each record, by the file it is kept in."""
    tables: dict[Path, Callable[[], str]] = {}
    for folder in [*folders("ablations/*"), *folders("median*"), *folders("counting*")]:
        tables[folder / "table.md"] = lambda folder=folder: markdown(Records(folder))
    for folder in folders("molpcba/*"):
        tables[folder / "summary.md"] = lambda folder=folder: _summary(folder)
    for folder in folders("benchmarks/*"):
        tables[folder / "table.txt"] = lambda folder=folder: report_benchmark(read(folder))
    for folder in folders("trainer/*"):
        module = TRAINER[folder.name.partition("-on-")[0]]
        tables[folder / "table.txt"] = lambda folder=folder, module=module: module.report(folder)
    return {path: lambda make=make: make().rstrip() + "\n" for path, make in tables.items()}


def _summary(folder: Path) -> str:
    runs = sorted(path.parent for path in folder.glob("*/results.json"))
    with tempfile.TemporaryDirectory() as place:
        summarise_runs(runs, Path(place))
        return (Path(place) / "summary.md").read_text()


if __name__ == "__main__":
    main()
