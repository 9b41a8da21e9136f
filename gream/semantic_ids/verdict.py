"""One sentence on a set of names: pass, or what to change first.

The thresholds are ours. They come from names of real catalogues that trained well or badly, and are meant to
catch what is plainly wrong, not to rank what is fine.
"""

from __future__ import annotations

from typing import Any

FEWEST_ITEMS_PER_CODE = 4  # below it a code is seen too rarely to be learnt
SHARED_VECTORS = 0.05  # share of items whose vector is another's too: their text says nothing of its own
LEAST_USE = 0.25  # perplexity of a level as a share of the codes it could use
MOST_COLLISIONS = 0.3  # share of items that shared a name before collisions were resolved
MOST_ERROR = 0.9  # share of the variance that a whole name leaves unsaid
LIFT = 2.0  # how many times chance the neighbours in the group of the first level must be


def judge(report: dict[str, Any]) -> dict[str, Any]:
    """Judge the figures of `sids_report.measure`.

    Returns:
        `passed`, `findings` (each: what is wrong and what to change) and `sentence`, which says pass or
        names the findings, gravest first.
    """
    findings = [finding for rule in _RULES for finding in rule(report)]
    sentence = f"Change {'; '.join(findings)}." if findings else _praise(report)
    return {"passed": not findings, "findings": findings, "sentence": sentence}


def _thin_text(report: dict[str, Any]) -> list[str]:
    share = report["items_with_the_vector_of_another"] / max(report["items"], 1)
    if share <= SHARED_VECTORS:
        return []
    return [
        f"the text, which is too thin: {share:.0%} of the items have the vector of another (add "
        "descriptions, or raise `collaborative` in the stage embed)"
    ]


def _too_large(report: dict[str, Any]) -> list[str]:
    largest = max(level["codes"] for level in report["levels"] if level["quantised"])
    mean = report["items"] / largest
    if mean >= FEWEST_ITEMS_PER_CODE:
        return []
    most = max(2, report["items"] // FEWEST_ITEMS_PER_CODE)
    return [
        f"`codebook_size`, which is too large for this catalogue: {largest:,} codes for {report['items']:,} "
        f"items are {mean:.1f} items a code (at most {most:,} codes)"
    ]


def _collapse(report: dict[str, Any]) -> list[str]:
    found = []
    for level in report["levels"]:
        possible = min(level["codes"], report["items"])
        if level["quantised"] and level["perplexity"] < LEAST_USE * possible:
            found.append(
                f"the quantiser, which collapses at level {level['level'] + 1}: {level['perplexity']:.0f} of "
                f"{possible:,} codes carry the items (make `codebook_size` smaller there, or set "
                "`balanced: true` with residual_kmeans, more `epochs` with rqvae or mpq)"
            )
    return found


def _too_many_collisions(report: dict[str, Any]) -> list[str]:
    rate = report["collisions"]["rate_before"]
    if rate <= MOST_COLLISIONS:
        return []
    return [
        f"the room of names: {rate:.0%} of the items shared one before they were told apart (raise "
        "`num_codebooks` or `codebook_size`)"
    ]


def _says_little(report: dict[str, Any]) -> list[str]:
    errors = [level["reconstruction_error"] for level in report["levels"] if level["quantised"]]
    if not errors or errors[-1] is None or errors[-1] <= MOST_ERROR:
        return []
    return [f"the quantiser: a name leaves {errors[-1]:.0%} of the embedding unsaid (raise `num_codebooks`)"]


def _no_neighbours(report: dict[str, Any]) -> list[str]:
    near = report["levels"][0]["neighbours"]
    # Where chance is high already, half of the way from it to all of them is enough.
    gain = min((LIFT - 1) * near["chance"], (1 - near["chance"]) / 2)
    if near["kept"] >= near["chance"] + gain:
        return []
    return [
        f"the embedding: the first code puts {near['kept']:.0%} of an item's neighbours beside it, chance "
        f"{near['chance']:.0%} (check the texts and the weight `collaborative`)"
    ]


_RULES = (_thin_text, _too_large, _collapse, _too_many_collisions, _says_little, _no_neighbours)


def _praise(report: dict[str, Any]) -> str:
    last = [level for level in report["levels"] if level["quantised"]][-1]
    error = last["reconstruction_error"]
    said = "" if error is None else f", names say {1 - error:.0%} of the embedding"
    return (
        f"Pass: every level is in use{said}, and {report['neighbours_kept']:.0%} of the "
        "nearest neighbours stay neighbours."
    )
