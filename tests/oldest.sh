#!/usr/bin/env bash
# The library's tests with the oldest versions that pyproject.toml declares, in an environment of their
# own. PYTHON: the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install -q -c constraints-oldest.txt -e . \
    pytest pytest-cov pytest-xdist hypothesis pandas # pandas: for benchmarks.peak
git ls-files 'tests/test_*.py' | grep -vE '_(benchmarks|docs|quality|results)[.]py' |
    xargs "$venv/bin/python" -m pytest --no-cov -W ignore::DeprecationWarning # their own
