"""The files of recipes/accelerate are ones that the installed accelerate reads, every word of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

FOLDER = Path(__file__).parents[1] / "recipes" / "accelerate"
KINDS = {
    "single": DistributedType.NO,
    "ddp": DistributedType.MULTI_GPU,
    "zero2": DistributedType.DEEPSPEED,
    "zero3": DistributedType.DEEPSPEED,
    "fsdp": DistributedType.FSDP,
}
# Lines that end in a backslash are one command; what the shell fills in is filled in.
_README = (FOLDER / "README.md").read_text().replace("\\\n", " ")
_FILLED = {
    "$((8 * SLURM_NNODES))": "16",
    "$SLURM_NNODES": "2",
    "$SLURM_NODEID": "1",
    "$HEAD": "node-a",
    "$rank": "1",
}
for _word, _value in _FILLED.items():
    _README = _README.replace(_word, _value)
COMMANDS = re.findall(r"accelerate launch (--config_file.*?)(?:'|\" &)?$", _README, re.MULTILINE)


def test_there_is_a_file_for_each_kind() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("use_cpu", [False, True])
def test_accelerate_reads_the_file_and_knows_every_key(name: str, use_cpu: bool, tmp_path: Path) -> None:
    """Its reader takes any key inside of `deepspeed_config` and `fsdp_config`, and forgets wrong ones."""
    text = (FOLDER / f"{name}.yaml").read_text()
    file = tmp_path / "config.yaml"
    file.write_text(text.replace("use_cpu: false", f"use_cpu: {str(use_cpu).lower()}"))
    config = load_config_from_file(str(file))
    assert isinstance(config, ClusterConfig)
    assert (config.distributed_type, config.use_cpu) == (KINDS[name], use_cpu)
    assert config.num_processes == (1 if name == "single" else 8)
    known = {action.dest for action in launch_command_parser()._actions}
    assert {*config.deepspeed_config, *config.fsdp_config} <= known
    assert config.deepspeed_config.get("zero_stage") == {"zero2": 2, "zero3": 3}.get(name)


@pytest.mark.parametrize("words", COMMANDS)
def test_accelerate_knows_every_word_of_the_commands(words: str) -> None:
    parsed = launch_command_parser().parse_args(shlex.split(words))
    root = FOLDER.parents[1]
    assert (root / parsed.config_file).is_file() and parsed.module
    assert (root / (parsed.training_script.replace(".", "/") + ".py")).is_file()
    assert parsed.training_script_args[0] == "--config"
    assert (root / parsed.training_script_args[1]).is_file()


def test_all_commands_are_found() -> None:
    assert len(COMMANDS) == 4
