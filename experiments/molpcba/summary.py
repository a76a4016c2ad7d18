"""``python -m experiments.molpcba.summary runs``: runs side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.common import DROPPED, UserError, command, owned
from experiments.metrics import LOWER_IS_BETTER
from experiments.molpcba.folder import FREE, RunFolder
from experiments.records import Records, Run, check_equal
from experiments.report import report

NO_SETTING = FREE | DROPPED | {"seed", "preset"}
"""What runs of a row may differ in."""


def summarise(paths: Sequence[Path], out: Path) -> str:
    """Writes records of the finished runs into ``out``, with table and pictures; returns the table.

    ``paths`` are run folders, or folders of them. A row is a folder's name without data and seed;
    the best comes first. Records of an earlier summary in ``out`` are replaced.
    """
    patterns = "results.json", "*/results.json"
    found = [own.parent for path in paths for one in patterns for own in sorted(path.glob(one))]
    folders = {path.resolve(): RunFolder(path) for path in found}
    if not folders:
        raise UserError("no finished run there; expected runs/NAME folders, or a folder of them")
    with owned(out, "--out"):
        records = Records(out)
        records.check_same({"study": "summary"})
        records.runs, records.curves = records.runs[:0], records.curves[:0]
        for path, folder in folders.items():
            try:
                config, made = folder.read_results()["config"], folder.outcome()
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} is not a whole run ({error!r}): leave it out") from error
            same = {key: made.record[key] for key in ("data", "split", "fingerprint")}
            records.check_same(same, f"{path} and the others in ")
            seed = config["seed"]
            row = path.name.removeprefix(f"{same['data']}-").removesuffix(f"-seed{seed}")
            run = Run(row, seed, {k: v for k, v in config.items() if k not in NO_SETTING}, row)
            if len(records.find(run)):
                raise UserError(f"{path}: row {row} has another run with seed {seed}: rename one")
            for other in records.runs.loc[records.runs["row"] == row, "config"]:
                check_equal(f"{folder.path}, row {row}", run.settings, json.loads(other))
            records.add("summary", run, made)
        means = records.runs.groupby("row")["test"].mean()
        is_lower_better = records.runs["metric"].iloc[0] in LOWER_IS_BETTER
        records.write(list(means.sort_values(ascending=is_lower_better).index))
        return report(out)


@command
def main(argv: Sequence[str]) -> None:
    """Summarises run folders."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.molpcba.summary",
        description="Compare finished runs: a table, two pictures, and records.",
    )
    add, out = parser.add_argument, "where to write (default: %(default)s)"
    add("runs", nargs="+", type=Path, help="run folders, or a folder of them")
    add("--out", type=Path, default=Path("runs/summary"), help=out)
    given = parser.parse_args(argv)
    print(summarise(given.runs, given.out))


if __name__ == "__main__":
    sys.exit(main())
