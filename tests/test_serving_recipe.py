"""The commands of recipes/serving are ones that the installed vLLM takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "recipes" / "serving"
COMMANDS = re.findall(
    r"^(?:\w+=\S+ )*(?:vllm serve|python -m vllm\S+) (.+)$", (FOLDER / "README.md").read_text(), re.MULTILINE
)
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())


def filled(text: str) -> str:
    """Put the defaults in for compose's variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_the_service_asks_the_servers_that_are_there() -> None:
    servers = dict(COMPOSE["services"])
    service = servers.pop("gream")
    words = shlex.split(service["command"])
    assert words[words.index("--url") + 1] == ",".join(f"http://{name}:8000" for name in servers)
    assert len(servers) == 2 and set(service["depends_on"]) == set(servers)
    assert not any("ports" in server for server in servers.values())  # gream's alone is published


@pytest.mark.vllm
@pytest.mark.parametrize("words", [*COMMANDS, filled(COMPOSE["services"]["vllm-0"]["command"])])
def test_vllm_knows_every_word(words: str) -> None:
    pytest.importorskip("vllm")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    given = shlex.split(words)
    if not given[0].startswith("-"):  # `vllm serve` takes the model without its word
        given = ["--model", *given]
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(given)
    assert parsed.model in ("runs/demo/srpo", "/runs/demo/srpo")


def test_all_commands_are_found() -> None:
    assert len(COMMANDS) == 11
