"""Tables and pictures of the documentation, made from the records in ``results/`` alone.

``python -m docs.records`` writes them: the full table of each record beside it, and what the pages
show in ``docs/made/``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks import loader, ogb_loop, readouts, scale
from benchmarks.gpu.report import report as report_gpu
from benchmarks.records import read
from benchmarks.report import report as report_benchmark
from docs import claims
from docs.pictures import figures, svg
from docs.tables import folders, pages
from experiments.common import write_text
from experiments.records import Records
from experiments.report import markdown

TRAINER = {
    "loader": loader,
    "ogb-loop": ogb_loop,
    "scale": scale,
    "readouts": readouts,
    "heads": readouts,
}


def main() -> None:
    """Writes all tables and pictures."""
    for path, make in (full_tables() | pages() | claims.pages()).items():
        write_text(path, make())
    for path, draw in figures().items():
        write_text(path, svg(draw))


def full_tables() -> dict[Path, Callable[[], str]]:
    """What makes the table of each record, by the file it is kept in."""
    tables: dict[Path, Callable[[], str]] = {}
    for pattern in ("ablations/*", "median*", "counting*", "nodes*", "molpcba/*"):
        for folder in folders(pattern):
            tables[folder / "table.md"] = lambda folder=folder: markdown(Records(folder))
    for folder in folders("benchmarks/*"):
        tables[folder / "table.txt"] = lambda folder=folder: report_benchmark(read(folder))
    for folder in folders("gpu/*"):
        tables[folder / "report.md"] = lambda folder=folder: report_gpu(folder)
    for folder in folders("trainer/*"):
        module = TRAINER[folder.name.partition("-on-")[0]]
        tables[folder / "table.txt"] = lambda folder=folder, module=module: module.report(folder)
    return {path: lambda make=make: make().rstrip() + "\n" for path, make in tables.items()}


if __name__ == "__main__":
    main()
