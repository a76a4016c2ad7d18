"""Failures of training in words, and signals as ``Interrupted``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities.exceptions import SIGTERMException

from experiments.common import Interrupted, UserError
from experiments.molpcba.training import NOT_FINITE
from pyg_ea.diagnostics import DivergenceWarning

WAYS_OUT = {
    "TerminatedWorker": "a worker process died, most often for lack of memory: free some memory, "
    "and run the same command again",
    "MemoryError": "out of memory: lower --batch-size, or train with --adjoint checkpointed, fewer "
    "--steps or a smaller --width",
    "NaN or infinite": f"the network's activations are not finite: {NOT_FINITE}",
    "loading state_dict": "the checkpoint is of another version, whose network differs: use that "
    "version, or start a new run with --name",
    "OSError": "writing failed ({error}): free the disk or choose another folder (--runs-dir, "
    "--out); --resume continues a run",
    "Misconfiguration": "{error}",
}
"""Words in the type or message of a failure, and the message to the user for it."""


@contextmanager
def explained(way_on: str = "the same command starts it again") -> Iterator[None]:
    """Turns failures that the user can act on into a ``UserError``, signals into ``Interrupted``.

    Remarks of libraries that do not concern the user of a run are left out. ``way_on`` is what the
    user can do after an interruption.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # the history reports it
            warnings.filterwarnings("ignore", ".*treespec, LeafSpec.* is deprecated")
            yield
    except SIGTERMException as error:
        raise Interrupted("SIGTERM", way_on) from error
    except SystemExit as error:  # Lightning's answer to Ctrl-C
        if isinstance(error.__context__, KeyboardInterrupt):
            raise Interrupted("SIGINT", way_on) from error
        raise
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        kind = f"{[own.__name__ for own in type(error).mro()]} {text}"
        kind = kind.replace("allocate memory", "MemoryError")  # torch on a CPU
        for sign, way_out in WAYS_OUT.items():
            if sign in kind:
                raise UserError(way_out.format(error=text)) from error
        raise
