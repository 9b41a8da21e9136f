"""Groups leave one padded batch and enter another with every token in its place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.training.groups import Batch, fill, live_groups, num_loss_tokens, select, split
from tests.training.scripted_groups import PAD, identity, make_batch

G = 2


def unpadded(batch: Batch) -> list[dict[str, list[float]]]:
    """Every row of a batch as lists without padding, the slow way."""
    found = []
    for row in range(len(batch["advantages"])):
        prompt = [bool(m) for m in batch["prompt_mask"][row]]
        completion = [bool(m) for m in batch["completion_mask"][row]]
        cut = {}
        for key, value in batch.items():
            if key == "num_items_in_batch":
                continue
            mask = prompt if key.startswith("prompt") else completion
            numbers = value[row].tolist()
            cut[key] = (
                [x for x, real in zip(numbers, mask, strict=True) if real]
                if isinstance(numbers, list)
                else [numbers]
            )
        found.append(cut)
    return found


def test_a_wider_group_pads_prompts_left_and_completions_right() -> None:
    """By hand: G = 1, a batch of width 1 + 2 takes a group of 2 prompt and 3 completion tokens."""
    batch = {
        "prompt_ids": torch.tensor([[7], [8]]),
        "prompt_mask": torch.tensor([[1], [1]]),
        "completion_ids": torch.tensor([[1, 2], [3, PAD]]),
        "completion_mask": torch.tensor([[1, 1], [1, 0]]),
        "old_per_token_logps": torch.tensor([[-1.0, -2.0], [-3.0, -9.0]]),
        "importance_sampling_ratio": torch.tensor([[1.5, 1.25], [0.5, 7.0]]),
        "tool_mask": torch.tensor([[1, 0], [1, 1]]),
        "advantages": torch.tensor([0.0, 1.0]),
        "num_items_in_batch": torch.tensor(3),
    }
    other = {
        "prompt_ids": torch.tensor([[PAD, 4, 5]]),
        "prompt_mask": torch.tensor([[0, 1, 1]]),
        "completion_ids": torch.tensor([[6, 6, 9, PAD, PAD]]),
        "completion_mask": torch.tensor([[1, 1, 1, 0, 0]]),
        "old_per_token_logps": torch.tensor([[-4.0, -5.0, -6.0, 0.0, 0.0]]),
        "importance_sampling_ratio": torch.tensor([[2.0, 3.0, 4.0, 1.0, 1.0]]),
        "tool_mask": torch.tensor([[1, 1, 0, 1, 1]]),
        "advantages": torch.tensor([-2.0]),
        "num_items_in_batch": torch.tensor(3),
    }
    filled = fill(batch, [0], split(other, [0], 1), 1, PAD)
    expected = {
        "prompt_ids": [[4, 5], [PAD, 8]],
        "prompt_mask": [[1, 1], [0, 1]],
        "completion_ids": [[6, 6, 9], [3, PAD, PAD]],
        "completion_mask": [[1, 1, 1], [1, 0, 0]],
        "old_per_token_logps": [[-4.0, -5.0, -6.0], [-3.0, -9.0, 0.0]],
        "importance_sampling_ratio": [[2.0, 3.0, 4.0], [0.5, 7.0, 1.0]],  # 1 where no token is: no weight
        "tool_mask": [[1, 1, 0], [1, 1, 1]],
        "advantages": [-2.0, 1.0],
    }
    for key, rows in expected.items():
        assert filled[key].tolist() == rows, key
        assert filled[key].dtype == batch[key].dtype
    assert batch["prompt_ids"].tolist() == [[7], [8]]  # what was given is left as it was


@settings(deadline=None, max_examples=60)
@given(
    first=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    second=st.lists(st.integers(31, 60), min_size=1, max_size=4),
    width=st.integers(0, 9),
    data=st.data(),
)
def test_moved_groups_are_whole_and_the_others_untouched(
    first: list[int], second: list[int], width: int, data: st.DataObject
) -> None:
    batch = make_batch(first, [True] * len(first), 3, width)
    other = make_batch(second, [True] * len(second), 3)
    count = data.draw(st.integers(0, min(len(first), len(second))))
    places = data.draw(st.permutations(range(len(first))))[:count]
    taken = data.draw(st.permutations(range(len(second))))[:count]
    filled = fill(batch, places, split(other, taken, 3), 3, PAD)
    expected, others = unpadded(batch), unpadded(other)
    for place, source in zip(places, taken, strict=True):
        expected[3 * place : 3 * place + 3] = others[3 * source : 3 * source + 3]
    assert unpadded(filled) == expected
    assert bool((filled["prompt_ids"][filled["prompt_mask"] == 0] == PAD).all())
    assert bool((filled["completion_ids"][filled["completion_mask"] == 0] == PAD).all())
    assert bool(filled["prompt_mask"][:, -1].all())  # the last token of every prompt stands before the answer


def test_a_narrow_group_keeps_the_width_of_the_batch() -> None:
    batch = make_batch([4], [False], G, width=8)
    narrow = make_batch([5], [True], G)
    assert fill(batch, [0], split(narrow, [0], G), G, PAD)["completion_ids"].shape == (G, 8)


def test_advantages_of_every_token_move_with_their_tokens() -> None:
    batch, other = make_batch([1], [False], G), make_batch([2], [True], G)
    for each in (batch, other):
        places = torch.arange(each["completion_mask"].shape[1])  # the first token of all has none
        each["advantages"] = each["advantages"][:, None] * each["completion_mask"] * places
    assert live_groups(batch, G) == [False] and live_groups(other, G) == [True]
    filled = fill(batch, [0], split(other, [0], G), G, PAD)
    assert filled["advantages"].shape == filled["completion_ids"].shape
    assert unpadded(filled) == unpadded(other)


def test_a_ratio_for_each_sequence_stays_one_number() -> None:
    batch, other = make_batch([1], [False], G), make_batch([2], [True], G)
    batch["importance_sampling_ratio"] = torch.full((G, 1), 0.5)
    other["importance_sampling_ratio"] = torch.tensor([[3.0], [4.0]])
    filled = fill(batch, [0], split(other, [0], G), G, PAD)
    assert filled["importance_sampling_ratio"].tolist() == [[3.0], [4.0]]


def test_a_completion_that_trl_masked_whole_is_empty() -> None:
    """mask_truncated_completions zeroes the mask of a row: nothing of it is trained on, nothing is moved."""
    other = make_batch([3], [True], G)
    other["completion_mask"][1] = 0
    filled = fill(make_batch([1], [False], G), [0], split(other, [0], G), G, PAD)
    assert filled["completion_mask"].sum(dim=1).tolist() == other["completion_mask"].sum(dim=1).tolist()
    assert set(filled["completion_ids"][1].tolist()) == {PAD}


def test_a_group_does_not_hold_its_batch_in_memory() -> None:
    group = split(make_batch([1, 2, 3], [True] * 3, G), [1], G)[0]
    assert identity(group) == 2
    for value in group.rows[0].values():
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()


def test_a_live_group_has_an_advantage() -> None:
    assert live_groups(make_batch([0, 1, 2], [True, False, True], 3), 3) == [True, False, True]
    with pytest.raises(ValueError, match="9 rows on one device are no whole number of groups of 2"):
        live_groups(make_batch([0, 1, 2], [True, False, True], 3), 2)


def test_selected_groups_keep_their_width() -> None:
    batch = make_batch([3, 1, 2], [True] * 3, G, width=7)
    part = select(batch, [2, 0], G)
    assert part["completion_ids"].tolist() == batch["completion_ids"][[4, 5, 0, 1]].tolist()
    assert "num_items_in_batch" not in part


def test_tokens_of_tools_are_not_counted() -> None:
    batch = make_batch([1], [True], G)  # completions of 3 and 4 tokens
    assert num_loss_tokens(batch) == 7
    assert num_loss_tokens(batch | {"tool_mask": torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]])}) == 4


def test_what_cannot_be_moved_is_told() -> None:
    batch = make_batch([1], [True], G)
    with pytest.raises(ValueError, match=r"holds \['pixel_values'\], which refilling cannot move"):
        split(batch | {"pixel_values": torch.zeros(G, 3)}, [0], G)
    with pytest.raises(ValueError, match="was put into a batch with"):
        fill(batch | {"old_per_token_logps": torch.zeros(G, 4)}, [0], split(batch, [0], G), G, PAD)
