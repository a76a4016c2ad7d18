#!/usr/bin/env bash
# Builds the C code with the address and undefined-behaviour sanitizers, in a copy of the tree, and runs
# its tests. PYTHON: the interpreter of the environment to use.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z -- pyg_ea tests hatch_build.py pyproject.toml README.md | xargs -0 cp --parents -t "$copy"
cd "$copy"
CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -g" \
    LDFLAGS="-fsanitize=address,undefined" "$python" -m hatchling build -t wheel --hooks-only
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
    "$python" -m pytest -n 0 --no-cov -q -s tests/test_native.py tests/test_fused.py -k "not compiled"
