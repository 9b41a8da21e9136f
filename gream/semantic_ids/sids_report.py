"""How good the names are: the figures of `sids_report.json`, and the same as a table for people.

Legend: N items, D embedding, L codebooks (the disambiguation level included), K codes, P pairs of items.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gream.data.store import Catalogue, Interactions
from gream.semantic_ids import sids_plots, verdict
from gream.semantic_ids.layout import Names
from gream.semantic_ids.neighbourhood import Neighbours, find_neighbours, neighbours_kept, shared_groups
from gream.semantic_ids.predictability import predictability
from gream.semantic_ids.quantiser import Quantiser

REPORT_FILE = "sids_report.json"
TEXT_FILE = "report.md"


def measure(
    vectors: np.ndarray,
    first_codes: np.ndarray,
    names: Names,
    quantiser: Quantiser,
    catalogue: Catalogue,
    interactions: Interactions,
) -> dict[str, Any]:
    """Measure names.

    A group of items is all that share the codes up to a level; of unordered codes, all that share the one
    code of a codebook.

    Args:
        vectors: (N, D) what was quantised.
        first_codes: (N, quantised levels) codes before collisions were resolved.
        names: the final names.
        quantiser: what gave them.
        catalogue: the items, for their categories.
        interactions: purchases; training ones to count, validation ones to test the prediction.

    Returns:
        What `sids_report.json` holds. A reconstruction error is the mean squared distance as a share of the
        mean squared distance to the centre of all vectors; null where there is none.
    """
    quantised = names.codes[:, : len(quantiser.codebooks)]
    before = sharing(first_codes)
    total = max(len(names), 1)
    neighbours = find_neighbours(vectors)
    rebuilt = quantiser.reconstruct(quantiser.project(vectors), quantised, range(quantised.shape[1]))
    levels = _levels(vectors, names, quantiser, catalogue.categories, neighbours)
    for level, found in zip(levels, predictability(names, interactions), strict=True):
        level["next_item"] = found
    report: dict[str, Any] = {
        "items": len(names),
        "method": quantiser.method,
        "ordered": names.layout.ordered,
        "codebook_sizes": list(names.layout.codebook_sizes),
        "disambiguation": names.layout.disambiguation,
        "collisions": {
            "items_before": before,
            "rate_before": before / total,
            "items_renamed": int((quantised != first_codes).any(axis=1).sum()),
            "rate_after_renaming": sharing(quantised) / total,
            "rate_after": sharing(names.codes) / total,
        },
        "items_with_the_vector_of_another": _same_vectors(vectors),
        "category_purity_without_names": _purities(names.codes[:, :0], catalogue.categories),
        "neighbours_looked_at": len(neighbours.items),
        "neighbours_kept": neighbours_kept(neighbours, rebuilt),
        "bits_for_the_next_item": sum(level["next_item"]["bits"] for level in levels),
        "levels": levels,
    }
    report["verdict"] = verdict.judge(report)
    return report


def write(folder: Path, report: dict[str, Any], names: Names) -> None:
    """Write the report as JSON, as Markdown, and its plots."""
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
    (folder / TEXT_FILE).write_text(f"# Names of {report['items']:,} items\n\n{format_report(report)}\n")
    sids_plots.write(folder, report, names)


def format_report(report: dict[str, Any]) -> str:
    """Write the verdict and one row for each level as Markdown, which reads well in a terminal too."""
    collisions = report["collisions"]
    shape = " x ".join(map(str, report["codebook_sizes"]))
    order = "ordered" if report["ordered"] else "unordered"
    lines = [
        f"**{report['verdict']['sentence']}**",
        "",
        f"{report['items']:,} items, {order} codes of {shape} by {report['method']}; "
        f"{collisions['items_before']:,} shared a name at first ({collisions['rate_before']:.1%}), "
        f"{collisions['items_renamed']:,} got another last code, {collisions['rate_after']:.1%} share one now"
        f"{'; the last level only tells items apart' if report['disambiguation'] else ''}. "
        f"Of an item's ten nearest neighbours {report['neighbours_kept']:.0%} are kept. "
        f"Naming the next item takes {report['bits_for_the_next_item']:.1f} bits"
        f" where its history is known by its last item ({np.log2(max(report['items'], 1)):.1f} by chance).",
        "",
        "| level | codes used | perplexity | largest / mean | groups | items a group | error left | "
        "category purity (chance) | neighbours in the group (chance) | bits, with last item |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    chance = report["category_purity_without_names"]
    lines += [_row(level, chance[-1] if chance else None) for level in report["levels"]]
    return "\n".join(lines)


def category_purity(groups: np.ndarray, categories: Sequence[tuple[str, ...]]) -> float | None:
    """Share of items whose category is the most frequent one among the items of their group.

    Items without a category do not count; None if there is no other. With groups of no codes it is the
    share of the largest category, which says what chance reaches.

    Args:
        groups: (N, any number of codes); equal rows are one group.
        categories: path of every item, compared as a whole.
    """
    numbers: dict[tuple[str, ...], int] = {}
    category = np.array([numbers.setdefault(path, len(numbers)) if path else -1 for path in categories])
    known = category >= 0
    if not known.any():
        return None
    group = np.unique(groups, axis=0, return_inverse=True)[1].ravel()
    pairs, counts = np.unique(np.stack([group, category])[:, known], axis=1, return_counts=True)
    most = np.zeros(int(group.max()) + 1, dtype=np.int64)
    np.maximum.at(most, pairs[0], counts)
    return float(most.sum() / known.sum())


def reconstruction_error(
    vectors: np.ndarray, codes: np.ndarray, quantiser: Quantiser, books: Sequence[int]
) -> float | None:
    """Share of the variance of vectors (N, D) that the codes of some codebooks leave unsaid."""
    variance = float(((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1).mean(dtype=np.float64))
    if variance == 0:  # all items are the same; there is nothing to reconstruct
        return None
    left = vectors - quantiser.reconstruct(quantiser.project(vectors), codes, books)
    return float((left**2).sum(axis=1).mean(dtype=np.float64)) / variance


def sharing(rows: np.ndarray) -> int:
    """Count the items whose row is another item's too."""
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    return int(counts[counts > 1].sum())


def _same_vectors(vectors: np.ndarray) -> int:
    """Count the items whose vector, to five digits, is another item's too."""
    rows = np.round(vectors, 5) + 0.0  # no negative zeros
    # Hashes, because sorting a million long rows takes minutes.
    counts = Counter(hash(row.tobytes()) for row in rows)
    return sum(count for count in counts.values() if count > 1)


def groups_of(names: Names, level: int) -> np.ndarray:
    """Codes that make items a group at a level: all up to it, or only its own if codes have no order."""
    first = 0 if names.layout.ordered else level
    return names.codes[:, first : level + 1]


def _levels(
    vectors: np.ndarray,
    names: Names,
    quantiser: Quantiser,
    categories: Sequence[tuple[str, ...]],
    neighbours: Neighbours,
) -> list[dict[str, Any]]:
    books = range(len(quantiser.codebooks))
    levels = []
    for level, size in enumerate(names.layout.codebook_sizes):
        groups = groups_of(names, level)
        errors: dict[str, float | None] = {"reconstruction_error": None, "error_without": None}
        if level in books:
            others = [book for book in books if book != level]
            errors = {
                "reconstruction_error": reconstruction_error(
                    vectors, names.codes, quantiser, books[: level + 1]
                ),
                "error_without": reconstruction_error(vectors, names.codes, quantiser, others),
            }
        levels.append(
            {
                "level": level,
                "quantised": level in books,
                **_use(names.codes[:, level], size),
                **_sizes(groups),
                "category_purity": _purities(groups, categories),
                "neighbours": shared_groups(neighbours, groups),
                **errors,
            }
        )
    return levels


def _purities(groups: np.ndarray, categories: Sequence[tuple[str, ...]]) -> list[float]:
    """Purity against every depth of the category tree, coarse to fine; [] without categories."""
    deepest = max(map(len, categories), default=0)
    found = [
        category_purity(groups, [path[:depth] for path in categories]) for depth in range(1, deepest + 1)
    ]
    return [value for value in found if value is not None]


def _use(codes: np.ndarray, size: int) -> dict[str, Any]:
    """Say how many codes of a codebook are in use, and how evenly."""
    counts = np.bincount(codes, minlength=size)
    shares = counts[counts > 0] / max(len(codes), 1)
    entropy = float(-(shares * np.log2(shares)).sum())
    return {
        "codes": size,
        "codes_used": int((counts > 0).sum()),
        "largest_code": int(counts.max()),
        "balance": float(counts.max() / max(counts.mean(), 1e-12)),  # largest by mean; 1 if all are equal
        "entropy_bits": entropy,
        "entropy_bits_at_most": float(np.log2(size)),
        "perplexity": float(2**entropy),
    }


def _sizes(groups: np.ndarray) -> dict[str, Any]:
    """Say how many groups there are, and how many items they hold."""
    counts = np.unique(groups, axis=0, return_counts=True)[1]
    return {
        "groups": len(counts),
        "items_per_group_mean": float(counts.mean()),
        "items_per_group_median": float(np.median(counts)),
        "items_per_group_max": int(counts.max()),
    }


def _row(level: dict[str, Any], chance: float | None) -> str:
    error, purity, near = level["reconstruction_error"], level["category_purity"], level["neighbours"]
    cells = [
        str(level["level"]),
        f"{level['codes_used']:,} of {level['codes']:,}",
        f"{level['perplexity']:,.0f}",
        f"{level['balance']:.2f}",
        f"{level['groups']:,}",
        f"{level['items_per_group_mean']:.1f}",
        "-" if error is None else f"{error:.3f}",
        "-" if not purity or chance is None else f"{purity[-1]:.3f} ({chance:.3f})",
        f"{near['kept']:.3f} ({near['chance']:.3f})",
        f"{level['next_item']['bits_without_last']:.2f}, {level['next_item']['bits']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"
