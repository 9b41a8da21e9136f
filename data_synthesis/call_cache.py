"""Answers of a teacher on disk: one file for each call, so that nothing is ever paid for twice.

A file is written under another name and moved into place, so whatever kills the process leaves every answer
whole or absent. The name is the hash of everything that decides the answer: the model, the messages and the
parameters. Whom the request was sent to and with which key is no part of it and stands nowhere in the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gream.errors import InputError

Message = Mapping[str, str]  # role and content


@dataclass(frozen=True)
class Answer:
    """What one call brought, and what it used."""

    text: str
    finish_reason: str  # "stop", "length" where the answer was cut off, or a server's own word
    prompt_tokens: int
    completion_tokens: int


def call_key(model: str, messages: Sequence[Message], parameters: Mapping[str, Any]) -> str:
    """Hash what decides an answer, the same for every order of the parameters."""
    request = {"model": model, "messages": [dict(m) for m in messages], "parameters": dict(parameters)}
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class CallCache:
    """A folder of answers by key, two hexadecimal digits to a subfolder.

    Args:
        folder: where the answers lie; made when the first one comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Answer | None:
        """Read an answer, None where the call was not made yet.

        Raises:
            InputError: the file is there but holds no answer, because something else wrote it.
        """
        path = self._path(key)
        try:
            return TypeAdapter(Answer).validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise InputError(
                f"{path} holds no answer of a teacher; delete this file, and its call is made again."
            ) from error

    def put(self, key: str, answer: Answer) -> None:
        """Write an answer, whole or not at all.

        Raises:
            InputError: the folder cannot be written.
        """
        path = self._path(key)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as file:
                json.dump(asdict(answer), file)
                file.flush()
                os.fsync(
                    file.fileno()
                )  # else a machine that goes down could keep the name and lose the bytes
            os.replace(partial, path)
        except OSError as error:
            raise InputError(
                f"An answer cannot be kept in {self.folder} ({error.strerror}); free the place and run the "
                "same command again: it goes on from the answers that are there."
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
