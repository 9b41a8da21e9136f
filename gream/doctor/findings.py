"""One thing that the doctor looked at, and what it found."""

from __future__ import annotations

from dataclasses import dataclass

WORKS = "works"
BROKEN = "broken"  # it is there, and does not do what it is for; or gream cannot do without it
ABSENT = "absent"  # it is not there, and nothing needs it until it is asked for
NOTE = "note"  # neither good nor bad


@dataclass(frozen=True)
class Finding:
    """What was found of one thing, and what mends it."""

    area: str
    name: str
    state: str  # one of the four above
    told: str
    mend: str = ""  # what to do; empty where nothing is to be done
