"""What is told of a plan before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gream.artifacts import writing
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.language.curriculum import Curriculum, digest, group_by_length, training_plan
from gream.language.prompting import Prompter
from gream.language.reasoning import save_traces
from gream.language.vocab import save_model
from gream.semantic_ids.layout import Names, save_names
from gream.training.plan_report import plan_figure, plan_table, write_plan
from gream.training.sft import SftConfig, run
from tests.language.test_reasoning import TRACE


def plan_of(tasks: list[str]) -> Curriculum:
    counts = {task: tasks.count(task) for task in dict.fromkeys(tasks)}
    return Curriculum([([place], [1]) for place in range(len(tasks))], tasks, counts)


STAGED = plan_of(["names"] * 60 + ["titles_of_items"] * 140)


def test_the_table_has_rows_and_shares_of_every_tenth() -> None:
    lines = [line.split() for line in plan_table(STAGED, "staged").splitlines()]
    assert ["200", "rows", "in", "training", "order,", "schedule", "`staged`"] in lines
    assert ["names", *["20"] * 3, *["0"] * 7] in lines
    assert ["60", "of", "all,", "30%", *["100%"] * 3, *["0%"] * 7] in lines
    assert ["titles_of_items", *["0"] * 3, *["20"] * 7] in lines


def test_the_table_fits_a_terminal_whatever_the_tasks_are_called() -> None:
    plan = plan_of(["names_to_next_description"] * 120_000 + ["b"] * 9_999)
    table = plan_table(plan, "uniform")
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 100
    assert "120,000 of all, 92%" in table and "…" not in table


def test_a_plan_of_fewer_rows_than_tenths_is_told() -> None:
    assert "100%" in plan_table(plan_of(["a", "b"]), "uniform")


def test_the_folder_says_what_was_trained_on_and_a_picture_is_the_same_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_plan(tmp_path / name, STAGED, "staged")
    told = json.loads((tmp_path / "one" / "plan.json").read_text())
    assert told == {
        "rows": 200,
        "schedule": "staged",
        "tasks": {"names": 60, "titles_of_items": 140},
        "tenths": {"names": [20] * 3 + [0] * 7, "titles_of_items": [0] * 3 + [20] * 7},
        "digest": digest(STAGED.rows),
    }
    one, two = ((tmp_path / name / "plan.png").read_bytes() for name in ("one", "two"))
    assert one == two and one.startswith(b"\x89PNG")


def test_the_areas_of_the_picture_are_the_shares_and_fill_it() -> None:
    names, titles = (step.get_data() for step in plan_figure(STAGED, "staged").axes[0].patches)
    assert names.values.tolist() == [1.0] * 15 + [0.0] * 35  # fifty slices, 30 % of them all names
    assert titles.values.tolist() == [1.0] * 50
    assert names.baseline.tolist() == [0.0] * 50 and titles.baseline.tolist() == names.values.tolist()


def test_the_stage_tells_its_plan_before_training_and_keeps_it(
    tmp_path: Path,
    model_and_tokenizer: tuple[Any, Any],
    names: Names,
    catalogue: Catalogue,
    interactions: Interactions,
    prompter: Prompter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with writing(tmp_path / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions)
    (tmp_path / "sids").mkdir()
    (tmp_path / "traces").mkdir()
    save_names(tmp_path / "sids", names)
    save_traces(tmp_path / "traces", [TRACE] * 9)
    save_model(tmp_path / "base", *model_and_tokenizer, names)
    tasks = {"next_item": 1.0, "reasoning_5": 1.0}
    with caplog.at_level("INFO"):
        run(SftConfig(run_dir=str(tmp_path), traces="traces", tasks=tasks, epochs=2, batch_size=4,
                      schedule="rising", max_history=5))  # fmt: skip
    told = json.loads((tmp_path / "sft" / "plan.json").read_text())
    plan = training_plan(
        tasks, catalogue, interactions, prompter, epochs=2, traces=[TRACE] * 9, schedule="rising"
    )
    assert told["tasks"] == {"next_item": 30, "reasoning_5": 18} and told["schedule"] == "rising"
    assert told["digest"] == digest(group_by_length(plan, 4).rows)
    assert (tmp_path / "sft" / "plan.png").is_file()
    assert "48 rows in training order, schedule `rising`" in caplog.text
