"""The C kernels, which the package does without where they cannot be built; see pyproject.toml."""

import sys

from setuptools import Extension, setup

FOLDER = "pyg_ea/native"

kernels = Extension(
    "pyg_ea.native.kernels",
    sources=[f"{FOLDER}/kernels.c"],
    depends=[f"{FOLDER}/tanh_norm.h", f"{FOLDER}/passes.h", f"{FOLDER}/step.h"],
    extra_compile_args=["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"],
    extra_link_args=["-fopenmp", "-lm"],
    optional=True,
)

setup(ext_modules=[kernels] if sys.platform == "linux" else [])
