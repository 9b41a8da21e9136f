"""What both stages of `gream synthesize` are told about the model behind an endpoint.

Any server that speaks OpenAI's chat completions will do: vLLM, llama.cpp, a cloud. `parameters` goes into the
request as it stands, because servers differ in what they know: some take `max_tokens`, others only
`max_completion_tokens`; some have `seed` or `reasoning_effort`, others refuse them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gream.arguments import StageConfig, option
from gream.errors import InputError

LENGTH_PARAMETERS = ("max_tokens", "max_completion_tokens")  # of the request: what an answer may use at most
_RESERVED = ("model", "messages", "stream", "n")  # of the request: what gream sets itself, or cannot read
_POSITIVE = ("concurrency", "timeout")
_NOT_NEGATIVE = (
    "requests_per_minute",
    "retries",
    "repairs",
    "prompt_price",
    "completion_price",
    "token_budget",
    "money_budget",
)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


@dataclass(kw_only=True)
class TeacherConfig(StageConfig):
    """Settings of a stage that may ask a model behind an endpoint."""

    teacher: str = option("", doc="base URL of the endpoint, such as http://127.0.0.1:8000/v1")
    model: str = option("", doc="name of the model at the endpoint")
    api_key_env: str = option("", doc="name of the environment variable with the key; empty sends none")
    parameters: dict[str, Any] = option(
        {"max_tokens": 800, "temperature": 0.7}, doc="what the request holds besides; must limit the answer"
    )
    calls: str = option("calls", doc="folder inside run_dir of the answers, kept from run to run")
    concurrency: int = option(8, doc="calls at the same time")
    requests_per_minute: float = option(0.0, doc="most requests started in a minute; 0 for no limit")
    timeout: float = option(120.0, doc="seconds that an answer may take")
    retries: int = option(6, doc="times that a failed request is sent again")
    repairs: int = option(2, doc="times that an answer which cannot be used is asked for again")
    prompt_price: float = option(0.0, doc="price of a million prompt tokens, in any currency")
    completion_price: float = option(0.0, doc="price of a million completion tokens")
    token_budget: int = option(0, doc="most tokens of all answers, earlier runs included; 0 for no limit")
    money_budget: float = option(0.0, doc="most that all answers may cost; 0 for no limit")

    @property
    def calls_path(self) -> Path:
        """Folder of the answers."""
        return Path(self.run_dir) / self.calls

    @property
    def longest_answer(self) -> int:
        """Tokens that one answer may use."""
        return next(int(self.parameters[name]) for name in LENGTH_PARAMETERS if name in self.parameters)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What tokens cost, in the currency of the prices."""
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6


def check_teacher(config: TeacherConfig) -> None:
    """Refuse settings with which no call can be made; none of the sentences repeats what may be a secret.

    Raises:
        InputError: every mistake, in one sentence.
    """
    problems = [*_address_problems(config), *_request_problems(config)]
    if config.money_budget and not (config.prompt_price or config.completion_price):
        problems.append("`money_budget` needs `prompt_price` and `completion_price`")
    if not config.calls:
        problems.append("`calls` must name a folder")
    problems += [f"`{name}` must be above 0" for name in _POSITIVE if getattr(config, name) <= 0]
    problems += [f"`{name}` must not be negative" for name in _NOT_NEGATIVE if getattr(config, name) < 0]
    if problems:
        raise InputError(f"The teacher's settings cannot be used: {'; '.join(problems)}.")


def api_key(config: TeacherConfig) -> str:
    """The key from the environment, empty where the settings name none.

    Raises:
        InputError: the variable is not set.
    """
    if not config.api_key_env:
        return ""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise InputError(
            f"The environment variable {config.api_key_env}, which `api_key_env` names, is not set; "
            "export it."
        )
    return key


def _address_problems(config: TeacherConfig) -> list[str]:
    problems = []
    url = urlsplit(config.teacher)
    if url.scheme not in ("http", "https") or not url.hostname:
        problems.append("`teacher` must be the base URL of an endpoint, such as http://127.0.0.1:8000/v1")
    elif url.username is not None or url.query or url.fragment:
        problems.append(
            "`teacher` must be a URL without user, password or query: keys come from `api_key_env`"
        )
    if not config.model:
        problems.append("`model` must name the model at the endpoint")
    if config.api_key_env and not _VARIABLE.fullmatch(config.api_key_env):
        problems.append(
            "`api_key_env` must be the name of an environment variable in capitals, such as TEACHER_API_KEY, "
            "and never the key itself"
        )
    return problems


def _request_problems(config: TeacherConfig) -> list[str]:
    given = [name for name in LENGTH_PARAMETERS if name in config.parameters]
    problems = [f"`parameters` must not set `{name}`" for name in _RESERVED if name in config.parameters]
    lengths = [config.parameters[name] for name in given]
    if len(given) != 1 or not isinstance(lengths[0], int) or lengths[0] < 1:
        problems.append(f"`parameters` must set one of {', '.join(LENGTH_PARAMETERS)} to a number of tokens")
    return problems
