"""Packed graphs equal PyG's own batching, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Batch, Data

from experiments.molpcba.data.ogb_api import smiles2graph
from experiments.molpcba.data.packed import PackedGraphs, compact_index

from .conftest import SMILES

KEYS = ("x", "edge_index", "edge_attr", "y", "batch", "ptr")


def plain(smiles: str, y: torch.Tensor) -> Data:
    graph = smiles2graph(smiles)
    return Data(
        x=torch.from_numpy(graph["node_feat"]),
        edge_index=torch.from_numpy(graph["edge_index"]),
        edge_attr=torch.from_numpy(graph["edge_feat"]),
        y=y.view(1, -1),
    )


@pytest.fixture(scope="module")
def singles(tiny):
    labels = tiny.graphs.labels(torch.arange(len(tiny.graphs)))
    return [plain(smiles, y) for smiles, y in zip(SMILES, labels, strict=True)]


INDEX = {
    "one": [3],
    "one atom": [2],
    "two single atoms": [2, 8],
    "single atom last": [0, 8],
    "unsorted, repeated": [7, 1, 1, 23, 0, 2],
    "all": list(range(len(SMILES))),
}


@pytest.mark.parametrize("index", INDEX.values(), ids=INDEX)
def test_batch_equals_from_data_list(tiny, singles, index):
    ours = tiny.graphs.batch(torch.tensor(index))
    theirs = Batch.from_data_list([singles[i] for i in index])
    assert isinstance(ours, Batch)
    assert ours.num_graphs == theirs.num_graphs
    assert set(ours.keys()) == set(theirs.keys())
    for key in KEYS:
        assert ours[key].dtype == theirs[key].dtype, key
        assert ours[key].is_contiguous(), key
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0, equal_nan=True)


def test_batch_can_be_taken_apart(tiny, singles):
    index = [5, 2, 11, 0]
    for ours, i in zip(tiny.graphs.batch(torch.tensor(index)).to_data_list(), index, strict=True):
        for key in ("x", "edge_index", "edge_attr", "y"):
            torch.testing.assert_close(ours[key], singles[i][key], rtol=0, atol=0, equal_nan=True)


def test_batch_owns_its_memory(tiny):
    first = tiny.graphs.batch(torch.tensor([0]))
    first.x.fill_(99)
    first.y.fill_(99)
    assert int(tiny.graphs.batch(torch.tensor([0])).x.max()) < 99


def test_save_and_load(tiny, tmp_path):
    tiny.graphs.save(tmp_path / "graphs.pt")
    again = PackedGraphs.load(tmp_path / "graphs.pt")
    everything = torch.arange(len(tiny.graphs))
    for key in KEYS:
        ours, theirs = again.batch(everything)[key], tiny.graphs.batch(everything)[key]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_one_byte_a_feature(tiny):
    graphs = tiny.graphs
    assert {graphs.x.dtype, graphs.edge_attr.dtype} == {torch.uint8}
    assert graphs.y.dtype == torch.int8
    assert graphs.edge_index.dtype == torch.int16


@pytest.mark.parametrize(
    ("largest", "dtype"), [(0, torch.int16), (32_767, torch.int16), (32_768, torch.int32)]
)
def test_large_molecules_get_wider_indices(largest, dtype):
    index = torch.tensor([[0], [largest]])
    compact = compact_index(index)
    assert compact.dtype == dtype
    assert torch.equal(compact.long(), index)


def test_index_out_of_range_raises(tiny):
    with pytest.raises((IndexError, RuntimeError)):
        tiny.graphs.batch(torch.tensor([len(tiny.graphs)]))
