"""``python -m experiments.molpcba``: see ``--help``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.molpcba.cli import parse
from experiments.molpcba.config import Config
from experiments.molpcba.data import DataError
from experiments.molpcba.errors import Interrupted, UserError
from experiments.molpcba.run import run
from experiments.molpcba.runs import RunFolder
from experiments.molpcba.seeds import run_seeds


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a user's mistake, 128 + signal."""
    try:
        config = configuration(sys.argv[1:] if argv is None else argv)
        if config.seeds > 1:
            run_seeds(config)
        else:
            run(config)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"stopped by {error}: --resume goes on from the last complete epoch", file=sys.stderr)
        return 128 + signal.Signals[str(error)].value
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def configuration(argv: Sequence[str]) -> Config:
    """The settings; with ``--resume --name NAME`` those of the run are the defaults."""
    config = parse(argv)
    if config.resume and config.name is not None and config.seeds == 1:
        saved = RunFolder(Path(config.runs_dir) / config.name).read_config()
        config = parse(argv, saved | {"runs_dir": config.runs_dir})
    return config


if __name__ == "__main__":
    sys.exit(main())
