"""What all routes share: the shop, the queue, the figures; and how a question gets its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fastapi import HTTPException, Request

from gream.errors import EngineUnavailable, InputError
from gream.serving.batching import Batcher, DeadlineError, QueueFullError, Watch
from gream.serving.metrics import Metrics
from gream.serving.schema import (
    ItemReference,
    Reason,
    RecommendationAnswer,
    RecommendationRequest,
    Recommended,
    SearchPrefix,
)
from gream.serving.shop import Shop

if TYPE_CHECKING:
    from gream.decoding.answer import Answer
    from gream.decoding.filters import Filters
    from gream.decoding.recommender import Question, Recommender
    from gream.language.reasoning import Chain

Result = TypeVar("Result")
CLIENT_LEFT = 499  # as nginx calls it; nobody reads the answer


@dataclass(frozen=True, eq=False)
class Taken:
    """A request that can be answered, and the run that answers it."""

    request: RecommendationRequest
    recommender: Recommender
    history: Sequence[str]
    question: Question


@dataclass(frozen=True)
class Desk:
    """Where requests are taken."""

    shop: Shop
    batcher: Batcher
    metrics: Metrics
    seconds: float  # longest wait for an answer

    def take(self, request: RecommendationRequest) -> Taken:
        """Check a request, and tie it to the run that is served now.

        Raises:
            InputError: an unknown item or user, or what the recommender cannot do.
        """
        recommender = self.shop.current.recommender
        given = "history" in request.model_fields_set
        history = request.history if given else recommender.history_of(request.user_id)
        question = recommender.ask(
            history,
            request.k,
            request.mode,
            num_chains=request.num_chains,
            num_beams=request.num_beams,
            expand_width=request.expand_width,
            exclude_seen=request.exclude_seen,
            filters=_filters(request),
            seed=request.seed,
        )
        return Taken(request, recommender, history, question)

    async def answer(self, taken: Taken, watch: Watch | None = None) -> RecommendationAnswer:
        """Answer a request by the run that it is tied to.

        Raises:
            HTTPException: 429 where too many wait, 408 and 504 where the time is over.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        request = taken.request
        seconds = min(request.timeout or self.seconds, self.seconds)
        try:
            found = await self.batcher.ask(taken.recommender, taken.question, seconds, watch)
        except QueueFullError as error:
            raise HTTPException(
                429,
                f"Too many requests wait already; come again in {error.wait} s.",
                {"Retry-After": str(error.wait)},
            ) from error
        except DeadlineError as error:
            # The client's own limit is no failure of the service; the service's is.
            status = 408 if seconds < self.seconds else 504
            told_so = f"There was no answer within {seconds:g} s; ask for less, or give it more time."
            raise HTTPException(status, told_so) from error
        took = loop.time() - started
        self.metrics.recommended.labels(request.mode).observe(took)
        return told(taken, found, took)


def told(taken: Taken, answer: Answer, seconds: float) -> RecommendationAnswer:
    """Put an answer into the words of the interface."""
    request, recommender, history = taken.request, taken.recommender, taken.history
    titles = titles_of(recommender, history)
    search = recommender.tree(answer) if request.explain else None
    return RecommendationAnswer(
        mode=request.mode,
        history=[
            ItemReference(item_id=item_id, title=title)
            for item_id, title in zip(history, titles, strict=True)
        ],
        recommendations=[
            Recommended(
                rank=one.rank,
                item_id=one.item_id,
                title=one.title,
                name=one.name,
                logp=one.logp,
                score=one.score,
                chain=None if one.chain is None else reason(one.chain, titles),
                chain_number=one.chain_number,
            )
            for one in recommender.titled(answer)
        ],
        search=None
        if search is None
        else [
            [SearchPrefix(codes=p.codes, kept=p.kept, ranks=list(p.items)) for p in level] for level in search
        ],
        seconds=round(seconds, 4),
    )


def titles_of(recommender: Recommender, history: Sequence[str]) -> list[str]:
    """Titles of a history."""
    catalogue = recommender.catalogue
    return [catalogue.titles[catalogue.index[item_id]] for item_id in history]


def reason(chain: Chain, titles: Sequence[str]) -> Reason:
    """Put a chain into the words of the interface; what has its title in the evidence is cited."""
    cited = [place for place, title in enumerate(titles) if title and title in chain.evidence]
    return Reason(**vars(chain), cited=cited)


async def unless_left(request: Request, work: Awaitable[Result]) -> Result:
    """Wait for work while the client does; end it when the client leaves.

    Raises:
        HTTPException: the client left, so that nobody will read this.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise HTTPException(CLIENT_LEFT, "The client left.")
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refusal(error: EngineUnavailable | InputError | HTTPException) -> str:
    """Return the sentence of an error."""
    return str(error.detail) if isinstance(error, HTTPException) else str(error)


def _filters(request: RecommendationRequest) -> Filters:
    from gream.decoding.filters import Filters

    wanted = request.filters
    return Filters(
        wanted.categories, wanted.brands, wanted.min_price, wanted.max_price, wanted.allow, wanted.deny
    )
