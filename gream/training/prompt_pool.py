"""What SRPO asks the model: prompts from training purchases, rather those that a group can learn from.

At every training position with enough history the model is asked for the purchase that came next. Targets
come in a seeded order, each once an epoch. Where `candidates` is more than 1, so many targets are looked at
for each one that is asked, and drawn by the chance that a group holds both hits and misses: a prompt that is
always or never solved teaches nothing.

GREAM (https://arxiv.org/abs/2510.20815) and DAPO draw blindly and filter after the completions are paid for.
To ask the policy before it writes is ours.

Legend: P prompts, G generations, C candidates, L codebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gream.data.store import Interactions
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.training.completions import Mode

Row = dict[str, Any]
SolveChance = Callable[[list[Row]], np.ndarray]  # rows to the policy's chance of each target, (C,) float32

# How many completions the policy's own probability is worth beside those that were seen: about half a group.
PRIOR_STRENGTH = 4.0
# What completions of one epoch are still worth in the next: the policy that wrote them is gone.
FADING = 0.5


class PromptPool:
    """Training purchases to ask for, the same on every device.

    Every purchase marked as training, with at least `min_history` training purchases of its user before it,
    can be a target. All devices hold equal pools and make equal calls; each gets prompts of its own.

    Args:
        interactions: everybody's purchases; those of validation and test are never looked at.
        prompter: writes the prompts, and knows how much of a history they show.
        min_history: training purchases that a user must have before a target.
        num_generations: completions of one prompt, G.
        future_window: how many training purchases `future` holds, the target among them.
        candidates: targets that are looked at for each one that is asked; 1 draws uniformly.
        seed: of the order and of the draws.
        shuffle_targets: whether each prompt is given the target of another one: a control, in which
            nothing can be learnt of anybody's taste.
        solve_chance: the policy's chance of each row's target; called only where `candidates` is more than 1.

    Raises:
        InputError: numbers below 1, or no such purchase.
    """

    def __init__(
        self,
        interactions: Interactions,
        prompter: Prompter,
        *,
        min_history: int,
        num_generations: int,
        future_window: int = 1,
        candidates: int = 1,
        seed: int = 0,
        shuffle_targets: bool = False,
        solve_chance: SolveChance | None = None,
    ) -> None:
        for name, value in [("future_window", future_window), ("candidates", candidates)]:
            if value < 1:
                raise InputError(f"{name} is {value}; give a number of at least 1.")
        if candidates > 1 and solve_chance is None:
            raise ValueError("candidates are weighed by the policy's chance: solve_chance is missing")
        self._sequences = interactions.training_sequences()
        targets = [(u, t) for u, items in enumerate(self._sequences) for t in range(min_history, len(items))]
        if not targets:
            raise InputError(
                f"No user has more than {min_history} training purchases; lower min_history, "
                "or give data with longer histories."
            )
        self._targets = np.asarray(targets, dtype=np.int64)  # (targets, 2): user, position
        self._asked = np.arange(len(targets))  # whose purchase is the target of each prompt
        if shuffle_targets:
            self._asked = np.random.default_rng([seed, 2]).permutation(len(targets))
        self._prompter = prompter
        self._num_generations = num_generations
        self._future_window = future_window
        self._candidates = candidates
        self._solve_chance = solve_chance
        self._seed = seed
        self._draws = 0
        self._seen: dict[str, dict[int, tuple[float, float]]] = {"direct": {}, "reasoning": {}}
        self._begin_epoch(0, held_back=np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        """Return the number of targets."""
        return len(self._targets)

    def draw(self, count: int, mode: Mode, rank: int = 0, num_ranks: int = 1) -> list[Row]:
        """Draw the next prompts of one device; all devices must ask for as many, in the same mode.

        No two prompts of one draw, over all devices, have the same target while there are targets enough.

        Returns:
            `count` rows: prompt (text), target (L codes), mode, history (dense items that the prompt shows,
            oldest first), item (dense item of the target), future (dense items of the next training purchases
            of the user, the target first), place (number of the target, for `learn`).
        """
        each = count * self._candidates
        places = self._take(each * num_ranks)[rank * each : (rank + 1) * each]
        self._draws += 1
        rows = [self._row(int(place), mode) for place in places]
        if self._candidates == 1:
            return rows
        generator = np.random.default_rng([self._seed, 1, self._draws, rank])
        weights = signal_chance(self._expected(rows, mode), self._num_generations)
        return [rows[place] for place in weighted_choice(weights, count, generator)]

    def learn(self, places: Sequence[int], hits: Sequence[float], tries: int, mode: Mode) -> None:
        """Remember how often targets were hit, for when they come again.

        Give every device the outcomes of all devices, so that the pools stay equal.

        Args:
            places: the rows' `place`, one for each group.
            hits: exact hits of each group.
            tries: completions of each group.
            mode: in which the groups were asked; a target may be easy in one mode and hard in the other.
        """
        if self._candidates == 1:
            return
        seen = self._seen[mode]
        for place, hit in zip(places, hits, strict=True):
            old_hits, old_tries = seen.get(int(place), (0.0, 0.0))
            seen[int(place)] = (FADING * old_hits + float(hit), FADING * old_tries + tries)

    def state(self) -> dict[str, Any]:
        """Give what `load` needs to draw on from here, JSON-compatible."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "held_back": self._held_back.tolist(),
            "draws": self._draws,
            "seen": {
                mode: [[place, *counts] for place, counts in seen.items()]
                for mode, seen in self._seen.items()
            },
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the `state` of a pool of the same data and settings."""
        self._begin_epoch(state["epoch"], held_back=np.asarray(state["held_back"], dtype=np.int64))
        self._position = state["position"]
        self._draws = state["draws"]
        self._seen = {
            mode: {place: (hits, tries) for place, hits, tries in seen}
            for mode, seen in state["seen"].items()
        }

    def _take(self, count: int) -> np.ndarray:
        """Take the next places in the order."""
        taken = np.empty(0, dtype=np.int64)
        while len(taken) < count:
            if self._position == len(self._order):
                self._begin_epoch(self._epoch + 1, held_back=taken)
            part = self._order[self._position : self._position + count - len(taken)]
            self._position += len(part)
            taken = np.concatenate([taken, part])
        return taken

    def _begin_epoch(self, epoch: int, *, held_back: np.ndarray) -> None:
        """Shuffle anew; what the draw that is under way has already comes last, not twice in one batch."""
        order = np.random.default_rng([self._seed, 0, epoch]).permutation(len(self._targets))
        late = np.isin(order, held_back)
        self._order = np.concatenate([order[~late], order[late]])
        self._epoch, self._position, self._held_back = epoch, 0, held_back

    def _row(self, place: int, mode: Mode) -> Row:
        user, position = self._targets[place].tolist()
        items = self._sequences[user]
        history = items[:position]
        owner, bought = self._targets[self._asked[place]].tolist()
        future = self._sequences[owner][bought : bought + self._future_window]
        write = self._prompter.reasoning_text if mode == "reasoning" else self._prompter.direct_text
        return {
            "prompt": write(history),
            "target": self._prompter.names.codes[future[0]].tolist(),
            "mode": mode,
            "history": history[-self._prompter.max_history :].tolist(),
            "item": int(future[0]),
            "future": future.tolist(),
            "place": place,
        }

    def _expected(self, rows: list[Row], mode: Mode) -> np.ndarray:
        """Estimate the chance of a hit: the policy's own where nothing was seen, else the posterior mean."""
        assert self._solve_chance is not None
        prior = np.asarray(self._solve_chance(rows), dtype=np.float64)
        if prior.shape != (len(rows),) or not np.isfinite(prior).all():
            raise ValueError(f"solve_chance must give {len(rows)} finite numbers")
        seen = [self._seen[mode].get(row["place"], (0.0, 0.0)) for row in rows]
        hits, tries = np.asarray(seen, dtype=np.float64).reshape(-1, 2).T
        return np.asarray((PRIOR_STRENGTH * prior + hits) / (PRIOR_STRENGTH + tries))


def signal_chance(chance: np.ndarray, num_generations: int) -> np.ndarray:
    """Give the chance that a group holds both hits and misses: 1 - p^G - (1 - p)^G, (C,) float64.

    Args:
        chance: (C,) chance of one completion to hit, p; rounding outside 0 and 1 is cut.
        num_generations: completions of a group, G.
    """
    p = np.clip(np.asarray(chance, dtype=np.float64), 0.0, 1.0)
    with np.errstate(divide="ignore"):  # the log of 1 - 1 is -inf, and (1 - p)^G then 0, as it should be
        some_hit = -np.expm1(num_generations * np.log1p(-p))  # right to the last digit for a tiny p, too
    return np.asarray(np.maximum(some_hit - p**num_generations, 0.0))


def weighted_choice(weights: np.ndarray, count: int, generator: np.random.Generator) -> list[int]:
    """Draw places without replacement, one after the other, each by its share of the weights that are left.

    Where only weights of zero are left, every place is as likely.

    Args:
        weights: (C,) at least 0.
        count: how many to draw, at most C.
        generator: of the draw.

    Returns:
        The places, ascending.
    """
    # The places with the largest log-weight plus Gumbel noise are such a draw; zeros compare by noise alone.
    noise = generator.gumbel(size=len(weights))
    with np.errstate(divide="ignore"):
        keys = np.log(weights) + noise
    best_first = np.lexsort((-noise, -keys))
    return sorted(best_first[:count].tolist())


def mode_of_batch(batch: int, reasoning_share: float) -> Mode:
    """Spread the reasoning batches evenly over the run."""
    share = reasoning_share + 1e-9  # 0.7 x 10 must count as 7 whole batches
    return "reasoning" if int((batch + 1) * share) > int(batch * share) else "direct"
