"""What the calls of a teacher used and cost, what failed, and what the budget still allows.

Only answers are counted. What a server charges for a request that it did not answer in time, nobody tells.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from data_synthesis.call_cache import Answer
from data_synthesis.settings import TeacherConfig

if TYPE_CHECKING:
    from data_synthesis.endpoint import Endpoint


class Account:
    """Books answers and reserves for calls that are under way.

    Args:
        config: checked settings, with prices and budgets.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self.answers = self.cached = self.not_asked = self.under_way = 0
        self.retries: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._config = config
        self._spent = [0, 0]  # prompt and completion tokens of all answers
        self._paid_now = [0, 0]  # the same without those of earlier runs
        self._reserved = [0, 0]
        self._booked: set[str] = set()

    def fits(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Say whether a call of at most so many tokens can be made within the budget."""
        prompt = self._spent[0] + self._reserved[0] + prompt_tokens
        completion = self._spent[1] + self._reserved[1] + completion_tokens
        tokens, money = self._config.token_budget, self._config.money_budget
        return (not tokens or prompt + completion <= tokens) and (
            not money or self._config.cost(prompt, completion) <= money
        )

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Set tokens aside for a call that begins."""
        self.under_way += 1
        self._reserved[0] += prompt_tokens
        self._reserved[1] += completion_tokens

    def release(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Give back what was set aside; what was really used has been booked."""
        self.under_way -= 1
        self._reserved[0] -= prompt_tokens
        self._reserved[1] -= completion_tokens

    def book(self, key: str, answer: Answer, *, cached: bool) -> None:
        """Count the answer of a call, paid for now or before; once, however many questions share it."""
        if key in self._booked:
            return
        self._booked.add(key)
        self.answers += 1
        self.cached += cached
        for total in (self._spent, *([] if cached else [self._paid_now])):
            total[0] += answer.prompt_tokens
            total[1] += answer.completion_tokens

    def take_over(self, endpoint: Endpoint) -> None:
        """Take over what the endpoint has counted."""
        self.retries, self.failures = endpoint.retries, endpoint.failures

    def counts(self) -> dict[str, Any]:
        """The figures for a manifest; the same whether answers were paid for now or before."""
        figures: dict[str, Any] = {"answers": self.answers}
        figures |= {"prompt_tokens": self._spent[0], "completion_tokens": self._spent[1]}
        if self._priced:
            figures["cost"] = round(self._config.cost(*self._spent), 4)
        return figures | ({"not asked": self.not_asked} if self.not_asked else {})

    def sentences(self) -> list[str]:
        """What a person should know at the end."""
        spent, now = ", ".join(f"{n:,}" for n in self._spent), self.answers - self.cached
        told = [
            f"{self.answers:,} answers ({now:,} new, {self.cached:,} from earlier runs), "
            f"{spent} prompt and completion tokens{self._money()}"
        ]
        if self.retries:
            told.append(f"sent again: {_listed(self.retries)}")
        if self.failures:
            told.append(
                f"failed calls: {_listed(self.failures)}; the same command asks these again and no other"
            )
        if self.not_asked:
            told.append(
                f"the budget is spent: {self.not_asked:,} questions were not asked; what is there is kept, "
                "raise `token_budget` or `money_budget` and run the same command to go on"
            )
        return told

    @property
    def _priced(self) -> bool:
        return bool(self._config.prompt_price or self._config.completion_price)

    def _money(self) -> str:
        if not self._priced:
            return ""
        cost = self._config.cost
        return f", {cost(*self._spent):.4f} in all, {cost(*self._paid_now):.4f} of it now"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in counts.most_common())
