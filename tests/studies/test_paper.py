"""The paper's experiment, rehearsed at toy size by the command that makes it at full size."""

import pandas as pd
import pytest

from experiments.records import Records
from experiments.studies import Study, main
from tests.molpcba.conftest import tiny_csv, tiny_data, tiny_root  # noqa: F401 (fixtures)

TOY = ["--width", "16", "--layers", "2", "--epochs", "1", "--batch-size", "64", "--seeds", "1"]


@pytest.fixture
def records(tiny_csv, tiny_root, tmp_path, monkeypatch) -> pd.DataFrame:  # noqa: F811
    monkeypatch.setattr("experiments.molpcba.__main__.plot_run", lambda folder: None)
    places = ["--csv", tiny_csv, "--root", tiny_root, "--out", tmp_path / "out"]
    assert main(["paper", *map(str, places), *TOY]) == 0
    return Records(tmp_path / "out")


def test_every_row_is_trained_and_recorded(records, tmp_path):
    rows = Study.read("paper").rows
    assert list(records.runs["row"]) == list(rows)
    assert records.runs["test"].between(0, 1).all()
    parameters = records.runs.set_index("row")["parameters"]
    for model in ("gin", "gcn"):
        own = parameters[f"{model}-mean+sum+max-hidden"]
        assert own == pytest.approx(parameters[f"{model}-ea-5"], rel=0.05)
    curves = records.curves.set_index("row")
    for column in ("train_loss", "valid_loss", "gradient_norm", "processor_seconds"):
        assert curves[column].gt(0).all()
    loops = curves[["readout_steps", "readout_gradient", "readout_step_size"]]
    assert loops.loc[["gin-ea-1", "gcn-potential-30"]].notna().all(axis=None)
    assert loops.loc[["gin-sum", "gcn-mean+sum+max-hidden"]].isna().all(axis=None)
    assert (tmp_path / "out" / "table.md").read_text().count("\n| g") == len(rows)
