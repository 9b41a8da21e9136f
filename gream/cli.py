"""The `gream` command: a word for each stage, `run` for a recipe, `recommend` and `serve` for its use.

A user's mistake (`InputError`) is one sentence and exit code 2; everything else keeps its traceback.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gream.arguments import StageConfig, load_config, parse_overrides
from gream.errors import InputError
from gream.launch import COMMANDS, launch, launching, take_words
from gream.log import plain_log, quiet_libraries
from gream.processes import check_started, give_way, is_started, launched, tell
from gream.run_folder import how_to_go_on, working_in
from gream.words import asks_for_help, file_and_overrides, place, values

_USAGE = """usage: gream doctor [--json]
       gream plan RECIPE [--devices 8] [--device_memory 80] [--accelerate zero3] [--json]
       gream run RECIPE [--key value ...] [--accelerate zero3 [--processes 8]]
       gream STAGE --config FILE [--key value ...] [--accelerate zero3 [--processes 8]]
       gream data --inspect FILE_OR_FOLDER
       gream synthesize profiles|traces --config FILE [--dry-run]
       gream sids --compare FOLDER FOLDER ...
       gream sids --add ITEMS.jsonl --config FILE
       gream evaluate --compare RUN RUN ... [--to FOLDER]
       gream export RUN --to FOLDER
       gream recommend RUN (--history ID,ID | --user ID) [--mode reasoning] [--k 10] [--engine vllm] [--json]
       gream recommend RUN (--histories FILE | --all_users) --output FOLDER
       gream serve RUN [--config FILE] [--port 8000] [--engine vllm]

stages, in the order of a recipe:
  data        purchases and items from files or the simulator, cleaned and split
  synthesize profiles  one product text for each item, by a model behind an endpoint
  text        one text for each item
  embed       one vector for each item
  sids        names: a few codes for each item
  vocab       a language model that knows the item tokens
  synthesize  reasoning traces for training, also `synthesize traces`
  sft         supervised fine-tuning: alignment and reasoning
  srpo        reinforcement learning with a verifiable reward
  prm         the scorer that guides the search
  baselines   item kNN and SASRec, tuned on validation
  evaluate    report.json, report.md and plots

`gream STAGE --help` lists a stage's settings. A setting given as --key value wins over the file.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    quiet_libraries()
    try:
        with plain_log():
            check_started()
            code = _dispatch(words)
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        from gream.terminal import nobody_reads

        if not nobody_reads():
            raise
        return 141  # as of a program that SIGPIPE ends
    except InputError as error:
        tell(error)
        return 2
    except KeyboardInterrupt:
        if not is_started():
            tell(f"stopped; {how_to_go_on(words)}")
        return 130
    except Exception:
        give_way()
        raise


def run_module(stage: str) -> None:
    """Run one stage as `python -m gream.training.sft --config FILE`, the form that accelerate launches."""
    sys.exit(main([stage, *sys.argv[1:]]))


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0
    if words[0] == "--version":
        from gream import __version__

        print(__version__)
        return 0
    command, rest = words[0], words[1:]
    if command not in ("plan", "run"):
        plain, how = take_words(words)
        if how:
            return launch(plain, **how)
    if launched() > 1 and command not in COMMANDS:
        raise InputError(
            f"{launched()} processes were started, but `gream {command}` works in one; start it alone, "
            "`gream run` with `--accelerate NAME`."
        )
    commands: dict[str, Callable[[list[str]], int]] = {
        "doctor": _doctor,
        "plan": _plan,
        "run": _run,
        "recommend": _recommend,
        "serve": _serve,
        "export": _export,
    }
    if command in commands:
        return commands[command](rest)
    return _stage(command, rest)


def _stage(stage: str, words: list[str]) -> int:
    from gream.pipeline import STAGES, run_alone, stage_module

    stage, words = _with_second_word(stage, words)
    if stage not in STAGES:
        known = ("doctor", "plan", "run", "recommend", "serve", "export", *STAGES)
        raise InputError(f"`{stage}` is no command of gream; known: {', '.join(known)}.")
    task = _TASKS.get((stage, words[0].partition("=")[0])) if words else None
    if task:
        return task(words)
    module = stage_module(stage)
    if asks_for_help(words, module.CONFIG, f"gream {stage} --config FILE"):
        return 0
    rehearsed = stage in _REHEARSED and bool(_DRY_RUN & set(words))
    words = [word for word in words if not (rehearsed and word in _DRY_RUN)]
    config = load_config(module.CONFIG, *file_and_overrides(words, module.CONFIG))
    if rehearsed:
        print(module.rehearse(config))
        return 0
    run_alone(stage, config)
    return 0


def _with_second_word(stage: str, words: list[str]) -> tuple[str, list[str]]:
    """Take the second word of `synthesize profiles` and `synthesize traces`; the latter may be left out."""
    if stage != "synthesize" or words[:1] not in (["profiles"], ["traces"]):
        return stage, words
    return (stage if words[0] == "traces" else f"{stage} {words[0]}"), words[1:]


def _inspect(words: list[str]) -> int:
    from gream.data.inspect import inspect

    places = values(words)
    if len(places) != 1 or not places[0]:
        raise InputError("`gream data --inspect` needs one file or folder, and nothing else.")
    print(inspect(Path(places[0])), end="")
    return 0


def _compare(words: list[str]) -> int:
    from gream.semantic_ids.comparison import compare

    print(compare([Path(place) for place in values(words)]))
    return 0


def _compare_runs(words: list[str]) -> int:
    from gream.evaluation.compare_runs import compare_runs

    places = values(words)
    folder = Path("comparison")
    if "--to" in places:
        at = places.index("--to")
        if len(places) != at + 2:
            raise InputError("`--to` needs one folder, and nothing after it.")
        folder, places = Path(places[at + 1]), places[:at]
    print(compare_runs([Path(place) for place in places], folder))
    return 0


def _add(words: list[str]) -> int:
    from gream.semantic_ids.adding import add_items
    from gream.semantic_ids.build import SidsConfig

    file, *rest = values(words) or [""]
    if not file or file.startswith("--"):
        raise InputError("`gream sids --add` needs a file with one item a line, then `--config FILE`.")
    config = load_config(SidsConfig, *file_and_overrides(rest, SidsConfig))
    with working_in(Path(config.run_dir), f"gream sids --add {file}"):
        add_items(config, Path(file))
    return 0


def _export(words: list[str]) -> int:
    from gream.semantic_ids.export import ExportConfig, export

    run, rest = place(
        words, "a run's folder, such as runs/demo", "gream export RUN --to FOLDER", ExportConfig
    )
    if run is None:
        return 0
    export(load_config(ExportConfig, None, {"run_dir": run, **parse_overrides(rest, ExportConfig)}))
    return 0


_REHEARSED = ("synthesize", "synthesize profiles")  # stages that can say beforehand what they would ask
_DRY_RUN = {"--dry-run", "--dry_run"}

_TASKS: dict[tuple[str, str], Callable[[list[str]], int]] = {
    ("data", "--inspect"): _inspect,
    ("sids", "--compare"): _compare,
    ("sids", "--add"): _add,
    ("evaluate", "--compare"): _compare_runs,
}


def _doctor(words: list[str]) -> int:
    from gream.doctor.examine import DoctorConfig, doctor

    if asks_for_help(words, DoctorConfig, "gream doctor"):
        return 0
    told, code = doctor(load_config(DoctorConfig, None, parse_overrides(words, DoctorConfig)))
    print(told)
    return code


def _plan(words: list[str]) -> int:
    from gream.planning.plan import PlanConfig, plan

    recipe, rest = place(words, "a recipe's folder, such as recipes/demo", "gream plan RECIPE", PlanConfig)
    if recipe is not None:
        print(plan(Path(recipe), load_config(PlanConfig, None, parse_overrides(rest, PlanConfig))))
    return 0


def _run(words: list[str]) -> int:
    from gream.pipeline import run_recipe

    recipe, rest = place(words, "a recipe's folder, such as recipes/demo", "gream run RECIPE", StageConfig)
    if recipe is None:
        return 0
    rest, how = take_words(rest)
    start = {"launch": launching(rest, **how)} if how else {}
    run_dir, last = run_recipe(Path(recipe), parse_overrides(rest), **start)
    report = last.output_path / "report.json"
    if report.is_file():
        from gream.evaluation.report import format_evaluation

        print(format_evaluation(last.output_path))
        print(f"Try: gream recommend {run_dir} --user USER --mode reasoning, or: gream serve {run_dir}")
    return 0


def _recommend(words: list[str]) -> int:
    from gream.decoding.recommend_command import RecommendConfig, recommend_once, recommend_to_many
    from gream.decoding.shown_list import format_json, format_table
    from gream.terminal import WIDTH

    run, rest = place(words, "a run's folder, such as runs/demo", "gream recommend RUN", RecommendConfig)
    if run is None:
        return 0
    config = load_config(RecommendConfig, None, {"run_dir": run, **parse_overrides(rest, RecommendConfig)})
    if config.for_many:
        recommend_to_many(config)
    elif config.json:
        print(format_json(recommend_once(config)))
    else:
        print(format_table(recommend_once(config), shutil.get_terminal_size((WIDTH, 24)).columns))
    return 0


def _serve(words: list[str]) -> int:
    from gream.serving.app import ServeConfig, from_environment, run

    run_dir, rest = place(words, "a run's folder, such as runs/demo", "gream serve RUN", ServeConfig)
    if run_dir is None:
        return 0
    given = parse_overrides(from_environment(os.environ), ServeConfig)
    file, typed = file_and_overrides(rest, ServeConfig)
    run(load_config(ServeConfig, file, given | typed | {"run_dir": run_dir}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
