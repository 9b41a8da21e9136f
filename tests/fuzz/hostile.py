"""What the fuzz tests share: hostile values and files, how many cases, and what counts as clear.

A test runs some ten cases by default, the same ones each time, and 2,000 with `-m slow`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gream.errors import InputError

CASES = [25, pytest.param(2000, marks=pytest.mark.slow)]
LONGEST_MESSAGE = 20_000  # characters
MOST_SECONDS = 30  # for one case, on a busy machine
MOST_MEMORY = 1 << 30  # bytes that a test may take at most, for inputs of a few kilobytes

HOSTILE_TEXTS = [
    "",
    " ",
    "\x00",
    "\n",
    "\r\n",
    "\t",
    "\u2028",
    "\ufeff",
    "\ud800",
    "é" * 40,
    "👩‍👩‍👧",
    "a" * 5000,
    "'",
    '"',
    '"""',
    "::",
    "|",
    ",",
    ";",
    "\\",
    "../../etc/passwd",
    "${HOME}",
    "{{ 7*7 }}",
    "{% raw %}",
    "<a_1>",
    "<a_0><b_0><c_0>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<think>",
    "</think>",
    "<answer>",
    "&amp;lt;b&gt;",
    "<br",
    "NaN",
    "Infinity",
    "-0",
    "1e400",
    "9" * 400,
    "0x10",
    "007",
    "7.0",
    "true",
    "null",
    "None",
    "[1, 2]",
    "{'a': 1}",
    "1970-01-01",
    "9999-99-99",
    "(1, 2)",
    "=cmd()",
    "\x1b[31m",
    "\u202e",
    "İ",
    "ß",
    "\x85",
    "a b",
    "#",
    "~",
    "nobody",
]
HOSTILE_NUMBERS = [
    0,
    -1,
    1,
    2,
    7,
    1.5,
    -0.0,
    1e-320,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    2**31,
    2**53 + 1,
    2**62,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    1_700_000_000,
    1_700_000_000_000,
    True,
    False,
    None,
]

texts = st.one_of(
    st.sampled_from(HOSTILE_TEXTS),
    st.text(max_size=12),
    st.text(st.characters(codec=None), max_size=6),  # lone surrogates too
)
numbers = st.one_of(st.sampled_from(HOSTILE_NUMBERS), st.integers(), st.floats())
ids = st.one_of(st.sampled_from(["u1", "u2", "i1", "i2", "i3", "1", "2", "3", 1, 2]), texts, numbers)
values = st.recursive(
    st.one_of(texts, numbers),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


def spell(value: Any, *, literal: bool = False) -> bytes:
    """Write a value as JSON, or as Python prints it; what cannot be encoded is escaped."""
    text = repr(value) if literal else json.dumps(value)
    return text.encode("utf-8", "backslashreplace")


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Give bytes as they are, or harmed as files are: cut, changed, doubled, packed, in another encoding."""
    kind = draw(
        st.sampled_from(["whole"] * 4 + ["cut", "flip", "insert", "double", "gzip", "bom", "crlf", "latin"])
    )
    at = draw(st.integers(0, max(0, len(data) - 1)))
    if kind == "cut":
        return data[:at]
    if kind == "flip" and data:
        return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    if kind == "insert":
        return data[:at] + draw(st.binary(max_size=8)) + data[at:]
    if kind == "double":
        return data[:at] + data
    if kind == "gzip":
        packed = gzip.compress(data, mtime=0)
        return packed[: draw(st.sampled_from([len(packed), len(packed) // 2, 3, 2]))]
    if kind == "bom":
        return b"\xef\xbb\xbf" + data
    if kind == "crlf":
        return data.replace(b"\n", b"\r\n")
    if kind == "latin":
        return data.decode("utf-8", "replace").encode("utf-16" if at % 2 else "latin-1", "replace")
    return data


def fuzz(cases: int) -> settings:
    """Return the settings of hypothesis: so many cases, the same ones each time."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=cases, derandomize=True, deadline=None, database=None, suppress_health_check=checks
    )


def clear(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call; give its result, or None where it refused its input in clear words, without a hang or a warning.

    Anything else that it raises goes on: a traceback that a user would see.
    """
    try:
        with in_time(), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numpy's way to tell of numbers that are none
            return call(*arguments)
    except InputError as error:
        told = str(error)
        assert len(told) > 20 and len(told) <= LONGEST_MESSAGE, f"{len(told)} characters: {told[:500]}"
        assert told.rstrip()[-1] in ".)", told[-80:]
        return None


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Raise where the block takes much too long."""

    def hang(*_: Any) -> None:
        raise TimeoutError(f"no end after {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Fail where the block makes this process much larger than it ever was."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MOST_MEMORY, f"{grown >> 20} MB more"


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder that has nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.rglob("*"), reverse=True):
        old.rmdir() if old.is_dir() else old.unlink()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
