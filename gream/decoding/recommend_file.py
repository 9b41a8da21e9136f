"""Lists for many users: `gream recommend RUN --histories FILE --output FOLDER`, or `--all_users`.

The users are read twice. The first time they are only counted and checked, so that a mistake in the last line
is told before the first hour of work; the second time they are answered, `users_per_part` of them into one
Parquet file. Neither time are they all in memory, nor their lists. A command that was killed goes on after
the last whole file: its users are cut in the same way, so the bytes are those of a command that was not.
Several processes take the missing files in turn, and each reads the users for itself; the first one counts
them, holds the folder and gives it its name.

One row is one user and one rank. Legend: N items.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from gream.artifacts import fingerprint
from gream.decoding.history_file import NOTHING_LEFT, Counts, Request, Requests, answerable
from gream.decoding.list_parts import ListParts
from gream.decoding.recommender import RUN_FILE, Question, Recommendation, Recommender
from gream.decoding.run_file import read_run_settings
from gream.errors import InputError
from gream.processes import ALONE, Team, no_bar

logger = logging.getLogger(__name__)

_TOGETHER = 256  # users of one call of `Recommender.answer`; as many prompts fit into one search

_CHAIN = pa.struct(
    [
        *[
            (n, pa.string())
            for n in ("evidence", "preference", "intent", "recommendation", "rewritten_history")
        ],
        ("well_formed", pa.bool_()),
    ]
)
_FIELDS = {
    "user_id": pa.string(),
    "rank": pa.int32(),  # from 1
    "item_id": pa.string(),
    "title": pa.string(),
    "logp": pa.float32(),
    "score": pa.float32(),  # null without a scorer
    "chain": _CHAIN,
}


@dataclass(frozen=True)
class Columns:
    """Columns that a table has only if they are asked for."""

    title: bool = False
    chain: bool = False

    def schema(self) -> pa.Schema:
        """Names and types of all columns."""
        wanted = {**dict.fromkeys(_FIELDS, True), **asdict(self)}
        return pa.schema([(name, kind) for name, kind in _FIELDS.items() if wanted[name]])


def write_lists(
    recommender: Recommender,
    requests: Requests,
    output: Path,
    made_from: Mapping[str, Any],
    *,
    asked: Mapping[str, Any],
    refuse_left_out: bool,
    columns: Columns,
    users_per_part: int,
    team: Team = ALONE,
) -> Counts:
    """Answer all requests into a folder of Parquet files, or go on where an earlier command was stopped.

    Args:
        recommender: a loaded run.
        requests: the users.
        output: the folder.
        made_from: what the lists depend on, see `ListParts`.
        asked: settings of every list, as `Recommender.ask` takes them.
        refuse_left_out: a user that the file gives no usable history of is an error.
        columns: what else a row holds.
        users_per_part: users of one file, those who get no list included.
        team: processes that share the files out; all see the folder.

    Returns:
        What was answered and what was not; in the main process alone.

    Raises:
        InputError: settings out of range, such a user, or a folder that was begun with something else.
    """
    if users_per_part < 1:
        raise InputError(f"users_per_part is {users_per_part}; give at least 1.")
    to_question, allowed = _questions(recommender, asked)
    requests = answerable(requests, allowed, bool(asked["exclude_seen"]))
    counts, users = _counted(requests, users_per_part) if team.is_main else (Counts(), [])
    if refuse_left_out:
        _refuse(counts)
    users = team.told(users)
    parts = ListParts(output, made_from, len(users))
    with parts if team.is_main else contextlib.nullcontext():
        missing = team.told(parts.missing() if team.is_main else [])
        done = sum(users) - sum(users[number] for number in missing)
        if parts.finished:
            logger.info("%s is whole already; nothing was written", output)
        elif done:
            logger.info("going on after %s users whose lists are there", f"{done:,}")
        mine = {number: users[number] for number in team.share(missing)}
        _write(recommender, requests, parts, mine, to_question, columns, users_per_part)
        team.wait()
        if team.is_main and not parts.finished:
            written = parts.finish()
            assert written == counts.answered, f"{written} users were written, {counts.answered} asked"
    team.wait()  # nobody reads the folder before it is there
    return counts


def run_fingerprint(run: Path) -> dict[str, str]:
    """Tell what lists of a run depend on: its settings and the content of its folders."""
    settings = read_run_settings(run / RUN_FILE)
    folders = {name: settings[name] for name in ("data", "sids", "model", "scorer") if settings[name]}
    return {
        f"run ({RUN_FILE})": json.dumps(settings, sort_keys=True),
        **{f"run ({name})": fingerprint(run / folder) for name, folder in folders.items()},
    }


def told(counts: Counts, output: Path) -> str:
    """Say how the users that came in add up to those that have lists."""
    lines = [f"{counts.answered:,} of {counts.left_out.rows:,} users have lists in {output}"]
    if counts.dropped:
        lines.append(f"{counts.dropped:,} unknown items taken out of their histories")
    return "\n".join([*lines, *counts.left_out.lines()])


def _questions(
    recommender: Recommender, asked: Mapping[str, Any]
) -> tuple[Callable[[Request], Question], Any]:
    """Check the settings once, with the first item as history; the questions differ in their users only.

    Returns:
        What makes a question of a request, and what is allowed to everybody, (N,) bool.
    """
    first = recommender.ask(recommender.catalogue.item_ids[:1], **{**asked, "exclude_seen": False})

    def question(request: Request) -> Question:
        allowed = first.allowed.copy()
        if asked["exclude_seen"]:
            allowed[request.items] = False
        return replace(first, items=request.items, allowed=allowed)

    return question, first.allowed


def _counted(requests: Requests, users_per_part: int) -> tuple[Counts, list[int]]:
    """Count the users, and those of each part who get a list."""
    counts = Counts()
    bar = tqdm(requests(counts), desc="checking histories", unit="user", disable=None, leave=False)
    users: list[int] = []
    for place, request in enumerate(bar):
        if place % users_per_part == 0:
            users.append(0)
        users[-1] += request is not None
    return counts, users


def _refuse(counts: Counts) -> None:
    reasons = {name: number for name, number in counts.left_out.counts.items() if name != NOTHING_LEFT}
    if reasons:
        places = [
            f"{number:,} of {counts.left_out.rows:,} users have {reason} "
            f"({'; '.join(counts.left_out.shown[reason])})"
            for reason, number in reasons.items()
        ]
        raise InputError(
            f"{', '.join(places)}; correct the file, or give `--unknown_items drop` to take such items out "
            "and skip who has none left, or `skip` to skip such users."
        )


def _write(
    recommender: Recommender,
    requests: Requests,
    parts: ListParts,
    users: Mapping[int, int],
    to_question: Callable[[Request], Question],
    columns: Columns,
    users_per_part: int,
) -> None:
    """Write some parts; `users` says how many of each get a list."""
    stream = requests(Counts())
    with tqdm(total=sum(users.values()), desc="lists", unit="user", disable=no_bar()) as bar:
        for number in range(max(users, default=-1) + 1):
            stretch = [one for one in islice(stream, users_per_part) if one is not None]
            if number in users:
                table = _answered(recommender, stretch, to_question, columns.schema(), bar)
                parts.write(number, table, len(stretch))


def _answered(
    recommender: Recommender,
    stretch: Sequence[Request],
    to_question: Callable[[Request], Question],
    schema: pa.Schema,
    bar: tqdm[None],
) -> pa.Table:
    """Answer some users together, and lay their lists out as rows."""
    batches = []
    for start in range(0, len(stretch), _TOGETHER):
        group = stretch[start : start + _TOGETHER]
        answers = recommender.answer([to_question(request) for request in group])
        rows = [
            row
            for request, answer in zip(group, answers, strict=True)
            for row in _rows(request.user_id, recommender.titled(answer))
        ]
        batches.append(pa.Table.from_pylist(rows, schema))
        bar.update(len(group))
    # One chunk, so that the bytes do not depend on how many users are answered together.
    return pa.concat_tables(batches).combine_chunks() if batches else schema.empty_table()


def _rows(user_id: str, found: Sequence[Recommendation]) -> Iterator[dict[str, Any]]:
    for one in found:
        yield {"user_id": user_id, **vars(one), "chain": one.chain and vars(one.chain)}
