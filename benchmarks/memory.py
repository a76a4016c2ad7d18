"""Peak memory of tensors."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.profiler import ProfilerActivity, profile


def most_allocated(function: Callable[[], object]) -> int:
    """Returns the peak memory of the tensors that ``function`` makes, in bytes.

    Exact and independent of what the process did before: torch's profiler sees every allocation
    and release. What libraries allocate past torch does not count.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    memory = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    changes = [event["args"] for event in memory]
    if not changes:
        return 0
    before = changes[0]["Total Allocated"] - changes[0]["Bytes"]  # left over by an earlier profile
    return max(change["Total Allocated"] for change in changes) - before
