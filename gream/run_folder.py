"""One command at a time in a run's folder, and a disk that refuses told in a sentence.

The folder is held by a lock of the operating system, which ends with the process however that ends: a killed
command never keeps the next one away. Who holds it stands in the locked file, for the one that is refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gream.errors import InputError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"

_HELD = "GREAM_HELD"  # folders that this process, or the one that started it, holds
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network file systems
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_LEAST_FREE = 1 << 20  # bytes; with less than this the disk is why a library failed, whatever it says


@contextlib.contextmanager
def working_in(run_dir: Path, command: str) -> Iterator[None]:
    """Hold a run's folder while the block writes there.

    Of several processes that do one stage together only the first one holds the folder, and a stage that a
    command starts as a process of its own works under the command's lock.

    Args:
        run_dir: the run's folder; made where it is missing, and removed again if nothing came into it.
        command: what to call this command where another one is refused, such as `gream run recipes/demo`.

    Raises:
        InputError: another command works there; the folder cannot be written; the disk is full.
    """
    place = os.path.realpath(run_dir)
    held = os.environ.get(_HELD, "").split(os.pathsep)
    if place in held or os.environ.get("RANK", "0") != "0":
        with disk_trouble_told(run_dir):
            yield
        return
    made = not run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = _lock(run_dir, command)
    except OSError as error:
        raise InputError(
            f"Cannot write {run_dir}: {error.strerror}; make room there, or choose another `run_dir`."
        ) from error
    os.environ[_HELD] = os.pathsep.join([*filter(None, held), place])
    try:
        with disk_trouble_told(run_dir):
            yield
    finally:
        os.environ[_HELD] = os.pathsep.join(filter(None, held))
        with contextlib.suppress(OSError):  # a file that nobody holds is in nobody's way
            (run_dir / LOCK_FILE).unlink()  # while it is held, or it could be another's
        os.close(lock)
        if made:
            with contextlib.suppress(OSError):  # something is in it
                run_dir.rmdir()


def how_to_go_on(words: Sequence[str]) -> str:
    """Say what to do after Ctrl-C.

    Args:
        words: the command line after `gream`.
    """
    keeps_nothing = words[:1] in (["serve"], ["export"]) or (
        words[:1] == ["recommend"] and not any(word.split("=")[0] == "--output" for word in words)
    )
    if keeps_nothing:
        return "the same command begins anew."
    return (
        f"`{shlex.join(['gream', *words])}` goes on after what is finished: whole stages, the last saved "
        "state of a training (`save_steps`), whole parts of lists and of vectors."
    )


@contextlib.contextmanager
def disk_trouble_told(folder: Path) -> Iterator[None]:
    """Turn a full disk, or a place that must not be written, into an `InputError`.

    Libraries written in other languages raise exceptions of their own for a full disk, some without saying
    so; where nothing is free any more, that is what stopped them.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        told = _disk_trouble(error, folder)
        if told is None:
            raise
        raise InputError(told) from error


def _disk_trouble(error: BaseException, folder: Path) -> str | None:
    full = (
        f"No space is left for {folder}; make room and give the same command again, it goes on after what is "
        "finished."
    )
    seen: BaseException | None = error
    while seen is not None:
        number = seen.errno if isinstance(seen, OSError) else None
        if number in _FULL or any(f"os error {code})" in str(seen) for code in _FULL):
            return full
        if isinstance(seen, OSError) and number in _REFUSED:
            return (
                f"Cannot write {seen.filename or folder}: {seen.strerror}; free the place or choose another "
                "`run_dir`."
            )
        seen = seen.__cause__ or seen.__context__
    with contextlib.suppress(OSError):
        free = os.statvfs(folder)
        if free.f_bavail * free.f_frsize < _LEAST_FREE:
            return full
    return None


def _lock(run_dir: Path, command: str) -> int:
    """Lock the folder and write who holds it; returns the descriptor, which must stay open."""
    file = run_dir / LOCK_FILE
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(lock)
            os.close(lock)
            raise InputError(
                f"{run_dir} is being written by {holder}; wait for it, stop it, or choose another `run_dir`."
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(lock)
                raise
            logger.warning("%s cannot be locked; let no other command write there meanwhile", run_dir)
        if _is_still(file, lock):
            break
        os.close(lock)  # the holder before ended, and took its file away, after it was opened here
    note = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "command": command,
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    os.truncate(lock, 0)
    os.pwrite(lock, (json.dumps(note) + "\n").encode(), 0)
    return lock


def _is_still(file: Path, lock: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(lock))
    except FileNotFoundError:
        return False


def _holder(lock: int) -> str:
    """Tell who holds the folder, as far as it was written down yet."""
    try:
        note = json.loads(os.pread(lock, 65_536, 0))
        return f"`{note['command']}` (process {note['process']} on {note['host']}, since {note['since']})"
    except (ValueError, KeyError, TypeError):  # the holder has only begun, or died before it wrote
        return "another command"
