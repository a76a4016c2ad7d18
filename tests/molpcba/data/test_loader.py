"""The loader's order and its shares over ranks."""

from __future__ import annotations

import pytest
import torch

from experiments.molpcba.data import GraphLoader


def loader(tiny, **arguments) -> GraphLoader:
    settings = {"indices": torch.arange(len(tiny.graphs)), "batch_size": 5} | arguments
    return GraphLoader(tiny.graphs, **settings)


def test_order_is_a_function_of_seed_and_epoch(tiny):
    def orders(seed):
        one = loader(tiny, shuffle=True, seed=seed)
        seen = []
        for epoch in (0, 1, 0):
            one.set_epoch(epoch)
            list(one)  # iterating changes nothing
            seen.append(one.order().tolist())
        return seen

    first = orders(0)
    assert first[0] == first[2] != first[1]
    assert first == orders(0)
    assert first != orders(1)
    assert sorted(first[0]) == list(range(len(tiny.graphs)))


def test_batches_are_the_graphs_of_the_order(tiny):
    one = loader(tiny, shuffle=True, seed=3)
    rows = torch.cat(one.batches())
    assert torch.equal(rows, one.order())
    x = torch.cat([batch.x for batch in one])
    assert torch.equal(x, tiny.graphs.batch(rows).x)


@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 30])
@pytest.mark.parametrize("size", [0, 2, 23, 24])
@pytest.mark.parametrize("drop_last", [False, True])
class TestShares:
    def ranks(self, tiny, world_size, batch_size, size, **arguments):
        indices = torch.arange(size)
        settings = {"indices": indices, "batch_size": batch_size, "world_size": world_size}
        return [loader(tiny, rank=rank, **settings, **arguments) for rank in range(world_size)]

    def test_evaluation_covers_each_row_once(self, tiny, world_size, batch_size, size, drop_last):
        ranks = self.ranks(tiny, world_size, batch_size, size, drop_last=drop_last)
        rows = [row for one in ranks for part in one.batches() for row in part.tolist()]
        assert rows == sorted(set(rows))
        if not drop_last:
            assert rows == list(range(size))

    def test_training_gives_ranks_equal_numbers(
        self, tiny, world_size, batch_size, size, drop_last
    ):
        ranks = self.ranks(tiny, world_size, batch_size, size, drop_last=drop_last, shuffle=True)
        assert len({len(one.batches()) for one in ranks}) == 1
        rows = [row for one in ranks for part in one.batches() for row in part.tolist()]
        assert len(rows) == len(set(rows))
        step = batch_size * world_size
        left_out = size % step if drop_last or size % step < world_size else 0
        assert len(rows) == size - left_out
        if drop_last:
            sizes = {part.numel() for one in ranks for part in one.batches()}
            assert sizes <= {batch_size}

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_length(self, tiny, world_size, batch_size, size, drop_last, shuffle):
        for one in self.ranks(
            tiny, world_size, batch_size, size, drop_last=drop_last, shuffle=shuffle
        ):
            assert len(one) == len(one.batches()) == sum(1 for _ in one)


def test_ranks_side_by_side_are_one_process_with_the_whole_batch(tiny):
    whole = loader(tiny, batch_size=6, shuffle=True, seed=1).batches()
    left = loader(tiny, batch_size=3, shuffle=True, seed=1, rank=0, world_size=2).batches()
    right = loader(tiny, batch_size=3, shuffle=True, seed=1, rank=1, world_size=2).batches()
    for step, *parts in zip(whole, left, right, strict=True):
        assert torch.equal(step, torch.cat(parts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2"),
        ({"rank": -1}, "rank is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"indices": torch.tensor([24])}, "between 0 and 23"),
        ({"indices": torch.tensor([-1])}, "between 0 and 23"),
    ],
)
def test_bad_arguments(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        loader(tiny, **arguments)
