"""Lists for many: those that each user gets alone, every user counted, the same bytes after any kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from gream.cli import main
from gream.decoding import recommend_file
from gream.decoding.history_file import Counts, Request, known_requests
from gream.decoding.recommend_file import Columns, write_lists
from gream.decoding.recommender import Recommender


def histories(folder: Path, num_users: int, **first: Any) -> Path:
    """Write a file of users with 1 to 7 purchases each; `first` replaces fields of the first row."""
    rng = np.random.default_rng(8)
    rows = [
        {"user_id": f"u{u}", "history": [f"item-{i}" for i in rng.permutation(24)[: 1 + u % 7]]}
        for u in range(num_users)
    ]
    rows[0] |= first
    path = folder / "histories.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def command(run: Path, file: Path, output: Path, *options: str) -> list[str]:
    return ["recommend", str(run), "--histories", str(file), "--output", str(output), "--k", "4", *options]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("mode", ["direct", "reasoning"])
def test_everyone_gets_the_list_that_they_get_alone(
    run_folder: Path, tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = histories(tmp_path, 11), tmp_path / "lists"
    options = ["--mode", mode, "--num_chains", "2", "--categories", "camping", "--users_per_part", "4"]
    more = ["--titles", *(["--chains"] if mode == "reasoning" else [])]
    assert main(command(run_folder, file, output, *options, *more)) == 0
    assert capsys.readouterr().out == f"11 of 11 users have lists in {output}\n"
    assert sorted(contents(output)) == [f"part-00000{p}.parquet" for p in range(3)]
    told = pl.read_parquet(output).rows_by_key("user_id", named=True, unique=False)
    assert list(told) == [f"u{u}" for u in range(11)]
    for line in file.read_text().splitlines():
        row = json.loads(line)
        alone = ["--history", ",".join(row["history"]), "--k", "4", "--json", *options[:-2]]
        assert main(["recommend", str(run_folder), *alone]) == 0
        expected = json.loads(capsys.readouterr().out)["recommendations"]
        for found, one in zip(told[row["user_id"]], expected, strict=True):
            assert (found["rank"], found["item_id"], found["title"]) == (
                one["rank"], one["item_id"], one["title"],
            )  # fmt: skip
            assert found["logp"] == pytest.approx(
                one["logp"], abs=1e-4
            )  # other padding, other summation order
            assert found["score"] is None and found.get("chain") == one["chain"]


def test_columns_are_there_if_they_are_asked_for() -> None:
    plain = ["user_id", "rank", "item_id", "logp", "score"]
    assert Columns().schema().names == plain
    assert Columns(title=True, chain=True).schema().names == [*plain[:3], "title", *plain[3:], "chain"]


def test_all_users_of_the_data_get_the_lists_of_their_histories(run_folder: Path, tmp_path: Path) -> None:
    words = ["recommend", str(run_folder), "--all_users", "--output", str(tmp_path / "lists"), "--k", "3"]
    assert main(words) == 0
    table = pl.read_parquet(tmp_path / "lists")
    assert table["user_id"].unique(maintain_order=True).to_list() == [f"user-{u}" for u in range(15)]
    recommender = Recommender.load(run_folder)
    expected = recommender.recommend(recommender.history_of("user-9"), k=3)
    of_user = table.filter(user_id="user-9")
    assert of_user["item_id"].to_list() == [one.item_id for one in expected]


def test_an_unknown_item_is_told_with_its_line_before_any_work(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = histories(tmp_path, 6, history=["item-1", "item-99"])
    assert main(command(run_folder, file, tmp_path / "lists")) == 2
    error = capsys.readouterr().err
    assert "1 of 6 users have an item that the catalogue does not have" in error and error.count("\n") == 1
    assert "line 1: `item-99`" in error and "`--unknown_items drop`" in error
    assert not list(tmp_path.glob("*lists*"))


@pytest.mark.parametrize(("how", "users"), [("drop", 6), ("skip", 5)])
def test_unknown_items_are_dropped_or_their_users_skipped_and_the_counts_add_up(
    run_folder: Path, tmp_path: Path, how: str, users: int, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = histories(tmp_path, 6, history=["item-1", "item-99"]), tmp_path / "lists"
    assert main(command(run_folder, file, output, "--unknown_items", how)) == 0
    text = capsys.readouterr().out
    assert f"{users} of 6 users have lists" in text
    assert ("1 unknown items taken out" in text) == (how == "drop")
    assert ("1 of 6 rows left out, an item that" in text) == (how == "skip")
    table = pl.read_parquet(output)
    assert (table.height, table["user_id"].n_unique()) == (4 * users, users)
    assert "item-1" not in table.filter(user_id="u0")["item_id"]


def test_a_user_for_whom_nothing_is_left_is_counted_and_no_mistake(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = histories(tmp_path, 3, history=["item-1", "item-2"]), tmp_path / "lists"
    assert main(command(run_folder, file, output, "--allow", "item-2,item-1", "--users_per_part", "1")) == 0
    assert "1 of 3 rows left out, nothing left to recommend: user 'u0'" in capsys.readouterr().out
    assert pl.read_parquet(output)["user_id"].unique(maintain_order=True).to_list() == ["u1", "u2"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--users_per_part", "0"], "users_per_part is 0; give at least 1"),
        (["--k", "0"], "k is 0; give at least 1"),
        (["--deny", "nothing"], "`deny` names `nothing`"),
        (["--expand_width", "40"], "needs a scorer"),
    ],
)
def test_settings_out_of_range_are_one_sentence(
    run_folder: Path, tmp_path: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(run_folder, histories(tmp_path, 2), tmp_path / "lists", *options)) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_whatever_the_lists_depend_on_may_not_change_between(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = histories(tmp_path, 3), tmp_path / "lists"
    assert main(command(run_folder, file, output)) == 0
    capsys.readouterr()
    whole = contents(output)
    moved = file.rename(tmp_path / "moved.jsonl")
    assert main(command(run_folder, moved, output)) == 0  # the same content
    assert "is whole already; nothing was written" in capsys.readouterr().out
    assert main(command(run_folder, moved, output, "--titles")) == 2
    assert "lists was begun with other titles; give the same again" in capsys.readouterr().err
    assert main(command(run_folder, histories(tmp_path, 4), output)) == 2
    assert "begun with other histories;" in capsys.readouterr().err
    weights = next((run_folder / "srpo").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert main(command(run_folder, moved, output)) == 2
    assert "begun with other run (model);" in capsys.readouterr().err
    assert contents(output) == whole


def test_users_are_read_as_they_are_answered(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more users are held than one part has."""
    monkeypatch.setattr(recommend_file, "_TOGETHER", 2)
    recommender = Recommender.load(run_folder)
    known, read, seen = known_requests(recommender.interactions), [0], []
    answer = recommender.answer

    def counted(counts: Counts) -> Iterator[Request | None]:
        read[0] = 0
        for request in known(counts):
            read[0] += 1
            yield request

    def recorded(questions: Any) -> Any:
        seen.append((read[0], len(questions)))
        return answer(questions)

    monkeypatch.setattr(recommender, "answer", recorded)
    write_lists(
        recommender, counted, tmp_path / "lists", {}, asked={"k": 2, "exclude_seen": True},
        refuse_left_out=True, columns=Columns(), users_per_part=5,
    )  # fmt: skip
    assert seen == [(5, 2), (5, 2), (5, 1), (10, 2), (10, 2), (10, 1), (15, 2), (15, 2), (15, 1)]


class Stop(BaseException):
    """Ends a command where it stands, as a kill does: nothing of gream clears up behind it."""


@pytest.mark.parametrize(
    ("module", "name", "number", "parts"),
    [
        (pq, "write_table", 1, 0),  # in part 0
        (os, "replace", 1, 0),  # part 0 written, not yet named
        (pq, "write_table", 4, 3),  # in the last part
        (os, "replace", 5, 4),  # all parts named, the folder not
    ],
)
def test_a_stopped_command_goes_on_after_the_last_whole_part(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, number: int,
    parts: int, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file, calls, function = histories(tmp_path, 15), [0], getattr(module, name)
    words = command(run_folder, file, tmp_path / "stopped", "--users_per_part", "4")
    assert main([*words, "--output", str(tmp_path / "whole")]) == 0

    def stopping(first: Any, second: Any) -> None:
        calls[0] += 1
        if calls[0] == number:
            if name == "write_table":
                second.write(b"PAR1 and then nothing")
            raise Stop
        function(first, second)

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(module, name, stopping)
        main(words)
    assert not (tmp_path / "stopped").exists()
    assert len(list((tmp_path / ".stopped.partial").glob("part-*"))) == parts
    capsys.readouterr()
    assert main(words) == 0
    users = {0: "", 3: "after 12 users", 4: "after 15 users"}[parts]
    assert ("going on" in (text := capsys.readouterr().out)) == bool(parts) and users in text
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert not (tmp_path / ".stopped.partial").exists()


_KILLED = """
import os, signal, sys
import pyarrow.parquet as pq
import torch
from gream.cli import main
from gream.decoding import recommend_command  # once, and not in every child

torch.set_num_threads(1)

def dying(function, number, before):
    calls = [0]
    def wrapped(*args):
        calls[0] += 1
        if calls[0] == number:
            before(args) if before else function(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return wrapped

def half(args):
    args[1].write(b"PAR1 and then nothing")
    args[1].flush()

def killed(module, name, number, before):
    child = os.fork()
    if not child:
        setattr(module, name, dying(getattr(module, name), number, before))
        os._exit(main(sys.argv[1:]) + 100)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL

killed(pq, "write_table", 1, half)          # amid part 0
killed(os, "replace", 1, lambda args: 0)    # part 0 written, not yet named
killed(os, "replace", 2, None)              # parts 0 and 1 named
killed(pq, "write_table", 2, half)          # part 2 named, amid part 3
killed(os, "replace", 2, lambda args: 0)    # all parts named, the folder not
"""


@pytest.mark.slow
def test_a_command_that_is_killed_at_any_moment_goes_on_to_the_same_bytes(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = histories(tmp_path, 15)
    options = ["--users_per_part", "4", "--titles"]
    assert main(command(run_folder, file, tmp_path / "whole", *options)) == 0
    words = command(run_folder, file, tmp_path / "killed", *options)
    subprocess.run([sys.executable, "-c", _KILLED, *words], check=True, timeout=300)
    assert not (tmp_path / "killed").exists()
    assert len(list((tmp_path / ".killed.partial").glob("part-*"))) == 4
    capsys.readouterr()
    assert main(words) == 0
    assert "going on after 15 users whose lists are there" in capsys.readouterr().out
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not (tmp_path / ".killed.partial").exists()


_MEASURED = """
import os, sys
import torch
from gream.cli import main
from gream.decoding import recommend_command  # once, and not in every child

torch.set_num_threads(1)
for file in sys.argv[2:]:
    child = os.fork()
    if not child:
        os._exit(main(["recommend", sys.argv[1], "--histories", file, "--output", file + ".lists",
                       "--users_per_part", "256"]))
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    print("peak", usage.ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_users(run_folder: Path, tmp_path: Path) -> None:
    """Ten times as many users: 27,000 lists more would be over 100 MB as objects, and 20 MB as a table."""
    files = []
    for num_users in (3_000, 30_000):
        (tmp_path / str(num_users)).mkdir()
        files.append(str(histories(tmp_path / str(num_users), num_users)))
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(run_folder), *files], check=True, capture_output=True, text=True
    )
    few, many = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak"))
    assert many - few < 10 * 1024  # KiB
