"""The runs of a study: which there are, which of them are still to be made, and making them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.molpcba.ablations.records import (
    LAST,
    Records,
    check_equal,
    record_of,
    tuning_name,
    tuning_record_of,
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
from experiments.molpcba.runs import RunFolder, read_results

Recorder = Callable[[str, RunFolder, Records], str]
"""Takes a finished run of a row into the records, and says how it ended."""


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

    def check_tuning(self, records: Records) -> None:
        """Raises ``UserError`` when values were tried in another way than this study's."""
        where = records.folder / "tuning.csv"
        for run in records.tuning.to_dict("records"):
            place = f"{where}, row {run['row']}, {run['setting']} {run['value']}"
            candidates = self._candidates(run["row"]) if run["row"] in self.rows else {}
            if run["value"] not in candidates:
                raise UserError(f"{place}: not tried in {self.study.name}: choose another --out")
            self._check_data(where, run)
            wanted = without_places(to_dict(candidates[run["value"]]))
            check_equal(place, json.loads(run["config"]), wanted)

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
        can be compared. Runs that finished without being recorded are recorded now, and so are
        those that another study in the same folder of runs made with the same settings.
        """
        configs = [
            (row, self.config(row, seed))
            for seed in range(self.first_seed, self.first_seed + seeds)
            for row in rows
            if not records.has(row, seed)
        ]
        return self._unfinished(configs, records, self._record)

    def make(self, rows: Sequence[str], seeds: int, jobs: int, records: Records) -> None:
        """Makes and records what is missing; says of each run how it ended."""
        missing = self.missing(rows, seeds, records)
        self._carry_out(missing, jobs, records, self._record)

    def tune(self, rows: Sequence[str], jobs: int, records: Records) -> Grid:
        """Makes and records what is missing of the runs by which a value is chosen for each row;
        the grid with those values. A value whose run fails is left out.

        Raises:
            UserError: when all runs of a row failed.
        """
        configs = [
            (row, config)
            for row in rows
            for value, config in self._candidates(row).items()
            if not records.has_tried(row, value)
        ]
        missing = self._unfinished(configs, records, self._record_tuning)
        self._carry_out(missing, jobs, records, self._record_tuning)
        for row in rows:
            if self.study.tuning is not None and row not in set(records.tuning["row"]):
                raise UserError(f"row {row}: all runs to tune it failed, see {self.runs_dir}/*.log")
        return self.tuned(records)

    def tuned(self, records: Records) -> Grid:
        """The grid with the best value recorded of each row."""
        rows = dict(self.rows)
        for row, (setting, value) in records.best_values().items():
            rows[row] = replace(rows[row], **{setting: json.loads(value)})
        return replace(self, rows=rows)

    def _candidates(self, row: str) -> dict[str, Config]:
        """The settings of the runs by which a value is chosen for a row, by the value in JSON."""
        tuning = self.study.tuning
        if tuning is None:
            return {}
        plain = self.config(row, tuning.seed)
        return {
            json.dumps(value): replace(
                plain,
                **{tuning.setting: value},
                name=tuning_name(row, tuning.setting, value),
            )
            for value in tuning.values
        }

    def _unfinished(
        self, configs: list[tuple[str, Config]], records: Records, record: Recorder
    ) -> list[tuple[str, Config]]:
        unfinished = []
        elsewhere = self._finished_elsewhere()
        for row, config in configs:
            folder = folder_of(config)
            if folder.path.exists():
                found = without_places(folder.read_config())
                check_equal(str(folder.path), found, without_places(to_dict(config)))
            elif (other := elsewhere.get(_settings(to_dict(config)))) is not None:
                say(f"{config.name}: {other.path} has the same settings")
                folder = other
            if folder.finished:
                record(row, folder, records)
            else:
                unfinished.append((row, config))
        return unfinished

    def _finished_elsewhere(self) -> dict[str, RunFolder]:
        """The finished runs of all studies on this data, by their settings."""
        found = {}
        for path in sorted(self.runs_dir.parent.glob(f"*-on-{self.data.name}/*/results.json")):
            try:
                results = read_results(path)
                same_data = results["data"]["graphs"] == self.data.graphs_sha256[:16]
                if same_data and results["status"] == "finished":
                    found[_settings(results["config"])] = RunFolder(path.parent)
            except (UserError, KeyError):  # damaged, or of another version: made anew
                continue
        return found

    def _carry_out(
        self, missing: list[tuple[str, Config]], jobs: int, records: Records, record: Recorder
    ) -> None:
        row_of = {str(config.name): row for row, config in missing}
        with closing(carry_out([config for _, config in missing], jobs)) as ended:
            for i, (config, failure) in enumerate(ended, 1):
                name, seed = str(config.name), config.seed
                of = name.removesuffix(f"-seed{seed}")  # a row, or a row and a value tried
                if failure is None:
                    told = record(row_of[name], folder_of(config), records)
                else:
                    records.fail(of, seed, failure)
                    records.write(list(self.rows))
                    told = f"failed: {failure}"
                say(f"[{i}/{len(missing)}] {of}, seed {seed}: {told}")

    def _record_tuning(self, row: str, folder: RunFolder, records: Records) -> str:
        """Records a run by which a value is chosen; its score in words."""
        data = read_results(folder.results)["data"]
        self._check_data(folder.path, {"data": data["name"], "graphs": data["graphs"]})
        assert self.study.tuning is not None
        record = tuning_record_of(folder, row, self.study.tuning.setting)
        records.add_tuning(record)
        records.write(list(self.rows))
        return f"valid {record['valid_last']:.4f}, mean of the last {LAST} epochs"

    def _record(self, row: str, folder: RunFolder, records: Records) -> str:
        """Records a finished run; its score and time in words."""
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


def _settings(config: dict[str, Any]) -> str:
    """What a run is, as one word."""
    return json.dumps(without_places(config), sort_keys=True)
