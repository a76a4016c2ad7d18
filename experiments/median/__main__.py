"""``python -m experiments.median``: see ``--help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from experiments.median.config import Config, UserError
from experiments.median.study import report, run_study

DESCRIPTION = """Median estimation (appendix D.1): EA against other aggregators.

Tunes the learning rate of each, trains each on several seeds, writes records, a figure and a
table. Interrupted, it goes on where it stopped: call it again.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, or 2 for a user's mistake."""
    try:
        config, only_report = parse(sys.argv[1:] if argv is None else argv)
        print(report(Path(config.results)) if only_report else run_study(config))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: call it again to go on with the next run", file=sys.stderr)
        return 130
    return 0


def parse(argv: Sequence[str]) -> tuple[Config, bool]:
    """The settings that ``argv`` describes, and whether only the report is wanted.

    Raises:
        UserError: for anything that is not a flag, key or value of the command.
    """
    parser = ArgumentParser(
        prog="python -m experiments.median", description=DESCRIPTION, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file with settings")
    parser.add_argument(
        "--report", action="store_true", help="remake table and figure from the records, no runs"
    )
    parser.add_class_arguments(Config)
    try:
        values = parser.parse_args(list(argv)).as_dict()
    except (ArgumentError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(" ".join(lines)) from error
    only_report = values.pop("report")
    del values["config"]
    return Config(**values), only_report


if __name__ == "__main__":
    sys.exit(main())
