"""Completions of the toy model (L = 3, codebooks of 3, 4 and 5), well formed and malformed in every way."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch

from gream.language.prompting import Prompter
from gream.language.reasoning import Trace, reasoning_row
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.postings import PostingConstraint
from gream.training.completions import read_completion, read_completions
from gream.training.rewards import exact_hits, residual_sensitive_reward

ITEM, OTHER = 7, 11


@pytest.fixture
def reasoned(prompter: Prompter) -> Callable[..., list[int]]:
    """Build a reasoning completion for ITEM, with parts exchanged."""

    def build(
        chain: str | None = None, name: list[int] | None = None, before: str = "\n</think>\n<answer>"
    ) -> list[int]:
        thought = f"Evidence: {prompter.name(2)} ink; {prompter.name(3)} ink"
        return [
            *prompter.encode(thought if chain is None else chain),
            *prompter.encode(before),
            *(prompter.name_ids(ITEM) if name is None else name),
            prompter.answer_end,
            prompter.end_of_turn,
        ]

    return build


def codes_of(names: Names, item: int) -> tuple[int, ...]:
    return tuple(names.codes[item].tolist())


def absent_path(names: Names) -> tuple[int, ...]:
    taken = {tuple(row) for row in names.codes.tolist()}
    return next(
        p for p in ((a, b, c) for a in range(3) for b in range(4) for c in range(5)) if p not in taken
    )


def path_ids(prompter: Prompter, path: tuple[int, ...]) -> list[int]:
    return [prompter.level_block(level)[code] for level, code in enumerate(path)]


def test_direct_completion_is_read_as_its_codes(prompter: Prompter, names: Names) -> None:
    rollout = read_completion([*prompter.name_ids(ITEM), prompter.end_of_turn], prompter, "direct")
    assert rollout.path == codes_of(names, ITEM)
    assert rollout.well_formed


def test_reasoning_row_that_was_taught_is_well_formed(prompter: Prompter, names: Names) -> None:
    trace = Trace(
        user=0, history=(1, 2, 3), target=ITEM, evidence=(2, 3), kinds=("ink", "paper"), preference="office",
        intent="to print", recommendation="more ink", rewritten=(2, 3),
    )  # fmt: skip
    _, completion = reasoning_row(trace, prompter)
    assert read_completion(completion, prompter, "reasoning").path == codes_of(names, ITEM)


def test_names_inside_the_think_block_are_allowed(
    prompter: Prompter, names: Names, reasoned: Callable
) -> None:
    # The rewritten history joins names without a separator.
    chain = f"Evidence: {prompter.name(2)} ink\nHistory: {prompter.name(2)}{prompter.name(OTHER)}"
    assert read_completion(reasoned(chain), prompter, "reasoning").path == codes_of(names, ITEM)


def test_incomplete_direct_name_is_malformed(prompter: Prompter) -> None:
    for length in range(3):
        completion = [*prompter.name_ids(ITEM)[:length], prompter.end_of_turn]
        assert not read_completion(completion, prompter, "direct").well_formed


def test_incomplete_name_in_the_answer_is_malformed(prompter: Prompter, reasoned: Callable) -> None:
    for length in range(3):
        completion = reasoned(name=prompter.name_ids(ITEM)[:length])
        assert not read_completion(completion, prompter, "reasoning").well_formed


def test_answer_inside_the_think_block_is_malformed(prompter: Prompter, reasoned: Callable) -> None:
    inside = f"Evidence: ink <answer>{prompter.name(ITEM)}</answer>"
    assert not read_completion(reasoned(inside), prompter, "reasoning").well_formed
    # Neither alone, with nothing after the block...
    alone = [*prompter.encode(f"{inside}\n</think>"), prompter.end_of_turn]
    assert not read_completion(alone, prompter, "reasoning").well_formed
    # ... nor where the block is never closed.
    unclosed = [*prompter.encode(inside), prompter.end_of_turn]
    assert not read_completion(unclosed, prompter, "reasoning").well_formed


def test_two_answers_are_malformed(prompter: Prompter, reasoned: Callable) -> None:
    one = reasoned()
    second = prompter.encode(f"\n<answer>{prompter.name(OTHER)}</answer>")
    completion = [*one[:-1], *second, prompter.end_of_turn]
    assert not read_completion(completion, prompter, "reasoning").well_formed


def test_two_names_in_one_answer_are_malformed(prompter: Prompter, reasoned: Callable) -> None:
    both = [*prompter.name_ids(ITEM), *prompter.name_ids(OTHER)]
    assert not read_completion(reasoned(name=both), prompter, "reasoning").well_formed
    assert not read_completion([*both, prompter.end_of_turn], prompter, "direct").well_formed


def test_right_name_without_thinking_is_malformed_in_a_reasoning_prompt(
    prompter: Prompter, reasoned: Callable
) -> None:
    bare = [*prompter.name_ids(ITEM), prompter.end_of_turn]
    assert not read_completion(bare, prompter, "reasoning").well_formed
    answer_only = reasoned(chain="", before="<answer>")
    assert not read_completion(answer_only, prompter, "reasoning").well_formed
    for blank in ("", "\n \n", str(prompter.name(2))):
        assert not read_completion(reasoned(chain=blank), prompter, "reasoning").well_formed


def test_thinking_is_malformed_in_a_direct_prompt(prompter: Prompter, reasoned: Callable) -> None:
    assert not read_completion(reasoned(), prompter, "direct").well_formed


def test_two_closing_tags_are_malformed(prompter: Prompter, reasoned: Callable) -> None:
    assert not read_completion(reasoned(chain="ink</think> more"), prompter, "reasoning").well_formed


def test_opening_a_second_think_block_is_malformed(prompter: Prompter, reasoned: Callable) -> None:
    assert not read_completion(reasoned(chain="ink <think> more"), prompter, "reasoning").well_formed


def test_words_between_the_block_and_the_answer_are_malformed(prompter: Prompter, reasoned: Callable) -> None:
    completion = reasoned(before="\n</think>\nI suggest <answer>")
    assert not read_completion(completion, prompter, "reasoning").well_formed
    # Neither may any token of the taught parting be another one.
    whole = reasoned()
    for place in range(whole.index(prompter.think_end) + 1, whole.index(prompter.answer_start) + 1):
        changed = [*whole[:place], prompter.encode("ink")[0], *whole[place + 1 :]]
        assert not read_completion(changed, prompter, "reasoning").well_formed


def test_piece_of_a_name_inside_the_think_block_is_malformed(prompter: Prompter, reasoned: Callable) -> None:
    first, second, third = (names_token for names_token in prompter.name_ids(ITEM))
    spell = prompter.tokenizer.convert_ids_to_tokens
    for piece in (
        [first],
        [first, second],
        [second, third],
        [third, second, first],
        [first, second, third, first],
    ):
        chain = "Evidence: " + "".join(spell(piece)) + " ink"
        assert not read_completion(reasoned(chain), prompter, "reasoning").well_formed
    # Three codes of the right levels, but with a word in their midst.
    torn = f"Evidence: {spell(first)}{spell(second)} ink {spell(third)}"
    assert not read_completion(reasoned(torn), prompter, "reasoning").well_formed


def test_codes_of_a_wrong_codebook_are_malformed(prompter: Prompter) -> None:
    first, second, third = prompter.name_ids(ITEM)
    for swapped in ([second, first, third], [first, first, third], [third, third, third]):
        assert not read_completion([*swapped, prompter.end_of_turn], prompter, "direct").well_formed


def test_completion_that_was_cut_is_malformed(prompter: Prompter, reasoned: Callable) -> None:
    assert not read_completion(prompter.name_ids(ITEM), prompter, "direct").well_formed
    whole = reasoned()
    for length in range(len(whole)):
        assert not read_completion(whole[:length], prompter, "reasoning").well_formed


def test_name_spelt_in_letters_is_no_answer(prompter: Prompter) -> None:
    letters = prompter.data(str(prompter.name(ITEM)))
    assert not read_completion([*letters, prompter.end_of_turn], prompter, "direct").well_formed


def test_unknown_mode_is_refused(prompter: Prompter) -> None:
    with pytest.raises(ValueError, match="Unknown mode 'both'; known modes: direct, reasoning"):
        read_completion([], prompter, "both")  # type: ignore[arg-type]


def test_every_item_is_valid_and_no_other_path_is(prompter: Prompter, names: Names) -> None:
    every = [(a, b, c) for a in range(3) for b in range(4) for c in range(5)]
    completions = [[*path_ids(prompter, path), prompter.end_of_turn] for path in every]
    answers = read_completions(completions, prompter, TrieConstraint(names), ["direct"] * 60)
    taken = {tuple(row) for row in names.codes.tolist()}
    assert answers.valid.tolist() == [path in taken for path in every]


@pytest.mark.parametrize("disambiguation", [False, True])
def test_names_without_an_order_are_read_in_any_order_of_their_codebooks(
    prompter: Prompter, names: Names, disambiguation: bool
) -> None:
    """All 6 orders of 3 codes, or the 2 that end in the disambiguation code."""
    unordered = Names(SidLayout((3, 4, 5), ordered=False, disambiguation=disambiguation), names.codes)
    reader = Prompter(prompter.tokenizer, unordered, max_history=5)
    constraint, end = PostingConstraint(unordered), prompter.end_of_turn
    orders = list(permutations(prompter.name_ids(ITEM)))
    answers = read_completions([[*o, end] for o in orders], reader, constraint, ["direct"] * 6)
    right = [not disambiguation or order[-1] == prompter.name_ids(ITEM)[-1] for order in orders]
    assert sum(right) == (2 if disambiguation else 6)
    assert answers.valid.tolist() == answers.well_formed.tolist() == right
    path = list(codes_of(names, ITEM))
    assert answers.path.tolist() == [path if ok else [-1, -1, -1] for ok in right]


def test_a_codebook_that_is_used_twice_is_malformed(
    prompter: Prompter, names: Names, reasoned: Callable
) -> None:
    reader = Prompter(prompter.tokenizer, Names(SidLayout((3, 4, 5), ordered=False), names.codes))
    first, second, third = prompter.name_ids(ITEM)
    sibling = next(token for token in prompter.level_block(1) if token != second)
    word = prompter.encode("ink")[0]
    for wrong in ([first, second, sibling], [second, second, third], [third, first], [first, word, third]):
        assert not read_completion([*wrong, prompter.end_of_turn], reader, "direct").well_formed
    # A chain of thought spells names in codebook order, its answer in any.
    assert read_completion(reasoned(name=[third, first, second]), reader, "reasoning").well_formed
    spell = prompter.tokenizer.convert_ids_to_tokens
    chain = "Evidence: " + "".join(spell([third, first, second])) + " ink"
    assert not read_completion(reasoned(chain), reader, "reasoning").well_formed


def test_batch_separates_malformed_from_unreal(prompter: Prompter, names: Names, reasoned: Callable) -> None:
    invented = absent_path(names)
    end = prompter.end_of_turn
    completions = [
        [*prompter.name_ids(ITEM), end],
        [*path_ids(prompter, invented), end],
        [*prompter.name_ids(ITEM)[:2], end],
        reasoned(),
        reasoned(name=path_ids(prompter, invented)),
    ]
    modes = ["direct"] * 3 + ["reasoning"] * 2
    answers = read_completions(completions, prompter, TrieConstraint(names), modes)  # type: ignore[arg-type]
    assert answers.well_formed.tolist() == [True, True, False, True, True]
    assert answers.valid.tolist() == [True, False, False, True, False]
    item = list(codes_of(names, ITEM))
    assert answers.path.tolist() == [item, list(invented), [-1, -1, -1], item, list(invented)]


def test_gamed_completions_earn_nothing(prompter: Prompter, names: Names, reasoned: Callable) -> None:
    """The four ways in which the authors' reward can be gamed, and an invented item, beside an honest hit."""
    name, end = prompter.name(ITEM), prompter.end_of_turn
    completions = [
        reasoned(name=prompter.name_ids(ITEM)[:1]),
        [*prompter.encode(f"ink <answer>{name}</answer>\n</think>"), end],
        [*reasoned()[:-1], *prompter.encode(f"<answer>{prompter.name(OTHER)}</answer>"), end],
        [*prompter.name_ids(ITEM), end],
        reasoned(name=path_ids(prompter, absent_path(names))),
        reasoned(),
    ]
    modes = ["reasoning"] * 6
    answers = read_completions(completions, prompter, TrieConstraint(names), modes)  # type: ignore[arg-type]
    target = torch.tensor([codes_of(names, ITEM)]).expand(6, 3)
    rewards = residual_sensitive_reward(answers.path, target, answers.valid)
    assert rewards.tolist() == [0, 0, 0, 0, 0, 1]
    assert exact_hits(answers.path, target, answers.valid).tolist() == [0, 0, 0, 0, 0, 1]
