"""Reader of MovieLens-1M and -100K, on small files in their true form."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.data.movielens import read_movielens
from gream.data.sources import ITEM_SCHEMA, PURCHASE_SCHEMA
from gream.errors import InputError

GENRES = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip


def _million(folder: Path, ratings: list[str], movies: list[str]) -> Path:
    (folder / "ratings.dat").write_bytes("\n".join([*ratings, ""]).encode("latin-1"))
    (folder / "movies.dat").write_bytes("\n".join([*movies, ""]).encode("latin-1"))
    return folder


def _hundred_thousand(folder: Path, ratings: list[str], movies: list[str]) -> Path:
    (folder / "u.data").write_text("\n".join([*ratings, ""]), encoding="latin-1")
    (folder / "u.item").write_text("\n".join([*movies, ""]), encoding="latin-1")
    # The published file ends in two line ends.
    lines = [f"{name}|{number}" for number, name in enumerate(GENRES)]
    (folder / "u.genre").write_text("\n".join([*lines, "", ""]), encoding="latin-1")
    return folder


def _flags(*names: str) -> str:
    return "|".join(str(int(genre in names)) for genre in GENRES)


def test_1m_ratings_and_movies(tmp_path: Path) -> None:
    ratings = ["1::1193::5::978300760", "2::661::1::978300100", "1::661::3::978302109", "1::73::1::978300760"]
    movies = [
        "661::James and the Giant Peach (1996)::Animation|Children's|Musical",
        "73::Mis\u00e9rables, Les (1995)::Drama|Musical",
        "5::Nobody saw it (1990)::Drama",
    ]
    source = read_movielens(_million(tmp_path, ratings, movies), None)
    assert dict(source.items.schema) == ITEM_SCHEMA and dict(source.purchases.schema) == PURCHASE_SCHEMA
    assert source.items.rows() == [
        ("661", "James and the Giant Peach (1996)", "", "", ["Animation", "Children's", "Musical"], None),
        ("73", "Mis\u00e9rables, Les (1995)", "", "", ["Drama", "Musical"], None),
        ("1193", "", "", "", [], None),
    ]
    assert source.purchases.rows() == [
        ("1", "1193", 978300760, None), ("1", "73", 978300760, None), ("1", "661", 978302109, None),
        ("2", "661", 978300100, None),
    ]  # fmt: skip
    assert source.counts["items_without_metadata"] == 1 and source.counts["items_never_bought"] == 1
    assert source.unusable.rows == 7 and source.unusable.total == 0


def test_100k_ratings_and_flags_of_genres(tmp_path: Path) -> None:
    movies = [
        f"242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M/title-exact?Kolya%20(1996)|{_flags('Comedy')}",
        f"267|unknown||||{_flags('unknown')}",
        f"543|Mis\u00e9rables, Les (1995)|01-Jan-1995||http://x|{_flags('Drama', 'Musical')}",
    ]
    ratings = ["196\t242\t3\t881250949", "196\t267\t1\t881250948", "186\t543\t3\t891717742"]
    source = read_movielens(_hundred_thousand(tmp_path, ratings, movies), None)
    assert source.items["title"].to_list() == ["Kolya (1996)", "unknown", "Mis\u00e9rables, Les (1995)"]
    assert source.items["categories"].to_list() == [["Comedy"], [], ["Drama", "Musical"]]
    assert source.purchases["item_id"].to_list() == ["267", "242", "543"]


def test_another_item_file_can_be_named(tmp_path: Path) -> None:
    _million(tmp_path, ["1::2::5::7"], ["2::Old::Drama"])
    other = tmp_path / "other.dat"
    other.write_text("2::New::War\n")
    assert read_movielens(tmp_path, other).items["title"].to_list() == ["New"]


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    ratings = [
        "1::2::5::7",
        "1::2::5",
        "::2::5::7",
        "1:: ::5::7",
        "1::2::5::soon",
        "1::3::5::1e99",
        "1::4::5::nan",
    ]
    movies = ["2::A::War", "2::B::War", "no movie", "::C::War"]
    source = read_movielens(_million(tmp_path, ratings, movies), None)
    assert source.unusable.counts == {
        "not 4 fields": 1, "no user id": 1, "no item id": 2, "no time": 3, "the same item again": 1,
        "not 3 fields": 1,
    }  # fmt: skip
    assert source.unusable.shown["no time"][0] == f"{tmp_path / 'ratings.dat'}, line 5"
    assert source.items["title"].to_list() == ["A"]


def test_missing_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither `ratings.dat` .* nor `u.data`"):
        read_movielens(tmp_path, None)
    (tmp_path / "ratings.dat").write_text("1::2::5::7\n")
    with pytest.raises(InputError, match="movies.dat does not exist"):
        read_movielens(tmp_path, None)
    (tmp_path / "movies.dat").write_text("\n \n")
    with pytest.raises(InputError, match="movies.dat is empty"):
        read_movielens(tmp_path, None)


FIELD = st.sampled_from(["1", "2", "3", "", " ", "x", "5.5", '"1"', "\u00e9", "\x85", "\x0c"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(FIELD, min_size=3, max_size=5), max_size=15),
    st.lists(st.lists(FIELD, max_size=4), max_size=6),
)
def test_rows_in_are_rows_used_and_rows_left_out(ratings: list[list[str]], movies: list[list[str]]) -> None:
    lines = ["9::9::5::9", *("::".join(fields) for fields in ratings)]
    catalogue = ["9::Nine::War", *("::".join(fields) for fields in movies)]
    with TemporaryDirectory() as folder:
        source = read_movielens(_million(Path(folder), lines, catalogue), None)
    filled = sum(bool(line.strip()) for line in lines + catalogue)
    described = len(source.items) - source.counts["items_without_metadata"]
    used = len(source.purchases) + described + source.counts["items_never_bought"]
    assert source.unusable.rows == filled == used + source.unusable.total
    assert set(source.purchases["item_id"]) == set(source.items["item_id"])
    assert source.items["item_id"].is_unique().all()
