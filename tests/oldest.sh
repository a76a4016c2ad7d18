#!/usr/bin/env bash
# The library's tests with the oldest versions that pyproject.toml declares, in an environment of their
# own. PYTHON: the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install -q -c constraints-oldest.txt -e . pytest pytest-cov pytest-xdist hypothesis
"$venv/bin/python" -m pytest --no-cov tests/test_*.py \
    --ignore tests/test_benchmarks.py --ignore tests/test_quality.py --ignore tests/test_results.py
