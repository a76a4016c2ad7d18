"""Training of graph networks with Equilibrium Aggregation on ogbg-molpcba and sets of its form."""

import sys

# `import ogb` starts a thread that asks PyPI for a newer version; without `outdated` it does not.
sys.modules.setdefault("outdated", None)  # type: ignore[arg-type]
