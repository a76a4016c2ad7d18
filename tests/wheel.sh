#!/usr/bin/env bash
# Builds the source archive, the platform wheel and the pure one, installs each wheel in an empty
# environment and runs README's examples there. PYTHON: the interpreter; DIST: where the files go.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
dist=${DIST:-$folder/dist}
"${PYTHON:-python3}" -m venv "$folder/venv"
bin=$folder/venv/bin
"$bin/pip" install -q build twine
"$bin/python" -m build -o "$dist"
CC=false "$bin/pip" wheel -q --no-deps -w "$dist" "$dist"/*.tar.gz
"$bin/twine" check --strict "$dist"/pyg_ea-*
"$bin/python" -m venv --clear "$folder/venv"
cd "$folder"
for kind in linux any; do # the platform wheel must have its C code, the pure one none
    "$bin/pip" install -q -c "$root/constraints.txt" "$dist"/*"$kind"*.whl
    "$bin/python" - "$root/README.md" "$kind" <<'PYTHON'
import importlib.util
import re
import sys
from importlib.metadata import files
from pathlib import Path

readme, kind = sys.argv[1:]
top = {file.parts[0] for file in files("pyg_ea")}
assert len(top) == 2 and "pyg_ea" in top, f"more than the package: {top}"
assert not importlib.util.find_spec("experiments")
for block in re.findall(r"```python\n(.*?)```", Path(readme).read_text(), re.S):
    exec(block)
from pyg_ea.fused import native

assert Path(sys.prefix) in Path(native.__file__).parents, native.__file__
assert (native.LIBRARY is not None) == (kind == "linux"), native.LIBRARY
print(f"{kind} wheel: README's examples ran on Python {sys.version.split()[0]}")
PYTHON
    "$bin/pip" uninstall -q -y pyg_ea
done
