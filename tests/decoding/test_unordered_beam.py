"""The search for names whose codes come in any order, against sums over all orders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from gream.decoding.beam import beam_search
from gream.decoding.beams import Beams, merged
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.postings import PostingConstraint
from tests.decoding.scripted import ScriptedBackend, assert_same

SIZES = (3, 4, 5)
FIRST = 10
BLOCK = range(FIRST, FIRST + sum(SIZES))


class OrderlessBackend(ScriptedBackend):
    """Numbers that depend on which tokens were chosen, not on their order."""

    def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
        return super().draw(prompt, tuple(sorted(path)), block)


def random_names(num_items: int, seed: int, sizes: tuple[int, ...] = SIZES, last: bool = False) -> Names:
    every = np.stack(np.meshgrid(*[np.arange(s) for s in sizes], indexing="ij"), -1).reshape(-1, len(sizes))
    chosen = np.random.default_rng(seed).permutation(len(every))[:num_items]
    return Names(SidLayout(sizes, ordered=False, disambiguation=last), every[chosen].astype(np.int32))


def tokens_of(names: Names, item: int) -> list[int]:
    return [FIRST + o + int(c) for o, c in zip(names.layout.offsets, names.codes[item], strict=True)]


def order_logp(backend: ScriptedBackend, prompt: Sequence[int], order: Sequence[int], block: range) -> float:
    total = 0.0
    for place, token in enumerate(order):
        numbers = backend.numbers(tuple(prompt), tuple(order[:place]), block)
        total += float(numbers[token - FIRST])
    return total


def logp_of_all_orders(backend: ScriptedBackend, prompt: list[int], names: Names, item: int) -> float:
    tokens = tokens_of(names, item)
    free = tokens[:-1] if names.layout.disambiguation else tokens
    block = range(FIRST, FIRST + names.layout.num_tokens)
    found = []
    for order in itertools.permutations(free):
        whole = [*order, *tokens[len(free) :]]
        found.append(order_logp(backend, prompt, whole, block))
    peak = max(found)
    return peak + math.log(sum(math.exp(f - peak) for f in found))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_wide_beams_give_every_item_the_sum_over_all_orders_of_its_codes(seed: int, last: bool) -> None:
    names, backend, prompts = (
        random_names(23, seed, last=last),
        OrderlessBackend(seed, coarse=False),
        [[1], [2]],
    )
    results = beam_search(backend, prompts, PostingConstraint(names), [BLOCK] * 3, num_beams=200)
    for prompt, result in zip(prompts, results, strict=True):
        expected = {item: logp_of_all_orders(backend, prompt, names, item) for item in range(23)}
        assert result.items.tolist() == sorted(expected, key=lambda item: -expected[item])
        np.testing.assert_allclose(
            result.logps, [expected[item] for item in result.items], rtol=1e-5, atol=1e-5
        )


def obvious_beam(
    backend: ScriptedBackend, prompt: list[int], names: Names, num_beams: int
) -> tuple[list[int], list[float]]:
    """Search over Python lists: every beam is (order of tokens, log-probability); equal sets are united."""
    wholes = {frozenset(tokens_of(names, item)): item for item in range(len(names))}
    first_item = lambda tokens: min(item for whole, item in wholes.items() if tokens <= whole)  # noqa: E731
    books = np.repeat(np.arange(3), SIZES)
    beams: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for level in range(3):
        children = []
        for column, (order, logp) in enumerate(beams):
            numbers = backend.numbers(tuple(prompt), order, BLOCK)
            for token in BLOCK:
                if any(set(order) | {token} <= whole for whole in wholes) and token not in order:
                    children.append((logp + float(numbers[token - FIRST]), column, (*order, token)))
        last = level == 2
        children.sort(key=lambda c: (-c[0], first_item(set(c[2])) if last else 0))  # else the leftmost
        united: dict[frozenset[int], tuple[tuple[int, ...], list[float]]] = {}
        for logp, _, order in children[: num_beams * (level + 1)]:
            united.setdefault(frozenset(order), (order, []))[1].append(logp)
        key = {
            tokens: (sum(1 << int(books[t - FIRST]) for t in tokens), first_item(set(tokens)))
            for tokens in united
        }
        paths = [(o, float(np.logaddexp.reduce(logps)), key[frozenset(o)]) for o, logps in united.values()]
        paths.sort(key=lambda p: (-round(p[1], 4), p[2]))
        beams = [(order, logp) for order, logp, _ in sorted(paths[:num_beams], key=lambda p: p[2])]
    found = sorted(
        ((wholes[frozenset(order)], logp) for order, logp in beams), key=lambda f: (-round(f[1], 4), f[0])
    )
    return [item for item, _ in found], [logp for _, logp in found]


@pytest.mark.parametrize("num_beams", [1, 2, 5])
@pytest.mark.parametrize("seed", range(6))
def test_narrow_beams_equal_a_search_over_python_lists(seed: int, num_beams: int) -> None:
    names, backend, prompts = random_names(31, seed), ScriptedBackend(seed, coarse=False), [[1], [2], [3, 4]]
    results = beam_search(backend, prompts, PostingConstraint(names), [BLOCK] * 3, num_beams=num_beams)
    for prompt, result in zip(prompts, results, strict=True):
        items, logps = obvious_beam(backend, prompt, names, num_beams)
        assert result.items.tolist() == items
        np.testing.assert_allclose(result.logps, logps, rtol=1e-5, atol=1e-5)


def test_beams_of_one_path_are_merged_by_hand() -> None:
    """Path 7 has .1 and .3, path 3 has .2 and .05, path 5 is padding; the columns then ascend in the path.

    The more probable order of a path goes on; what becomes superfluous repeats the first real column.
    """
    logps = torch.tensor([[0.1, 0.2, 0.3, 0.05, 0.0, 0.0]]).log()
    nodes, columns = torch.tensor([[7, 3, 7, 3, 5, 5]]), torch.arange(6)[None]
    found = merged(Beams(nodes, logps, columns, columns + 20))
    torch.testing.assert_close(found.logps.exp(), torch.tensor([[0.25, 0.0, 0.0, 0.0, 0.4, 0.0]]))
    assert found.nodes.tolist() == [[3, 3, 3, 3, 7, 3]]
    assert found.parents.tolist() == [[1, 1, 1, 1, 2, 1]]
    assert found.tokens.tolist() == [[21, 21, 21, 21, 22, 21]]


def test_the_tokens_of_an_item_are_in_the_order_of_the_search() -> None:
    """The most confident code first: with one beam that is the whole search."""
    names, backend = random_names(31, 2), ScriptedBackend(2, coarse=False)
    for num_beams in (1, 5):
        for prompt in ([1], [2]):
            (result,) = beam_search(
                backend, [prompt], PostingConstraint(names), [BLOCK] * 3, num_beams=num_beams
            )
            assert result.tokens is not None and result.tokens.shape == (len(result.items), 3)
            for item, tokens in zip(result.items, result.tokens.tolist(), strict=True):
                assert sorted(tokens) == tokens_of(names, item)
            if num_beams == 1:
                logp = order_logp(backend, prompt, result.tokens[0].tolist(), BLOCK)
                assert result.logps[0] == pytest.approx(logp, abs=1e-5)


def test_no_item_comes_twice_and_every_user_gets_what_it_gets_alone() -> None:
    names, backend, prompts = random_names(40, 1), ScriptedBackend(4), [[1], [2], [3], [4]]
    constraint = PostingConstraint(names)
    together = beam_search(backend, prompts, constraint, [BLOCK] * 3, num_beams=6)
    for prompt, result in zip(prompts, together, strict=True):
        assert len(set(result.items.tolist())) == len(result.items) == 6
        assert_same(result, beam_search(backend, [prompt], constraint, [BLOCK] * 3, num_beams=6)[0])


def test_the_first_codebook_is_chosen_by_confidence_and_differs_between_users() -> None:
    names = random_names(60, 0)

    class Sure(ScriptedBackend):
        def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
            numbers = np.full(len(block), -5, dtype=np.float32)
            numbers[(0 if prompt == (1,) else 7) :][:3] = -0.5  # of the first, or of the last codebook
            return numbers

    results = beam_search(Sure(0), [[1], [2]], PostingConstraint(names), [BLOCK] * 3, num_beams=2)
    first_codebook = [{int(node) // 60 for node in result.kept[0]} for result in results]
    assert first_codebook == [{1}, {4}]  # one bit for each codebook


def test_only_allowed_items_come_back_and_they_equal_the_filtered_ranking() -> None:
    names, backend = random_names(30, 3), OrderlessBackend(3, coarse=False)
    constraint = PostingConstraint(names)
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[0, [3, 11]] = True
    mask[1] = torch.rand(30, generator=torch.Generator().manual_seed(0)) < 0.4
    results = beam_search(
        backend, [[1], [2]], constraint, [BLOCK] * 3, num_beams=200, narrowing=constraint.narrow(mask)
    )
    for user, (prompt, result) in enumerate(zip([[1], [2]], results, strict=True)):
        allowed = mask[user].nonzero().flatten().tolist()
        ranked = sorted(allowed, key=lambda item: -logp_of_all_orders(backend, prompt, names, item))
        assert result.items.tolist() == ranked
