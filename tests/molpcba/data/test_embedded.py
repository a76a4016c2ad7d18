"""The embedded set: real molecules, alerts as tasks, hidden labels, no molecule in two parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rdkit import Chem

from experiments.molpcba.data import embedded
from experiments.molpcba.data.dataset import SmilesColumn
from experiments.molpcba.data.embedded import HIDDEN, EmbeddedSource, _alerts
from experiments.molpcba.data.molecules import directed, featurise, parse
from experiments.molpcba.data.packed import MISSING
from experiments.molpcba.data.stock import read_split
from experiments.molpcba.data.store import prepare


@pytest.fixture(scope="module")
def smiles(small_embedded):
    return list(SmilesColumn(small_embedded.path / "mapping" / "mol.csv.gz"))


def test_round_trip_through_the_stock_class(small_embedded, smiles):
    graphs = small_embedded.graphs()
    assert len(graphs) == len(smiles) == small_embedded.contents.num_graphs
    for i, text in enumerate(smiles):
        graph = graphs.batch(torch.tensor([i]))
        x, edge_index, edge_attr = directed(featurise(parse(text)))
        assert np.array_equal(graph.x, x)
        assert np.array_equal(graph.edge_index, edge_index)
        assert np.array_equal(graph.edge_attr, edge_attr)


def test_labels_are_the_alerts(small_embedded, smiles):
    by_name = {f"{e.GetProp('FilterSet')}: {e.GetDescription()}": e for e in _alerts()}
    y = small_embedded.graphs().y
    for task in (0, 7, 15):
        alert = by_name[small_embedded.contents.task_names[task]]
        matches = torch.tensor([alert.HasFilterMatch(Chem.MolFromSmiles(s)) for s in smiles])
        known = y[:, task] != MISSING
        assert torch.equal(y[known, task].bool(), matches[known])


def test_a_tenth_of_the_labels_is_hidden(small_embedded):
    assert float((small_embedded.graphs().y == MISSING).float().mean()) == pytest.approx(
        HIDDEN, abs=0.02
    )


def test_commonest_first(small_embedded):
    counts = (small_embedded.graphs().y == 1).sum(0).float()
    assert counts[:4].min() > counts[-4:].max() > 0
    assert len(set(small_embedded.contents.task_names)) == 16


def test_no_molecule_in_two_parts(small_embedded, smiles):
    split = read_split(small_embedded.path, "random")
    parts = [{Chem.CanonSmiles(smiles[i]) for i in index} for index in split.values()]
    assert len(parts) == 3
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert sorted(torch.cat(list(split.values())).tolist()) == list(range(len(smiles)))


def test_the_same_in_worker_processes(small_embedded, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "FEW", 0)
    again = prepare(EmbeddedSource(limit=400, num_tasks=16), tmp_path, workers=2)
    assert again.graphs_sha256 == small_embedded.graphs_sha256


def test_key_depends_on_every_choice():
    keys = {EmbeddedSource().key, EmbeddedSource(limit=400).key, EmbeddedSource(num_tasks=16).key}
    assert len(keys) == 3
