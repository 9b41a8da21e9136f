"""The one exception that means: the user can mend this."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in a recipe, a file or a request, told in one sentence.

    The message says what was given, what was expected and what to do. The command line prints it
    without a traceback and leaves with exit code 2; the HTTP service answers with a 4xx. Every other
    exception is a defect of gream and keeps its traceback.
    """


class NotFoundError(InputError):
    """An id or a name that the data does not have."""
