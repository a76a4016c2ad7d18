"""The runs of a study: which there are, which of them are still to be made, and making them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.molpcba.ablations.records import (
    Records,
    check_equal,
    record_of,
    without_places,
)
from experiments.molpcba.ablations.study import Study
from experiments.molpcba.ablations.workers import carry_out, folder_of
from experiments.molpcba.cli import parse
from experiments.molpcba.config import Config, to_dict
from experiments.molpcba.data import MoleculeData
from experiments.molpcba.errors import UserError
from experiments.molpcba.evaluation import TITLES
from experiments.molpcba.run import load_data, say
from experiments.molpcba.runs import read_results


@dataclass(frozen=True)
class Grid:
    """A study on given data: the settings of each row, to be run with several seeds.

    Args:
        study: which.
        data: of the first seed.
        rows: settings of each row, as for the first seed.
        runs_dir: where the runs lie.
    """

    study: Study
    data: MoleculeData
    rows: dict[str, Config]
    runs_dir: Path

    @classmethod
    def on(cls, study: Study, flags: Sequence[str], runs_dir: Path) -> Grid:
        """The study on the data, and with the changes to its base, that trainer's flags ask for.

        Raises:
            UserError, DataError: for flags or data that do not serve.
        """
        shared = parse(flags)
        data = load_data(replace(shared, split_seed=shared.seed))
        rows = study.configurations(flags, data.name, data.num_tasks)
        return cls(study, data, rows, runs_dir / f"{study.name}-on-{data.name}")

    @property
    def first_seed(self) -> int:
        """The first of the seeds."""
        return next(iter(self.rows.values())).seed

    def config(self, row: str, seed: int) -> Config:
        """The settings of one run; its seed fixes the split, too."""
        return replace(
            self.rows[row],
            seed=seed,
            split_seed=seed,
            name=f"{row}-seed{seed}",
            runs_dir=str(self.runs_dir),
        )

    def check(self, records: Records) -> None:
        """Raises ``UserError`` when records and this study cannot stand in one table."""
        where = records.folder / "records.csv"
        for run in records.runs.to_dict("records"):
            row = self.study.rows.get(run["row"])
            if run["study"] != self.study.name or row is None or run["reference"] != row.reference:
                raise UserError(
                    f"{where}: row {run['row']} of {run['study']}, compared with "
                    f"{run['reference']}, is not in {self.study.name}: choose another --out"
                )
            self._check_data(where, run)
            wanted = without_places(to_dict(self.config(run["row"], run["seed"])))
            found = json.loads(run["config"])
            check_equal(f"{where}, {run['row']}, seed {run['seed']}", found, wanted)

    def _check_data(self, where: Path, found: dict[str, Any]) -> None:
        """Raises ``UserError`` unless name, content and kind of split are those of this data."""
        name, graphs = found.get("data"), found.get("graphs")
        if (name, graphs) != (self.data.name, self.data.graphs_sha256[:16]):
            raise UserError(
                f"{where}: made on {name} ({graphs}), not on this {self.data.name} "
                f"({self.data.graphs_sha256[:16]}): choose another --out and --runs-dir"
            )

    def missing(
        self, rows: Sequence[str], seeds: int, records: Records
    ) -> list[tuple[str, Config]]:
        """Row and settings of each run that has no record, seed by seed, so that what is finished
        can be compared; runs that finished without being recorded are recorded now.
        """
        missing = []
        for seed in range(self.first_seed, self.first_seed + seeds):
            for row in rows:
                config = self.config(row, seed)
                folder = folder_of(config)
                if records.has(row, seed):
                    continue
                if folder.path.exists():
                    found = without_places(folder.read_config())
                    check_equal(str(folder.path), found, without_places(to_dict(config)))
                if folder.finished:
                    self._record(row, config, records)
                else:
                    missing.append((row, config))
        return missing

    def make(self, rows: Sequence[str], seeds: int, jobs: int, records: Records) -> None:
        """Makes and records what is missing; says of each run how it ended."""
        missing = self.missing(rows, seeds, records)
        row_of = {config.name: row for row, config in missing}
        with closing(carry_out([config for _, config in missing], jobs)) as ended:
            for i, (config, failure) in enumerate(ended, 1):
                row = row_of[config.name]
                if failure is None:
                    told = self._record(row, config, records)
                else:
                    records.fail(row, config.seed, failure)
                    records.write(list(self.rows))
                    told = f"failed: {failure}"
                say(f"[{i}/{len(missing)}] {row}, seed {config.seed}: {told}")

    def _record(self, row: str, config: Config, records: Records) -> str:
        """Records a finished run; its score and time in words."""
        folder = folder_of(config)
        results = read_results(folder.results)
        data = results["data"]
        self._check_data(folder.path, {"data": data["name"], "graphs": data["graphs"]})
        reference = self.study.rows[row].reference
        records.add(*record_of(folder, self.study.name, row, reference))
        records.write(list(self.rows))
        title = TITLES[results["metric"]]
        return (
            f"valid {title} {results['valid']:.4f}, test {results['test']:.4f}, "
            f"{results['epochs']} epochs in {results['seconds']:.0f} s"
        )
