"""Which purchases of a history do not fit the others: the fifth step, done for real.

A purchase fits when its text (category path, title, brand) is near that of others in the history, and when
its category, or the item itself, is bought near theirs more often than by chance. How much each of these
counts is learnt without any label: a logistic regression tells the purchases that customers made from ones
drawn by popularity and put in their places. Its odds are the ratio of two densities, purchase given the
history against purchase at random. Where even the least fitting purchases are found, the ratio is the share
of purchases that follow no taste, as in learning from positive and unlabelled data (C. Elkan, K. Noto 2008);
Bayes' rule then gives each purchase its probability of being stray. Ours; GREAM names the step and copies the
history. Only training purchases are used.

Legend: N items, C categories, T purchases of a history, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import coo_array, csr_array
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from gream.data.store import Catalogue
from gream.language.reasoning import Trace

_WINDOW = 3  # purchases on each side that count as near
_LONGEST = 50  # newest purchases of a user that are learnt from
_FEWEST_KEPT = 2  # purchases that a history is left with
_MOST_EXAMPLES = 20_000  # histories that the regression learns from
_UNLIKELY = 0.5  # share of the purchases drawn at random that hardly anybody makes on purpose
_STRAY = 0.5  # probability from which a purchase is left out


class Coherence:
    """Knows how well purchases go together.

    Args:
        catalogue: items with their text.
        sequences: training purchases, one array for each user.
        seed: seed of the purchases drawn at random.
    """

    def __init__(self, catalogue: Catalogue, sequences: Iterable[np.ndarray], seed: int = 0) -> None:
        bought = [sequence[-_LONGEST:] for sequence in sequences]
        self._text = _texts(catalogue)  # (N, V), rows of length 1
        self._brand = np.unique(["", *catalogue.brands], return_inverse=True)[1][1:]  # (N,) 0: none
        leaves = [path[-1] if path else "" for path in catalogue.categories]
        category = np.unique(["", *leaves], return_inverse=True)[1][1:]  # (N,) 0: none
        self._meetings = [_Meetings(bought, kinds) for kinds in (category, np.arange(len(catalogue)) + 1)]
        self._weights = np.zeros(0)  # (F + 1,) of the features and of 1; empty where nothing can be compared
        self._stray_share = 0.0
        compared = [sequence for sequence in bought if len(sequence) > _FEWEST_KEPT]
        if compared:
            self._learn(compared, np.random.default_rng(seed))

    def fitting(self, history: Sequence[int]) -> list[int]:
        """The purchases of a history that fit; all, when fewer than two do."""
        kept = [int(item) for item, stray in zip(history, self.stray(history), strict=True) if stray < _STRAY]
        return kept if len(kept) >= _FEWEST_KEPT else [int(item) for item in history]

    def stray(self, history: Sequence[int]) -> np.ndarray:
        """(T,) probability of each purchase that it follows no taste; 0 where nothing can be compared."""
        items = np.asarray(history, dtype=np.int64)
        if not len(self._weights) or len(items) <= _FEWEST_KEPT:
            return np.zeros(len(items))
        ratio = self._ratio(self._features(items, np.arange(len(items))))
        return np.minimum(self._stray_share / np.maximum(ratio, self._stray_share), 1.0)

    def _learn(self, bought: list[np.ndarray], rng: np.random.Generator) -> None:
        """Learn to tell purchases from ones drawn by popularity, and how many are as good as drawn."""
        popular = np.concatenate(bought)
        rows = []
        chosen = rng.permutation(len(bought))[:_MOST_EXAMPLES]
        for sequence in (bought[i] for i in chosen):
            place = int(rng.integers(len(sequence)))
            drawn = rng.choice(popular)
            if drawn not in sequence:
                places = np.append(np.arange(len(sequence)), place)
                features = self._features(np.append(sequence, drawn), places)
                rows.append(features[[place, -1]])
        described = np.stack(rows).reshape(-1, rows[0].shape[-1])  # (2 * examples, F)
        made = np.tile([True, False], len(rows))
        mean, scale = described.mean(axis=0), described.std(axis=0)
        scale[scale == 0] = 1.0  # guard: a feature that is the same everywhere
        fitted = LogisticRegression().fit((described - mean) / scale, made)
        slope = fitted.coef_[0] / scale
        self._weights = np.append(slope, fitted.intercept_[0] - slope @ mean)
        ratio = self._ratio(described)
        edge = np.quantile(ratio[~made], _UNLIKELY)
        # One is added, so that customers without any stray purchase do not rule the first one out.
        self._stray_share = float((ratio[made] <= edge).sum() + 1) / (_UNLIKELY * made.sum())

    def _ratio(self, features: np.ndarray) -> np.ndarray:
        """Odds that a purchase was made rather than drawn, from its features (..., F)."""
        logit = features @ self._weights[:-1] + self._weights[-1]
        odds: np.ndarray = np.exp(np.clip(logit, -50.0, 50.0))  # guard: nothing may become infinite
        return odds

    def _features(self, items: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(T, F) how near each purchase is to the others; two in one place are not compared.

        What the history itself, each place's first purchase, adds to the meetings is taken away.
        """
        apart = np.abs(np.subtract.outer(places, places))
        others, near = apart > 0, (apart > 0) & (apart <= _WINDOW)
        own = near.copy()
        own[np.setdiff1d(np.arange(len(items)), np.unique(places, return_index=True)[1])] = False
        own &= own.T
        alike = (self._text[items] @ self._text[items].T).toarray()
        same_brand = np.equal.outer(self._brand[items], self._brand[items]) & (self._brand[items] > 0)
        by_category, by_item = (meetings.lift(items, own) for meetings in self._meetings)
        return np.stack(
            [
                _most(by_category, near),
                _mean(by_category, near),
                _most(by_category, others),
                _mean(by_category, others),
                _most(by_item, near),
                _most(alike, others),
                _mean(alike, others),
                _mean(same_brand, others),
            ],
            axis=1,
        )


class _Meetings:
    """How much oftener than by chance two kinds of items are bought near one another."""

    def __init__(self, bought: Sequence[np.ndarray], kind_of: np.ndarray) -> None:
        self._kind = kind_of
        nothing = np.zeros(0, dtype=np.int64)  # where nobody bought anything
        gaps = range(1, _WINDOW + 1)
        left = np.concatenate([nothing, *(s[:-gap] for s in bought for gap in gaps)])
        right = np.concatenate([nothing, *(s[gap:] for s in bought for gap in gaps)])
        pairs = (np.append(kind_of[left], kind_of[right]), np.append(kind_of[right], kind_of[left]))
        size = int(kind_of.max(initial=0)) + 1
        self._met = csr_array(coo_array((np.ones(2 * len(left)), pairs), shape=(size, size)))
        self._all = float(self._met.sum())
        self._share = np.asarray(self._met.sum(axis=1)) / max(self._all, 1.0)  # guard: nobody bought twice

    def lift(self, items: np.ndarray, own: np.ndarray) -> np.ndarray:
        """(T, T) log of meetings over those by chance, one added to both; 0 for items without a kind."""
        kinds, of = np.unique(self._kind[items], return_inverse=True)
        is_of = np.equal.outer(of, np.arange(len(kinds))).astype(float)  # (T, kinds)
        met = self._met[kinds][:, kinds].toarray() - is_of.T @ own @ is_of
        chance = np.outer(self._share[kinds], self._share[kinds]) * self._all
        log = np.log((np.maximum(met, 0) + 1) / (chance + 1)) * np.outer(kinds > 0, kinds > 0)
        lift: np.ndarray = log[of][:, of]
        return lift


def removal_quality(
    traces: Iterable[Trace], sequences: Sequence[np.ndarray], is_noise: Sequence[np.ndarray]
) -> dict[str, float | int | None]:
    """How well the rewritten histories leave out what is known to be noise.

    Args:
        traces: what a teacher wrote; nobody bought an item twice.
        sequences: every user's purchases.
        is_noise: for each of them whether it followed no taste, as `gream.data.simulate.load_truth` tells.

    Returns:
        Counts of purchases shown, noise among them, purchases left out, and noise among those; with them
        precision and recall of leaving out, and the noise share, which is the precision of leaving out as
        many at random. A share of nothing is None.
    """
    noise_of = [set(s[marks].tolist()) for s, marks in zip(sequences, is_noise, strict=True)]
    shown = noise = left_out = hits = 0
    for trace in traces:
        stray = noise_of[trace.user].intersection(trace.history)
        gone = set(trace.history) - set(trace.rewritten)
        shown += len(trace.history)
        noise += len(stray)
        left_out += len(gone)
        hits += len(gone & stray)
    return {
        "purchases_shown": shown,
        "noise_shown": noise,
        "left_out": left_out,
        "noise_left_out": hits,
        "precision": _share(hits, left_out),
        "recall": _share(hits, noise),
        "noise_share": _share(noise, shown),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _most(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    most: np.ndarray = np.where(among, values, -np.inf).max(axis=1)
    return most


def _mean(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    # Every place has another one near, for no history of fewer than three is looked at.
    mean: np.ndarray = np.where(among, values, 0).sum(axis=1) / among.sum(axis=1)
    return mean


def _texts(catalogue: Catalogue) -> csr_array:
    """(N, V) TF-IDF of category path, title and brand."""
    paths, titles, brands = catalogue.categories, catalogue.titles, catalogue.brands
    texts = [
        " ".join((*path, title, brand)) for path, title, brand in zip(paths, titles, brands, strict=True)
    ]
    return csr_array(TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit_transform(texts))
