"""The command line: recipes that parse, mistakes that end in one sentence and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gream.arguments import load_config
from gream.cli import main
from gream.pipeline import STAGES, read_recipe, run_step, stage_module

RECIPES = sorted(p for p in (Path(__file__).parents[1] / "recipes").iterdir() if list(p.glob("[0-9]*.yaml")))


def _mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail; return its one sentence."""
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("gream: ") and error.count("\n") == 1 and "Traceback" not in error
    return error


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.name)
def test_every_recipe_parses_and_its_stages_find_their_inputs(recipe: Path) -> None:
    """Every input of a step is the output of a step before it."""
    written: set[str] = set()
    for step in read_recipe(recipe):
        run_dir = Path(step.config.run_dir)
        needed = {p.name for p in step.config.inputs().values() if p.parent == run_dir}
        assert needed <= written, f"{step.file} needs {needed - written}"
        written.add(step.config.output)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.name)
def test_every_recipe_file_begins_with_the_command_that_runs_it(recipe: Path) -> None:
    for step in read_recipe(recipe):
        first = step.file.read_text().splitlines()[0]
        assert first.startswith("#") and f"--config recipes/{recipe.name}/{step.file.name}" in first
        assert f" {step.stage} " in first or f"gream.training.{step.stage} " in first


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_settings_and_help(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = stage_module(stage)
    assert stage == module.STAGE
    assert main([*stage.split(), "--help"]) == 0
    assert "--run_dir" in capsys.readouterr().out


def test_help_names_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {stage} " in text for stage in STAGES)


def test_unknown_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no command of gream" in _mistake(capsys, "trian")


def test_unknown_key_names_file_key_and_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "1-data.yaml"
    file.write_text("num_itms: 3\n")
    for words in (["data", "--config", str(file)], ["run", str(tmp_path)]):
        error = _mistake(capsys, *words)
        assert "1-data.yaml" in error and "did you mean `num_items`" in error


@pytest.mark.parametrize("output", ["", ".", "..", "a/b", "../a", "/tmp", "a\0b"])
def test_a_stage_writes_into_one_folder_of_its_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    """What stands at the place of an output is replaced: with `..` that was the folder around the run."""
    (tmp_path / "1-data.yaml").write_text(json.dumps({"run_dir": str(tmp_path / "run"), "output": output}))
    (tmp_path / "precious").write_text("")
    for words in (["data", "--config", str(tmp_path / "1-data.yaml")], ["run", str(tmp_path)]):
        error = _mistake(capsys, *words)
        assert "`output` is" in error and "one folder inside of `run_dir`, such as 'data'" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-data.yaml", "precious"]


def test_inspect_prints_a_recipe_and_wants_one_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.csv"
    file.write_text("user,item\na,b\n")
    for words in (["--inspect", str(file)], [f"--inspect={file}"]):
        assert main(["data", *words]) == 0
        assert "source: table" in capsys.readouterr().out
    for words in (["--inspect"], ["--inspect="], ["--inspect", str(file), "--core", "2"]):
        assert "needs one file or folder, and nothing else" in _mistake(capsys, "data", *words)
    assert "does not exist" in _mistake(capsys, "data", "--inspect", str(tmp_path / "x"))


def test_names_are_compared_added_to_and_exported_only_if_they_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "needs two or more folders" in _mistake(capsys, "sids", "--compare", str(tmp_path))
    places = ["--compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert str(tmp_path / "a") in _mistake(capsys, "sids", *places)
    assert "needs a file with one item a line" in _mistake(capsys, "sids", "--add")
    assert "needs a file with one item a line" in _mistake(capsys, "sids", "--add", "--config", "x.yaml")
    words = ["--add", str(tmp_path / "items.jsonl"), "--run_dir", str(tmp_path)]
    assert str(tmp_path / "sids") in _mistake(capsys, "sids", *words)
    assert "needs a run's folder" in _mistake(capsys, "export")
    assert "needs a folder to write into" in _mistake(capsys, "export", str(tmp_path))
    assert main(["export", "--help"]) == 0
    assert "--to" in capsys.readouterr().out


def test_the_first_two_words_of_a_file_may_name_the_stage(tmp_path: Path) -> None:
    names = ["1-synthesize-profiles", "2-synthesize-profiles-short", "3-synthesize", "4-synthesize-more"]
    for name in names:
        (tmp_path / f"{name}.yaml").write_text("run_dir: x\n")
    stages = [(step.stage, step.title) for step in read_recipe(tmp_path)]
    assert stages == [
        ("synthesize profiles", "synthesize-profiles"),
        ("synthesize profiles", "synthesize-profiles-short"),
        ("synthesize", "synthesize"),
        ("synthesize", "synthesize-more"),
    ]


def test_recipe_without_files_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no numbered YAML" in _mistake(capsys, "run", str(tmp_path))
    assert "is no folder" in _mistake(capsys, "run", str(tmp_path / "x"))


def test_stage_whose_input_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = _mistake(capsys, "text", "--run_dir", str(tmp_path))
    assert str(tmp_path / "data") in error and "gream data" in error


def test_recommend_needs_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no finished run" in _mistake(capsys, "recommend", str(tmp_path), "--user", "7")
    assert "either --history" in _mistake(capsys, "recommend", str(tmp_path))


def test_current_stage_is_skipped_and_a_changed_one_runs_again(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    file = recipe / "1-data.yaml"
    settings = f"run_dir: {tmp_path / 'run'}\nnum_items: 120\nnum_customers: 200\n"

    def made() -> tuple[float, dict[str, str]]:
        [step] = read_recipe(recipe)
        run_step(step, "")
        manifest = tmp_path / "run" / "data" / "manifest.json"
        return manifest.stat().st_mtime_ns, json.loads(manifest.read_text())["outputs"]

    file.write_text(settings)
    first = made()
    assert made() == first
    file.write_text(settings + "seed: 9\n")
    again = made()
    assert again[0] != first[0] and again[1] != first[1]


def test_stages_run_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--run_dir", str(tmp_path), "--num_items", "120", "--num_customers", "200"]
    assert main(["data", *words]) == 0
    assert main(["text", "--run_dir", str(tmp_path)]) == 0
    assert (tmp_path / "text" / "item_text.parquet").is_file()
    assert f"wrote {tmp_path / 'text'}" in capsys.readouterr().out


def test_defaults_of_every_stage_are_valid_settings() -> None:
    for stage in STAGES:
        config = stage_module(stage).CONFIG
        needed = {} if stage != "evaluate" else {"model": "srpo"}
        assert load_config(config, None, needed).output


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_is_no_error(unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`gream ... | head` ends as other programs do: without a traceback, and not as if all were well."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = [sys.executable, "-m", "gream.cli", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
        assert process.wait() == 141
    assert "Traceback" not in told and "Broken" not in told
