"""The C kernels, which the package does without where they cannot be built; see pyproject.toml."""

import sys

from setuptools import Extension, setup

FOLDER = "pyg_ea/fused/native"

kernels = Extension(
    "pyg_ea.fused.native.kernels",
    sources=[f"{FOLDER}/kernels.c"],
    depends=[f"{FOLDER}/{name}.h" for name in ("tanh_norm", "elements", "solve")],
    extra_compile_args=["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"],
    extra_link_args=["-fopenmp", "-lm"],
    optional=True,
)

setup(ext_modules=[kernels] if sys.platform == "linux" else [])
