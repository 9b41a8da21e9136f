"""What a person wants to see of written traces: what was dropped, with an example, and what was kept.

The report is Markdown. Texts come from a teacher and titles from data, so both are shown escaped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from gream.data.store import Catalogue
from gream.evaluation.rendering import escape_markdown, markdown_table
from gream.language.reasoning import Trace

REPORT_FILE = "traces_report.md"
_SHOWN = 3  # traces that were kept
_LONGEST = 300  # characters of an example


class _Dropped(Protocol):
    """What the report needs of a dropped attempt."""

    @property
    def reason(self) -> str: ...

    @property
    def text(self) -> str: ...


def text_of(trace: Trace) -> str:
    """The texts of a chain without its names, on one line."""
    kinds = ", ".join(trace.kinds)
    return f"{kinds} / {trace.preference} / {trace.intent} / {trace.recommendation}"


def format_report(
    kept: Sequence[Trace],
    dropped: Sequence[_Dropped],
    removal: Mapping[str, int | float | None],
    catalogue: Catalogue,
) -> str:
    """Markdown with every reason counted and shown once, the removal's figures, and three kept traces.

    Args:
        kept: the traces; those shown are spread evenly over them.
        dropped: attempts that were not used, in the order they were made.
        removal: figures of `removal_quality`; empty where nobody knows the noise.
        catalogue: gives the titles.
    """
    parts = [
        f"# Reasoning traces\n\n{len(kept):,} kept, {len(dropped):,} attempts dropped.",
        _reasons(dropped),
    ]
    if removal:
        rows = [[name.replace("_", " "), "-" if v is None else f"{v:,}"] for name, v in removal.items()]
        title = "## Step 5: what was left out, against what is known to be noise"
        parts.append(f"{title}\n\n{markdown_table(['', 'of the kept traces'], rows)}")
    shown = [kept[i * len(kept) // _SHOWN] for i in range(min(_SHOWN, len(kept)))]
    parts.append("## Some of those kept\n\n" + "\n\n".join(_trace(trace, catalogue) for trace in shown))
    return "\n\n".join(part for part in parts if part) + "\n"


def _reasons(dropped: Sequence[_Dropped]) -> str:
    """Table of the reasons, the commonest first, each with its first example that has a text."""
    texts: dict[str, list[str]] = defaultdict(list)
    for attempt in dropped:
        texts[attempt.reason].append(attempt.text)
    if not texts:
        return ""
    ordered = sorted(texts.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    rows = [
        [escape_markdown(reason), f"{len(all_)}", escape_markdown(next(filter(None, all_), "")[:_LONGEST])]
        for reason, all_ in ordered
    ]
    return f"## Why attempts were dropped\n\n{markdown_table(['reason', 'attempts', 'an example'], rows)}"


def _trace(trace: Trace, catalogue: Catalogue) -> str:
    titles = catalogue.titles
    lines = {
        "history": "; ".join(titles[item] for item in trace.history),
        "evidence": "; ".join(f"{k}: {titles[i]}" for i, k in zip(trace.evidence, trace.kinds, strict=True)),
        "preference": trace.preference,
        "intent": trace.intent,
        "recommendation": trace.recommendation,
        "history without noise": "; ".join(titles[item] for item in trace.rewritten),
        "bought next": titles[trace.target],
    }
    return "\n".join(f"- *{name}*: {escape_markdown(text)}" for name, text in lines.items())
