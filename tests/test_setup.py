"""`tools/setup.sh`, driven with a scripted python in .venv: what it installs, when, and how it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKING = """#!/bin/bash
# Plays a Python 3.11: notes every pip call, and fails those that match $FAILING with the message $ERROR.
case "$*" in
    *"-m pip install"*)
        echo "$*" >>"$CALLS"
        if [[ -n "$FAILING" && "$*" =~ $FAILING ]]; then echo "$ERROR" >&2; exit 1; fi ;;
    *gream*) echo 0.1.0 ;;
esac
"""
OTHER_VERSION = """#!/bin/bash
case "$*" in
    -V) echo "Python 3.9.1" ;;
    *version_info*) exit 1 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """The files that the set-up reads, in a folder with a space in its name."""
    folder = tmp_path / "a checkout"
    for name in ("tools/setup.sh", "requirements/lock-cpu.txt", "pyproject.toml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def put_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def setup(checkout: Path, *, failing: str = "", error: str = "", **environment: str):
    """Run the set-up with plenty of disk, unless `environment` says otherwise."""
    roomy = checkout.parent / "roomy"
    put_program(roomy / "df", "#!/bin/sh\necho head\necho x 1 1 99000000 1% /\n")
    calls = checkout.parent / "calls"
    calls.write_text("")
    own = {"PATH": f"{roomy}:{os.environ['PATH']}", "CALLS": str(calls), "FAILING": failing, "ERROR": error}
    done = subprocess.run(
        ["bash", "tools/setup.sh"],
        cwd=checkout,
        env={**os.environ, "PYTHON": "", **own, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, calls.read_text().splitlines()


def test_torch_comes_first_and_nothing_brings_its_own_dependencies(checkout):
    put_program(checkout / ".venv/bin/python", WORKING)
    done, calls = setup(checkout)
    assert done.returncode == 0, done.stderr
    assert len(calls) == 3
    assert calls[0].endswith("torch==2.13.0+cpu")
    assert calls[1].endswith("-r requirements/lock-cpu.txt")
    assert calls[2].endswith("--no-build-isolation --editable .")
    assert all("--no-deps" in call for call in calls)


def test_a_second_run_installs_nothing_and_a_changed_lock_installs_again(checkout):
    put_program(checkout / ".venv/bin/python", WORKING)
    setup(checkout)
    done, calls = setup(checkout)
    assert (done.returncode, done.stdout, calls) == (0, "", [])
    with (checkout / "requirements/lock-cpu.txt").open("a") as lock:
        lock.write("newcomer==1.0\n")
    assert len(setup(checkout)[1]) == 3


def test_torch_comes_from_pytorchs_own_index_where_the_sources_have_no_cpu_build(checkout):
    put_program(checkout / ".venv/bin/python", WORKING)
    error = "ERROR: No matching distribution found"
    done, calls = setup(checkout, failing=r"no-deps torch==", error=error)
    assert done.returncode == 0
    assert "--index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu" in calls[1]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("Retrying after connection broken by NewConnectionError", "connect this machine to the network"),
        ("OSError: [Errno 28] No space left on device", "The disk ran full"),
        ("ERROR: no such wheel", "ERROR: no such wheel\nsetup: pip could not install"),
    ],
)
def test_a_failed_installation_says_what_to_do_and_is_completed_by_the_next_run(checkout, error, told):
    put_program(checkout / ".venv/bin/python", WORKING)
    setup(checkout)
    with (checkout / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    done, _ = setup(checkout, failing="lock-cpu", error=error)
    assert done.returncode == 2
    assert told in done.stderr
    done, calls = setup(checkout)
    assert (done.returncode, len(calls)) == (0, 3)


def test_a_package_whose_installation_was_interrupted_is_forgotten(checkout):
    put_program(checkout / ".venv/bin/python", WORKING)
    packages = checkout / ".venv/lib/python3.11/site-packages"
    for name in ("half-1.0.dist-info", "whole-1.0.dist-info"):
        (packages / name).mkdir(parents=True)
    (packages / "whole-1.0.dist-info" / "RECORD").touch()
    setup(checkout)
    assert [path.name for path in packages.iterdir()] == ["whole-1.0.dist-info"]


def test_no_python_is_told(checkout):
    done, _ = setup(checkout, PYTHON="/nowhere/python3.11")
    assert done.returncode == 2
    assert "No Python 3.11 or 3.12 was found at /nowhere/python3.11: install one" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_is_told(checkout):
    bare = checkout.parent / "bare"
    put_program(bare, '#!/bin/bash\ncase "$*" in *ensurepip*) exit 1 ;; esac\n')
    done, _ = setup(checkout, PYTHON=str(bare))
    assert done.returncode == 2
    assert "run 'apt install python3-venv' as root" in done.stderr


def test_no_disk_is_told(checkout):
    full = checkout.parent / "full"
    put_program(full / "df", "#!/bin/sh\necho head\necho x 1 1 2000000 1% /\n")
    done, _ = setup(checkout, PATH=f"{full}:{os.environ['PATH']}")
    assert done.returncode == 2
    assert "Only 1953 MB are free here and the installation needs about 5 GB" in done.stderr


def test_a_venv_of_another_python_is_left_alone(checkout):
    put_program(checkout / ".venv/bin/python", OTHER_VERSION)
    done, _ = setup(checkout)
    assert done.returncode == 2
    assert ".venv is there already with Python 3.9.1" in done.stderr
    assert (checkout / ".venv/bin/python").read_text() == OTHER_VERSION
