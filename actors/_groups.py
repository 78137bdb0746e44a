"""Taking apart the exception groups that trio's nurseries raise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import trio


def unwrap(error: BaseException) -> BaseException:
    """Return the exception inside groups of one, or the group where there are several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def split_crash(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Tell a crash from what must go on: cancellation, KeyboardInterrupt and their like."""
    crash: BaseException | None
    rest: BaseException | None
    if isinstance(error, BaseExceptionGroup):
        crash, rest = error.split(Exception)
    elif isinstance(error, Exception):
        crash, rest = error, None
    else:
        crash, rest = None, error
    if crash is not None:
        crash = unwrap(crash)
        assert isinstance(crash, Exception)
    return crash, rest


def without_cancellation(error: BaseException | None) -> BaseException | None:
    """Return what there is in `error` beside cancellation, None if that is all."""
    if isinstance(error, BaseExceptionGroup):
        _, others = error.split(trio.Cancelled)
        return None if others is None else unwrap(others)
    return None if isinstance(error, trio.Cancelled) else error


@contextlib.contextmanager
def bare_errors() -> Iterator[None]:
    """Raise the exception itself where a nursery put a single one into a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = unwrap(group)
        if error is group:
            raise
        cause, context, quiet = error.__cause__, error.__context__, error.__suppress_context__
        try:
            raise error
        finally:
            # Raising it here has made the group its context, which says nothing.
            error.__cause__, error.__context__ = cause, context
            error.__suppress_context__ = quiet
            del error, cause, context
