"""REG4Rec's rewards of a path, step by step: pure functions over tensors.

Source: REG4Rec (https://arxiv.org/abs/2508.15308), preference alignment for reasoning (PARS), as in the
worked examples of its architecture figure: Step-Hit, Global Path, Category-Hit and Step-Consistency are
counts, not means, so their scale is the recipe's weight. Multi-step reward augmentation (MSRA) grades a path
against the next N purchases with decaying weights; Step-Consistency has no target and knows nothing of it.

What could not be found in the paper and is decided here:

- The category of a step: for unordered names the most frequent category of the items that carry the code,
  for ordered names that of the items below the prefix. Items without a category have no say, never hit and
  never agree. A disambiguation code says nothing of the item: it has no category, and hits after all others.
- Steps are compared by codebook and taken in the order of the codebooks, not in that of writing, so that no
  answer earns more by writing its codes in another order.
- With ordered names a step hits only after all earlier ones; a residual code means nothing elsewhere.
- The weights of the window are powers of `decay` that sum to 1, over fewer purchases where fewer remain; so
  N = 1 is the plain reward, and users at the end of their history are paid at the same scale.
- Only answers that are items earn anything, see `completions`.

Legend: R completions, L codebooks, M codes that say something (all but the disambiguation code), N purchases
of the window, I items, Q nodes of a trie or tokens of the item block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gream.decoding.consistency import UNKNOWN, code_categories, num_meanings
from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.paths import Constraint
from gream.training.process_reward import prefix_nodes
from gream.training.rewards import exact_hits, matching_codes


def step_hit(path: Tensor, target: Tensor, valid: Tensor, *, ordered: bool, disambiguation: bool) -> Tensor:
    """Count the codes that the answer shares with its target: (R,) float32, 0 to L.

    Arguments as in `rewards.residual_sensitive_reward`.
    """
    right = matching_codes(path, target, ordered=ordered, disambiguation=disambiguation)
    return right.sum(dim=1).float() * valid.float()


def global_path(path: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Reward the path that is the target's from end to end: (R,) float32, 1 or 0."""
    return exact_hits(path, target, valid)


def category_hit(steps: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Count the steps whose category is the target's.

    Args:
        steps: (R, M) categories of the steps, -1 for none.
        target: (R,) category of the target, -1 for none.
        valid: (R,) bool.

    Returns:
        (R,) float32, 0 to M.
    """
    right = (steps == target[:, None]) & (steps >= 0)
    return right.sum(dim=1).float() * valid.float()


def step_consistency(steps: Tensor, valid: Tensor) -> Tensor:
    """Count the neighbouring steps of the same category: (R,) float32, 0 to M - 1.

    Needs no label, and can be earned by always answering in one category: give it less weight than the hits.

    Args:
        steps: (R, M) categories of the steps, -1 for none.
        valid: (R,) bool.
    """
    agree = (steps[:, 1:] == steps[:, :-1]) & (steps[:, 1:] >= 0)
    return agree.sum(dim=1).float() * valid.float()


@dataclass(frozen=True)
class Window:
    """The next purchases of R users, and what each counts."""

    items: Tensor  # (R, N) int64 dense ids, the target first; 0 where none remains
    weights: Tensor  # (R, N) float32, falling from left to right, sum 1; 0 where none remains

    def mean(self, reward: Callable[[Tensor], Tensor]) -> Tensor:
        """Average a reward over the purchases: (R,) float32.

        Args:
            reward: from the purchases of one place, (R,) item ids, to (R,) rewards.
        """
        graded = torch.stack([reward(items) for items in self.items.unbind(1)], dim=1)  # (R, N)
        return (graded * self.weights).sum(dim=1)


def window_of(futures: Sequence[Sequence[int]], size: int, decay: float) -> Window:
    """Weigh the next purchases of every user: powers of `decay`, made to sum to 1.

    Args:
        futures: R lists of dense item ids, the target first; not all need be of the same length.
        size: purchases to look at, N; later ones do not count.
        decay: weight of a purchase as a share of the one before it.

    Raises:
        ValueError: a user without any purchase, who could not be graded.
    """
    counts = torch.tensor([len(future) for future in futures])
    if bool((counts == 0).any()):
        raise ValueError("A window of future purchases is empty, but the target itself is its first.")
    items = torch.zeros(len(futures), size, dtype=torch.int64)
    for row, future in zip(items, futures, strict=True):
        row[: min(len(future), size)] = torch.tensor(list(future[:size]))
    places = torch.arange(size)
    weights = torch.where(places < counts[:, None], decay ** places.double(), 0.0)  # (R, N)
    return Window(items, (weights / weights.sum(dim=1, keepdim=True)).float())  # the first weighs 1


def check_window(size: int, decay: float) -> None:
    """Refuse a window without purchases, and weights that do not fall.

    Raises:
        InputError: says which, and what to give.
    """
    if size < 1:
        raise InputError(f"future_window is {size}; give at least 1, which is the target alone.")
    if not 0.0 < decay < 1.0:
        raise InputError(f"future_decay is {decay}; give a number between 0 and 1, both excluded.")


class StepCategories:
    """Categories of the steps of a path, and of the items.

    Args:
        constraint: the catalogue's names.
        categories: (I,) int64 of `consistency.item_categories`, -1 for none.

    Raises:
        InputError: no item has a category.
        ValueError: categories of other items.
    """

    def __init__(self, constraint: Constraint, categories: np.ndarray) -> None:
        if len(categories) != constraint.num_items:
            raise ValueError(f"{len(categories)} categories were given for {constraint.num_items} items")
        if not (categories >= 0).any():
            raise InputError(
                "The rewards category_hit and step_consistency need categories, and no item of this "
                "catalogue has one; take them out of `rewards`."
            )
        self._constraint = constraint
        self._meanings = num_meanings(constraint.names.layout)
        self._items = torch.from_numpy(categories.astype(np.int64))
        if isinstance(constraint, TrieConstraint):
            nodes = constraint.item_nodes.cpu().numpy()
            table = code_categories(nodes, categories, constraint.num_nodes)
        else:
            tokens = constraint.names.codes + np.asarray(constraint.names.layout.offsets)
            table = code_categories(tokens, categories, constraint.names.layout.num_tokens)
        self._table = torch.from_numpy(table)  # (Q,)

    def of_items(self, items: Tensor) -> Tensor:
        """Look the categories of items up: any shape, -1 for none."""
        return self._items[items]

    def of_steps(self, path: Tensor) -> Tensor:
        """Give the category of every step of a path: (R, L) codes to (R, M) int64.

        -1 where there is none: no item of the code has a category, the prefix is not real, or the row is that
        of a malformed completion.
        """
        if isinstance(self._constraint, TrieConstraint):
            places = prefix_nodes(self._constraint, path)
        else:
            offsets = torch.tensor(self._constraint.names.layout.offsets)
            places = torch.where(path < 0, -1, path + offsets)
        places = places[:, : self._meanings]
        return torch.where(places < 0, UNKNOWN, self._table[places.clamp(min=0)])
