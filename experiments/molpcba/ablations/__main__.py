"""``python -m experiments.molpcba.ablations STUDY``: see ``--help``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.molpcba.ablations import figures, tables
from experiments.molpcba.ablations.grid import Grid
from experiments.molpcba.ablations.records import Records
from experiments.molpcba.ablations.study import Study, names
from experiments.molpcba.data import DataError
from experiments.molpcba.errors import Interrupted, UserError
from experiments.molpcba.runs import write_text

DESCRIPTION = """
A study is a grid of runs, configs/ablations/STUDY.yaml. A seed decides split, weights and order, so
that differences between rows are paired. Interrupted, the same command goes on where it stopped.
Besides the flags below, any of python -m experiments.molpcba is taken and wins over the study's
base: --csv, --data-name, --split, --root, --epochs, ... (default: --data embedded --split random).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 when a run failed, 2 for a user's mistake."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words.pop(0) if words and not words[0].startswith("-") else None
    arguments, flags = build_parser().parse_known_args(words)
    try:
        if arguments.report is not None:
            print(report(arguments.report))
            return 0
        if name not in names():
            raise UserError(f"the first word must be a study, one of {', '.join(names())}")
        records = run_study(Study.read(name), arguments, flags)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted):
        print("stopped: the same command goes on", file=sys.stderr)
        return 128 + signal.SIGINT
    for failure in records.failures.itertuples():
        print(f"failed: {failure.row}, seed {failure.seed}: {failure.message}", file=sys.stderr)
    return 1 if len(records.failures) else 0


def build_parser() -> argparse.ArgumentParser:
    """The flags of a study."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.molpcba.ablations",
        usage=f"%(prog)s {{{','.join(names())}}} [FLAGS], or %(prog)s --report DIR",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row (default: 3)")
    parser.add_argument("--rows", "--only", nargs="+", metavar="ROW", help="only these")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/ablations"))
    parser.add_argument(
        "--out", type=Path, help="records (default: results/ablations/STUDY-on-DATA)"
    )
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="make table and pictures of the records in DIR"
    )
    return parser


def run_study(study: Study, arguments: argparse.Namespace, flags: list[str]) -> Records:
    """Makes what is missing, records it, and reports."""
    rows = arguments.rows or list(study.rows)
    unknown = [row for row in rows if row not in study.rows]
    if unknown:
        raise UserError(f"--rows {' '.join(unknown)}: expected some of {' '.join(study.rows)}")
    if min(arguments.seeds, arguments.jobs) < 1:
        raise UserError("--seeds and --jobs must be 1 or more")
    if not {word.partition("=")[0] for word in flags} & {"--csv", "--data"}:
        flags = ["--data", "embedded", "--split", "random", *flags]
    grid = Grid.on(study, flags, arguments.runs_dir)
    default = Path("results", "ablations", f"{study.name}-on-{grid.data.name}")
    records = Records.read(arguments.out or default)
    grid.check_tuning(records)
    grid.tuned(records).check(records)
    grid = grid.tune(rows, arguments.jobs, records)
    grid.make(rows, arguments.seeds, arguments.jobs, records)
    if len(records.runs):
        print("\n" + report(records.folder))
    return records


def report(folder: Path) -> str:
    """Makes ``table.md``, ``outcome.png`` and ``learning.png`` of the records in ``folder``, and of
    nothing else; returns the table.
    """
    records = Records.read(folder)
    records.check_one_study()
    text = tables.markdown(records)
    write_text(folder / "table.md", text)
    figures.outcome(records).savefig(folder / "outcome.png", dpi=130)
    figures.learning(records).savefig(folder / "learning.png", dpi=130)
    return text


if __name__ == "__main__":
    sys.exit(main())
