"""``python -m experiments.studies STUDY``: see ``--help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.common import UserError, command
from experiments.engine import run_study
from experiments.molpcba.config import parse
from experiments.molpcba.data import load
from experiments.molpcba.failures import explained
from experiments.studies.molpcba import Study, names

DESCRIPTION = """
A study is a grid of runs, configs/ablations/STUDY.yaml. A seed decides split, weights and order, so
that differences between rows are paired. Interrupted, the same command continues.
Besides the flags below, any of python -m experiments.molpcba is taken and wins over the study's
base: --csv, --data-name, --split, --root, --epochs, ... (default: --data embedded --split random).
"""


@command
def main(argv: Sequence[str]) -> int:
    """Makes the runs of a study; exit code 1 when a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("study", help=f"one of {', '.join(names())}")
    add("--seeds", type=int, default=3, help="runs of each row (default: 3)")
    add("--rows", nargs="+", metavar="ROW", help="only these")
    add("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    add("--tuning-epochs", type=int, metavar="N", help="of tries (default: the study's)")
    add("--out", type=Path, help="folder of all files (default: runs/studies/STUDY-on-DATA)")
    arguments, flags = parser.parse_known_args(argv)
    if arguments.study not in names():
        raise UserError(f"the first word must be a study, one of {', '.join(names())}")
    if min(arguments.seeds, arguments.jobs) < 1:
        raise UserError("--seeds and --jobs must be 1 or more")
    if not {word.partition("=")[0] for word in flags} & {"--csv", "--data"}:
        flags = ["--data", "embedded", "--split", "random", *flags]
    study, shared = Study.read(arguments.study), parse(flags)
    if arguments.tuning_epochs is not None:
        if study.tuning is None:
            raise UserError(f"--tuning-epochs: {study.name} tunes no setting: leave it out")
        others = study.tuning.others | {"epochs": arguments.tuning_epochs}
        study = replace(study, tuning=study.tuning._replace(others=others))
    with explained("the same command continues"):
        data = load(replace(shared, split_seed=shared.seed))
        return run_study(
            study.grid(flags, data),
            arguments.rows or list(study.rows),
            range(shared.seed, shared.seed + arguments.seeds),
            arguments.out or Path("runs", "studies", f"{study.name}-on-{data.name}"),
            arguments.jobs,
        )


if __name__ == "__main__":
    sys.exit(main())
