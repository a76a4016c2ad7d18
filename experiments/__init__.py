"""Experiments of the paper: training on molecules, medians, studies of settings."""

import os

# Before torch is imported: threads that wait for each other go to sleep soon. On idle cores this costs
# 5 to 10 % of an epoch; beside as many busy processes as there are cores an epoch takes half the time.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
