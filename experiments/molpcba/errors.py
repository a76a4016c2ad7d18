"""Failures that the user can act on."""


class UserError(Exception):
    """A mistake or circumstance that the user can act on.

    ``str(error)`` is one line: what was got, what was expected, what to do. The command line
    prints it without a traceback and ends with exit code 2.
    """


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """Training was asked to stop (Ctrl-C or SIGTERM); the run folder is in order."""
