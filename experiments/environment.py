"""Settings of libraries that must be made before they are imported."""

import os
import sys

# Threads that wait for each other sleep soon: on idle cores an epoch takes some 8 % longer, beside
# two busy processes on two cores little more than half the time. Read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# `import ogb` starts a thread that asks PyPI for a newer version; without `outdated` it does not.
sys.modules.setdefault("outdated", None)  # type: ignore[arg-type]
