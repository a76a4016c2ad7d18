"""The one exception that data code shows to a user."""


class DataError(Exception):
    """A failure of the data that the user can act on.

    `str(error)` is one line: what was got, what was expected, what to do. The command line prints
    it without a traceback.
    """
