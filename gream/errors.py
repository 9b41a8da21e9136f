"""Exceptions that are no defects: what the user can mend, and an engine that cannot be reached."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in a recipe, a file or a request, told in one sentence.

    The message says what was given, what was expected and what to do. The command line prints it
    without a traceback and leaves with exit code 2; the HTTP service answers with a 4xx. Every other
    exception but `EngineUnavailable` is a defect of gream and keeps its traceback.
    """


class EngineUnavailable(RuntimeError):
    """What runs the model does not answer: no request was wrong, and the same one may be served later.

    The message says which servers were asked and what each said.
    """


class NotFoundError(InputError):
    """An id or a name that the data does not have."""
