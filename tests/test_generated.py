"""Thousands of random calls of the public API: a right result or a Python error, never a crash.

The calls run in a process of their own, which writes each case to a file before it runs it. So a
crash is reported with its input. To run more of them, or one again::

    PYG_EA_EXAMPLES=20000 python -m pytest --no-cov -n 0 tests/test_generated.py
    python -m tests.test_generated "Case(n=3, index='negative')"
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_geometric import EdgeIndex, Index

import pyg_ea
from pyg_ea import (
    Checkpointed,
    EAAggregation,
    EAConv,
    EAGlobalPool,
    Implicit,
    L2Prior,
    NesterovSolver,
    NormedMultiAggregation,
    SumEAAggregation,
    Truncated,
    auxiliary_loss,
    collect_solutions,
    solve_backend,
)
from pyg_ea.energy import NoPrior
from pyg_ea.potentials import MeanPotential

ROOT = Path(__file__).parents[1]
EXAMPLES = int(os.environ.get("PYG_EA_EXAMPLES", "300"))
MEMORY = 6 * 2**30  # an index beyond 2**31 makes PyG ask for more: an error, not swapping
ERRORS = (ValueError, TypeError, RuntimeError, IndexError, MemoryError)
FLOATS = {torch.float64: 1e-7, torch.float32: 0.05, torch.bfloat16: None, torch.float16: None}
"""Dtypes of elements, and the relative tolerance between two implementations; None: finite."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One call. Plain values only, so that its ``repr`` builds it again."""

    n: int = 4
    leading: tuple[int, ...] = ()
    in_channels: int = 3
    out_channels: int = 3
    hidden: int = 4
    segments: int = 3
    steps: int = 2
    seed: int = 0
    # what a user may choose
    module: str = "aggregation"
    dtype: str = "float64"
    autocast: bool = False
    mode: str = "grad"
    action: str = "backward"
    training: bool = True
    adjoint: str = "unrolled"
    potential: str = "resnet"
    prior: str = "l2"
    gtol: float = 1e-3
    clip: float | None = None
    threads: int = 1
    backend: str = "auto"
    validate: bool | None = None
    copied: bool = False
    frozen: bool = False
    # what may be wrong, or unusual
    x: str = "plain"
    index: str = "random"
    dim: int = -2
    dim_size: str = "exact"
    layer_dtype: str = "same"
    lr: float = 0.05


class Subclass(Tensor):
    """A subclass of Tensor that shares its memory."""


def sizes_of(case: Case) -> Tensor:
    """Number of elements of each segment."""
    return random_index(case).bincount(minlength=case.segments)


def random_index(case: Case) -> Tensor:
    generator = torch.Generator().manual_seed(case.seed)
    return torch.randint(max(case.segments, 1), (case.n,), generator=generator)


def _boundaries(case: Case) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.long), sizes_of(case).cumsum(0)])


def _poisoned(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x.view(-1)[:1] = value
    return x


# Ways to give the elements and their segments. "Good" ones must work, the others may be refused.
GOOD_X: dict[str, Callable[[Tensor], object]] = {
    "plain": lambda x: x,
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "strided": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "offset": lambda x: torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape),
    "parameter": lambda x: nn.Parameter(x),
    "subclass": lambda x: x.as_subclass(Subclass),
    "no grad": lambda x: x.detach(),
    "large": lambda x: 100 * x,
    "zero": lambda x: 0 * x,
    "expanded": lambda x: x[..., :1].expand(x.shape),
}
BAD_X: dict[str, Callable[[Tensor], object]] = {
    "nan": lambda x: _poisoned(x, torch.nan),
    "infinite": lambda x: _poisoned(x, torch.inf),
    "huge": lambda x: _poisoned(x, torch.finfo(x.dtype).max),
    "integers": lambda x: x.long(),
    "booleans": lambda x: x.bool(),
    "complex": lambda x: torch.complex(x.double(), x.double()),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "numpy": lambda x: x.double().numpy(),
    "list": lambda x: x.tolist(),
    "none": lambda x: None,
    "vector": lambda x: x.reshape(-1),
    "scalar": lambda x: x.sum(),
    "wide": lambda x: torch.cat([x, x], dim=-1),
    "no channels": lambda x: x[..., :0],
}
GOOD_INDEX: dict[str, Callable[[Case], dict[str, object]]] = {
    "random": lambda c: {"index": random_index(c)},
    "sorted": lambda c: {"index": random_index(c).sort().values},
    "one": lambda c: {"index": torch.zeros(c.n, dtype=torch.long)},
    "none": lambda c: {},
    "Index": lambda c: {"index": Index(random_index(c))},
    "sorted Index": lambda c: {"index": Index(random_index(c).sort().values, is_sorted=True)},
    "strided": lambda c: {"index": random_index(c).repeat_interleave(2)[::2]},
    "expanded": lambda c: {"index": torch.zeros(1, dtype=torch.long).expand(c.n)},
    "subclass": lambda c: {"index": random_index(c).as_subclass(Subclass)},
    "ptr": lambda c: {"ptr": _boundaries(c)},
    "ptr strided": lambda c: {"ptr": _boundaries(c).repeat_interleave(2)[::2]},
    "ptr and index": lambda c: {"ptr": _boundaries(c), "index": random_index(c).sort().values},
}
BAD_INDEX: dict[str, Callable[[Case], dict[str, object]]] = {
    "negative": lambda c: {"index": random_index(c) - 1},
    "very negative": lambda c: {"index": random_index(c) - 2**40},
    "too large": lambda c: {"index": random_index(c) + 2},
    "huge": lambda c: {"index": random_index(c) + 2**31},
    "int32": lambda c: {"index": random_index(c).int()},
    "uint8": lambda c: {"index": random_index(c).byte()},
    "floats": lambda c: {"index": random_index(c).double()},
    "booleans": lambda c: {"index": random_index(c).bool()},
    "too short": lambda c: {"index": random_index(c)[1:]},
    "too long": lambda c: {"index": torch.zeros(c.n + 3, dtype=torch.long)},
    "matrix": lambda c: {"index": random_index(c)[:, None]},
    "scalar": lambda c: {"index": torch.tensor(0)},
    "numpy": lambda c: {"index": random_index(c).numpy()},
    "list": lambda c: {"index": random_index(c).tolist()},
    "meta": lambda c: {"index": random_index(c).to("meta")},
    "lying Index": lambda c: {"index": Index(random_index(c), is_sorted=True)},
    "small Index": lambda c: {"index": Index(random_index(c), dim_size=1)},
    "negative Index": lambda c: {"index": Index(random_index(c) - 1)},
    "EdgeIndex": lambda c: {"index": EdgeIndex(torch.stack([random_index(c)] * 2))},
    "ptr falling": lambda c: {"ptr": _boundaries(c).flip(0)},
    "ptr short": lambda c: {"ptr": _boundaries(c)[:-1]},
    "ptr beyond": lambda c: {"ptr": _boundaries(c) * 3},
    "ptr negative": lambda c: {"ptr": _boundaries(c) - 1},
    "ptr huge": lambda c: {"ptr": torch.tensor([0, 2**33, c.n])},
    "ptr empty": lambda c: {"ptr": torch.empty(0, dtype=torch.long)},
    "ptr int32": lambda c: {"ptr": _boundaries(c).int()},
    "ptr floats": lambda c: {"ptr": _boundaries(c).double()},
    "ptr matrix": lambda c: {"ptr": _boundaries(c)[None]},
    "ptr against index": lambda c: {"ptr": _boundaries(c), "index": random_index(c).flip(0)},
}
DIM_SIZES: dict[str, Callable[[Case], int | None]] = {
    "exact": lambda c: c.segments,
    "none": lambda c: None,
    "larger": lambda c: c.segments + 2,
    "smaller": lambda c: c.segments - 1,
    "zero": lambda c: 0,
    "negative": lambda c: -1,
}
ADJOINTS = {
    "unrolled": lambda: None,
    "checkpointed": Checkpointed,
    "truncated": lambda: Truncated(1),
    "implicit": lambda: Implicit(max_iterations=3),
}
POTENTIALS = {
    "resnet": lambda: None,
    "mean": MeanPotential,
    "function": lambda: _double_well,
}
PRIORS = {
    "l2": L2Prior,
    "fixed": lambda: L2Prior(0.3, trainable=False),
    "none": NoPrior,
    "function": lambda: _quartic,
}
BACKENDS = ("auto", "native", "torch", "plain")


def _double_well(x: Tensor, y: Tensor) -> Tensor:
    return ((y.mean(dim=1) - x.mean(dim=1)).square() - 1).square() / 8


def _quartic(y: Tensor) -> Tensor:
    return 0.1 * y.square().square().sum(dim=1)


COMMON = {
    "n": st.integers(0, 9),
    "leading": st.sampled_from([(), (), (), (1,), (2,), (0,), (2, 1)]),
    "in_channels": st.integers(1, 5),
    "out_channels": st.integers(1, 5),
    "hidden": st.sampled_from([1, 2, 4, 33]),
    "segments": st.integers(0, 5),
    "steps": st.integers(1, 3),
    "seed": st.integers(0, 2**16),
    "module": st.sampled_from(["aggregation", "aggregation", "pool", "multi", "conv"]),
    "dtype": st.sampled_from(["float64", "float64", "float32", "bfloat16", "float16"]),
    "autocast": st.sampled_from([False, False, False, True]),
    "mode": st.sampled_from(["grad", "grad", "no_grad", "inference"]),
    "action": st.sampled_from(["forward", "backward", "backward", "second", "diagnose"]),
    "training": st.booleans(),
    "adjoint": st.sampled_from(["unrolled", *ADJOINTS]),
    "potential": st.sampled_from(["resnet", "resnet", *POTENTIALS]),
    "prior": st.sampled_from(["l2", "l2", *PRIORS]),
    "gtol": st.sampled_from([1e-3, 0.0, 0.5, 1e9]),
    "clip": st.sampled_from([None, None, 0.2]),
    "threads": st.sampled_from([1, 1, 2]),
    "backend": st.sampled_from(BACKENDS),
    "validate": st.sampled_from([None, True, False]),
    "copied": st.booleans(),
    "frozen": st.sampled_from([False, False, True]),
    "x": st.sampled_from(["plain", *GOOD_X]),
    "index": st.sampled_from(["random", *GOOD_INDEX]),
}
UNUSUAL = {
    "x": st.sampled_from([*BAD_X]),
    "index": st.sampled_from([*BAD_INDEX]),
    "dim": st.sampled_from([-1, 0, 1, -3, 5]),
    "dim_size": st.sampled_from([*DIM_SIZES]),
    "layer_dtype": st.sampled_from(["float64", "float32", "bfloat16"]),
    "lr": st.just(1e3),
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A usual case with up to two unusual choices."""
    values = {name: draw(strategy) for name, strategy in COMMON.items()}
    for name in draw(st.lists(st.sampled_from([*UNUSUAL]), max_size=2, unique=True)):
        values[name] = draw(UNUSUAL[name])
    return Case(**values)


# Running a case --------------------------------------------------------------------------------


def is_good(case: Case) -> bool:
    """Whether the call must work."""
    floats = case.layer_dtype in ("same", case.dtype)
    if case.autocast:
        floats = case.dtype in ("float32", "float64") and floats
    channels = case.potential != "mean" or case.in_channels == case.out_channels
    fits = case.segments > 0 or case.n == 0 or case.index in ("none", "one", "expanded")
    size = case.dim_size in ("exact", "none", "larger") and (case.segments > 0 or case.n == 0)
    if case.module == "conv":
        fits = case.segments <= case.n and case.index != "none" and "ptr" not in case.index
    flat = not case.leading or case.module in ("aggregation", "multi")
    usual = case.dim == -2 and case.lr < 1 and case.x in GOOD_X and case.index in GOOD_INDEX
    return floats and channels and fits and size and flat and usual


def elements(case: Case) -> object:
    generator = torch.Generator().manual_seed(case.seed)
    shape = (*case.leading, case.n, case.in_channels)
    x = 0.5 * torch.randn(shape, dtype=torch.float64, generator=generator)
    x = x.to(getattr(torch, case.dtype))
    x = {**GOOD_X, **BAD_X}[case.x](x)
    if case.x != "no grad" and isinstance(x, Tensor) and x.is_floating_point() and x.is_leaf:
        x.requires_grad_()
    return x


def build(case: Case) -> nn.Module:
    torch.manual_seed(case.seed)
    channels = case.in_channels if case.module == "conv" else case.out_channels
    settings_ = {
        "hidden_channels": case.hidden,
        "steps": case.steps,
        "eval_steps": case.steps + 1,
        "potential": POTENTIALS[case.potential](),
        "prior": PRIORS[case.prior](),
        "solver": NesterovSolver(lr=case.lr, gtol=case.gtol, clip=case.clip),
        "adjoint": ADJOINTS[case.adjoint](),
        "validate": case.validate,
    }
    if settings_["potential"] is not None:
        del settings_["hidden_channels"]
    if case.module == "pool":
        module: nn.Module = EAGlobalPool(case.in_channels, channels, **settings_)
    elif case.module == "conv":
        aggr = SumEAAggregation(case.in_channels, **settings_)
        module = EAConv(case.in_channels, channels, aggr=aggr, validate=case.validate)
    else:
        module = EAAggregation(case.in_channels, channels, **settings_)
    if case.module == "multi":
        module = NormedMultiAggregation([module, "sum"], [channels, case.in_channels])
    dtype = case.dtype if case.layer_dtype == "same" else case.layer_dtype
    module = module.to(getattr(torch, dtype)).train(case.training)
    module.requires_grad_(not case.frozen)
    return copy.deepcopy(module) if case.copied else module


def call(case: Case, module: nn.Module, x: object) -> Tensor:
    layout = {**GOOD_INDEX, **BAD_INDEX}[case.index](case)
    size = DIM_SIZES[case.dim_size](case)
    if case.module == "pool":
        return module(x, layout.get("index"), size)
    if case.module != "conv":
        if "ptr" in layout:
            return module(x, **layout, dim=case.dim)
        return module(x, **layout, dim_size=size, dim=case.dim)
    index = layout.get("index", layout.get("ptr"))
    if not isinstance(index, Tensor) or index.dim() != 1:
        return module(x, index)
    if isinstance(index, Index):
        return module(x, EdgeIndex(torch.stack([index.as_tensor()] * 2)))
    return module(x, torch.stack([index, index]))


def ea_layer(module: nn.Module) -> EAAggregation:
    return next(m for m in module.modules() if isinstance(m, EAAggregation))


def act(case: Case, module: nn.Module, x: object) -> list[Tensor]:
    """The result of the call, then what was asked for besides."""
    if case.action == "diagnose" and case.module == "aggregation" and not case.leading:
        layout = {**GOOD_INDEX, **BAD_INDEX}[case.index](case)
        report = ea_layer(module).diagnose(x, **layout)
        assert str(report)
        return [report.energy_before, report.energy_after]
    with collect_solutions() as solutions:
        y = call(case, module, x)
    assert isinstance(y, Tensor)
    loss = y.float().square().sum()
    for reading in ("final", "path"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the auxiliary loss .* is a constant")  # frozen
            loss = loss + auxiliary_loss(solutions, reading)
    results = [y.detach().as_subclass(Tensor), loss.detach().as_subclass(Tensor)]
    if case.action == "forward" or not loss.requires_grad or loss.is_meta:
        return results
    leaves = [p for p in module.parameters() if p.requires_grad]
    if isinstance(x, Tensor) and x.requires_grad:
        leaves.append(x)
    second = case.action == "second" and case.adjoint != "implicit"
    gradients = torch.autograd.grad(loss, leaves, create_graph=second, allow_unused=True)
    results += [g.detach().as_subclass(Tensor) for g in gradients if g is not None]
    if second:
        total = sum(g.float().square().sum() for g in gradients if g is not None)
        if isinstance(total, Tensor) and total.requires_grad:
            again = torch.autograd.grad(total, leaves, allow_unused=True)
            results += [g.detach().as_subclass(Tensor) for g in again if g is not None]
    return results


@contextlib.contextmanager
def surroundings(case: Case) -> Iterator[None]:
    """Grad mode, autocast, threads and warnings of a case."""
    modes = {
        "grad": torch.enable_grad,
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
    }
    torch.set_num_threads(case.threads)
    with (
        warnings.catch_warnings(),
        modes[case.mode](),
        torch.autocast("cpu", torch.bfloat16, enabled=case.autocast),
    ):
        warnings.simplefilter("ignore")
        yield


def outcome(case: Case, backend: str) -> list[Tensor] | Exception:
    """What the call returned, or the error it raised."""
    with solve_backend(backend), surroundings(case):
        try:
            return act(case, build(case), elements(case))
        except ERRORS as error:
            if not str(error):
                raise AssertionError(f"{type(error).__name__} without a message: {case}") from error
            return error
        except AttributeError as error:  # PyG's check of x in Aggregation.__call__
            if case.x not in ("numpy", "list", "none") and case.index not in ("numpy", "list"):
                raise
            return error


def expected_shape(case: Case) -> tuple[int, ...] | None:
    """The shape of the result, where the case says it."""
    if case.module == "conv" or case.action == "diagnose":
        return None
    if case.index in ("ptr", "ptr strided", "ptr and index"):
        segments = len(_boundaries(case)) - 1
    elif case.dim_size == "none":
        return None
    else:
        segments = DIM_SIZES[case.dim_size](case)
    width = case.out_channels + (case.in_channels if case.module == "multi" else 0)
    return (*case.leading, segments, width)


def check(case: Case) -> None:
    """Runs a case by the implementation that it names and by the plain one, and compares."""
    got, plain = outcome(case, case.backend), outcome(case, "plain")
    if isinstance(got, RuntimeError) and "does not support this solve" in str(got):
        got = outcome(case, "auto")
    if not is_good(case):
        return
    for result in (got, plain):
        if isinstance(result, Exception):
            raise AssertionError(f"a call that must work failed: {case}") from result
    assert isinstance(got, list)
    assert isinstance(plain, list)
    for tensor in got:
        assert tensor.isfinite().all() or case.dtype == "float16" or case.x == "large", case
    if (shape := expected_shape(case)) is not None:
        assert got[0].shape == shape, (case, got[0].shape)
    assert [t.shape for t in got] == [t.shape for t in plain], case
    tolerance = None if case.autocast else FLOATS[getattr(torch, case.dtype)]
    is_tame = all(t.isfinite().all() and t.abs().max() < 1e3 for t in plain if t.numel())
    if tolerance is None or not is_tame or (case.dtype == "float32" and case.action == "second"):
        return
    if case.mode != "grad":  # without a graph a solve may end early: only y is the same
        got, plain = got[:1], plain[:1]
    for mine, theirs in zip(got, plain, strict=True):
        scale = max([1.0, *theirs.abs().flatten().tolist()])
        torch.testing.assert_close(
            mine, theirs, rtol=0, atol=tolerance * scale, msg=lambda text: f"{case}: {text}"
        )


def run_cases(record: Path) -> None:
    """Runs the generated cases, each written to ``record`` first."""
    count = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def run(case: Case) -> None:
        nonlocal count
        count += 1
        record.write_text(repr(case))
        check(case)

    try:
        run()
    finally:
        print(f"{count} cases")


def test_generated_calls_return_or_raise_but_never_crash(tmp_path: Path) -> None:
    record = tmp_path / "case.txt"
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.test_generated", "--to"]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    run = subprocess.run(
        [*command, str(record)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    case = record.read_text() if record.exists() else "none"
    assert run.returncode == 0, f"last case: {case}\n{run.stdout[-2000:]}\n{run.stderr[-6000:]}"
    assert "cases" in run.stdout
    assert Path(pyg_ea.__file__).is_relative_to(ROOT)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if sys.argv[1] == "--to":
        run_cases(Path(sys.argv[2]))
    else:
        check(eval(sys.argv[1]))
