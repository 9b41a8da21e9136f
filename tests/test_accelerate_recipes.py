"""The files of recipes/accelerate are ones that the installed accelerate reads, every word of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from torch.distributed.run import get_args_parser
from trl import TrlParser
from trl.scripts.vllm_serve import ScriptArguments

from gream.arguments import load_config, parse_overrides
from gream.decoding.recommend_command import RecommendConfig
from gream.launch import take_words
from gream.pipeline import stage_module
from gream.training.srpo import SRPOConfig, _check

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
SHARED = re.findall(r"^torchrun (.*)$", _README, re.MULTILINE)
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
    assert (len(COMMANDS), len(SHARED)) == (4, 3)


def test_the_commands_of_a_server_for_rollouts_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL knows the server's words; the learner's batch can be split by the devices that are left."""
    recipe = FOLDER.parent / "gream-full"
    text = (recipe / "README.md").read_text().replace("\\\n", " ")
    serve = shlex.split(re.findall(r"trl vllm-serve (.*)$", text, re.MULTILINE)[0])
    [server] = TrlParser(ScriptArguments).parse_args_and_config(serve)
    devices, learner = re.findall(r"CUDA_VISIBLE_DEVICES=(\S+) gream srpo (.*)$", text, re.MULTILINE)[0]
    words, how = take_words(shlex.split(learner))
    settings = parse_overrides(words, SRPOConfig)
    file = recipe.parents[1] / str(settings.pop("config"))
    config = load_config(SRPOConfig, file, settings)
    assert how == {"accelerate": "ddp"}
    assert config.vllm_url == f"http://{server.host}:{server.port}"
    assert server.model == f"{config.run_dir}/{config.model}"
    monkeypatch.setenv("WORLD_SIZE", str(len(devices.split(","))))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    _check(config)


@pytest.mark.parametrize("words", SHARED)
def test_torchrun_and_gream_know_every_word_of_the_commands(words: str) -> None:
    parsed = get_args_parser().parse_args(shlex.split(words))
    assert parsed.module and parsed.training_script == "gream.cli" and parsed.nproc_per_node == "2"
    command, place, *rest = parsed.training_script_args
    if command == "recommend":
        load_config(RecommendConfig, None, {"run_dir": place, **parse_overrides(rest, RecommendConfig)})
    else:
        load_config(stage_module(command).CONFIG, FOLDER.parents[1] / rest[0])
