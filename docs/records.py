"""Makes the tables and pictures of the documentation: ``python -m docs.records``.

The full table of each record in ``results/`` is written beside it, and what the pages show to
``docs/made/``. All come from the records alone, except the picture of the idea, which the library
makes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import loader, ogb_loop, readouts, scale
from benchmarks.gpu.report import report as report_gpu
from benchmarks.records import read
from benchmarks.report import report as report_benchmark
from docs import claims
from docs.common import MADE, folders
from docs.idea import idea
from docs.pictures import figures, svg
from docs.tables import pages
from experiments.common import write_text
from experiments.records import Records
from experiments.report import markdown

TRAINER = {
    "loader": loader,
    "ogb-loop": ogb_loop,
    "scale": scale,
    "protocol": readouts,
}


def main() -> None:
    """Writes all tables and pictures."""
    for path, make in (full_tables() | pages() | claims.pages()).items():
        write_text(path, make())
    for path, draw in (figures() | {MADE / "idea.svg": idea}).items():
        write_text(path, svg(draw))


def full_tables() -> dict[Path, Callable[[], str]]:
    """Returns the function that makes the table of each record, by the file it is kept in."""
    tables: dict[Path, Callable[[], str]] = {}
    for pattern in ("ablations/*", "median*", "counting*", "nodes*", "molpcba/*"):
        for folder in folders(pattern):
            tables[folder / "table.md"] = partial(_study, folder)
    for folder in folders("benchmarks/*"):
        tables[folder / "table.txt"] = partial(_benchmark, folder)
    for folder in folders("gpu/*"):
        tables[folder / "report.md"] = partial(report_gpu, folder)
    for folder in folders("trainer/*"):
        module = TRAINER[folder.name.partition("-on-")[0]]
        tables[folder / "table.txt"] = partial(module.report, folder)
    return {path: partial(_with_end, make) for path, make in tables.items()}


def _study(folder: Path) -> str:
    return markdown(Records(folder))


def _benchmark(folder: Path) -> str:
    return report_benchmark(read(folder))


def _with_end(make: Callable[[], str]) -> str:
    """Returns the table with one line break at its end."""
    return make().rstrip() + "\n"


if __name__ == "__main__":
    main()
