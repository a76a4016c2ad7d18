"""Tables of a run for the terminal, from its measurements alone."""

from __future__ import annotations

import pandas as pd

from benchmarks.analysis import ratio, select
from benchmarks.targets import targets


def report(frame: pd.DataFrame) -> str:
    """Returns all tables that have measurements."""
    parts = [
        *_layer(frame),
        *_peak(frame),
        *_model(frame),
        *_targets(frame),
    ]
    return "\n\n".join(parts)


def _table(title: str, rows: list[dict[str, object]]) -> str:
    text = pd.DataFrame(rows).to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep="-")
    return f"{title}\n{text}"


def _layer(frame: pd.DataFrame) -> list[str]:
    tables = []
    for case, rows in select(frame, section="layer").groupby("case", sort=False):
        first = rows.iloc[0]
        title = (
            f"layer, {case}: N = {first.elements}, S = {first.segments}, "
            f"D = {first.channels}, T = {first.steps}; median seconds, ratios within rounds [range]"
        )
        lines = []
        for contestant in rows["contestant"].unique():
            own = select(rows, contestant=contestant)
            medians = own.groupby("quantity")["value"].median()
            line: dict[str, object] = {"": contestant}
            line |= {q: medians.get(q) for q in ("first", "forward", "step", "eval")}
            if "unconverged" in medians:
                line["unconverged"] = medians["unconverged"]
            for peer in ("pyg", "listing"):
                line[f"step / {peer}"] = ratio(rows, contestant, peer, quantity="step") or "-"
            line["eval / pyg"] = ratio(rows, contestant, "pyg", quantity="eval") or "-"
            lines.append(line)
        tables.append(_table(title, lines))
    return tables


def _peak(frame: pd.DataFrame) -> list[str]:
    rows = select(frame, section="peak")
    if rows.empty:
        return []
    lines = []
    for (contestant, steps), own in rows.groupby(["contestant", "steps"], sort=False):
        values = own.set_index("quantity")["value"]
        line: dict[str, object] = {"": contestant, "T": steps}
        for quantity in ("peak_step", "peak_eval"):
            peer = select(rows, contestant="pyg", quantity=quantity, steps=rows["steps"].min())
            line[quantity] = values.get(quantity)
            if quantity in values and not peer.empty:
                line[f"{quantity} / pyg"] = values[quantity] / peer["value"].iloc[0]
        lines.append(line)
    title = "peak of memory held by tensors, MiB (every allocation, by torch.profiler)"
    return [_table(title, lines)]


def _model(frame: pd.DataFrame) -> list[str]:
    rows = select(frame, section="model")
    if rows.empty:
        return []
    total = select(rows, contestant="sum")
    lines = []
    for (contestant, steps), own in rows.groupby(["contestant", "steps"], sort=False):
        both = pd.concat([total, own]) if contestant != "sum" else own
        lines.append(
            {
                "": contestant,
                "T": steps,
                "step": own["value"].median(),
                "step / sum": ratio(both, contestant, "sum") or "-",
            }
        )
    return [_table("whole GIN, a training step with Adam and the auxiliary loss, float32", lines)]


def _targets(frame: pd.DataFrame) -> list[str]:
    table = targets(frame)
    return [] if table.empty else [_table("targets", table.to_dict("records"))]
