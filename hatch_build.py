"""Builds the C code where there is a compiler, and names the wheel after what was built.

The library knows neither Python's ABI nor torch's, so there is one wheel for a platform and, where
the C code cannot be built, a pure one. CC, CFLAGS and LDFLAGS are read from the environment.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "pyg_ea/fused/native"
LIBRARY = f"{FOLDER}/kernels.so.0"  # tools take a file that ends in .so for a Python module
COMMAND = (
    "{CC} -O3 -fPIC -shared -fopenmp -fno-math-errno -fno-trapping-math {CFLAGS} "
    f"{FOLDER}/kernels.c -o {LIBRARY} {{LDFLAGS}} -lm"
)


class BuildHook(BuildHookInterface):
    """Runs before the wheel is made, and before an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds the library in place, and has it packed; on Linux only, where it was tried."""
        if sys.platform != "linux":
            return
        Path(self.root, LIBRARY).unlink(missing_ok=True)
        variables = {"CC": "cc", "CFLAGS": "", "LDFLAGS": ""} | os.environ
        command = shlex.split(COMMAND.format_map(variables))
        try:
            subprocess.run(command, cwd=self.root, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"without the C code, which was not built: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False
        build_data["artifacts"].append(LIBRARY)
