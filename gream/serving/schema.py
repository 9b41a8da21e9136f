"""Requests and answers about recommendations, with the bounds that one request may ask for.

What an answer says of items is in `catalogue_schema.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _whole(value: object) -> object:
    """Take 3.0 for 3, as JSON Schema does; everything else is for the strict check."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)  # stands behind the bounds, or the document would not tell them
Length = Annotated[int, Field(ge=1, le=100), _WHOLE]
Chains = Annotated[int, Field(ge=1, le=32), _WHOLE]
Beams = Annotated[int, Field(ge=1, le=200), _WHOLE]
Width = Annotated[int, Field(ge=1, le=1000), _WHOLE]
Seed = Annotated[int, Field(ge=0, lt=2**32), _WHOLE]
RawId = Annotated[str, Field(min_length=1, max_length=256)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_EXAMPLE: dict[str, Any] = {"history": ["an item_id", "a later item_id"], "k": 5}


class ItemFilters(BaseModel):
    """What a list may hold; every field narrows, what is left out does not."""

    model_config = ConfigDict(extra="forbid", strict=True)

    categories: list[RawId] = Field([], max_length=100, description="in one of these, at any level")
    brands: list[RawId] = Field([], max_length=100, description="of one of these")
    min_price: Price | None = Field(None, description="an unknown price passes no bound")
    max_price: Price | None = Field(None, description="an unknown price passes no bound")
    allow: list[RawId] | None = Field(None, min_length=1, max_length=10_000, description="only these items")
    deny: list[RawId] = Field([], max_length=10_000, description="none of these items")


class RecommendationRequest(BaseModel):
    """A history, given or by the id of a user of the data set, and how to answer."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": _EXAMPLE,
            "oneOf": [{"required": ["history"]}, {"required": ["user_id"]}],
        },
    )

    # Left out, not null: the document can then say that one of the two is there.
    history: list[RawId] = Field(
        None,  # type: ignore[arg-type]
        min_length=1,
        max_length=1000,
        description="item ids, oldest first; either this or `user_id`",
    )
    user_id: RawId = Field(None, description="a user of the data set, instead of `history`")  # type: ignore[assignment]
    k: Length = Field(10, description="number of items wanted")
    mode: Literal["direct", "reasoning"] = Field("direct", description="answer at once, or think aloud first")
    num_chains: Chains = Field(4, description="reasoning chains to write; no effect in direct mode")
    num_beams: Beams | None = Field(
        None, description="prefixes that the search keeps; null: as the run is served"
    )
    expand_width: Width | None = Field(
        None, description="prefixes the path scorer sees at each level; null: no scorer"
    )
    filters: ItemFilters = Field(default_factory=ItemFilters, description="what the list may hold")
    exclude_seen: bool = Field(True, description="leave out the items of the history")
    explain: bool = Field(False, description="tell what the search kept and pruned at every level")
    seed: Seed = Field(0, description="of the sampled chains")
    timeout: Annotated[float, Field(ge=0.001, allow_inf_nan=False)] | None = Field(
        None, description="seconds to wait, within the service's own limit"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.history is None) == (self.user_id is None):
            raise ValueError("give either `history` or `user_id`, and not both")
        return self


class BatchRequest(BaseModel):
    """Several requests; each is answered or refused by itself."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"requests": [_EXAMPLE]}}
    )

    requests: list[RecommendationRequest] = Field(min_length=1, max_length=256)


class ItemReference(BaseModel):
    """An item by its id, with its title."""

    item_id: str
    title: str


class Reason(BaseModel):
    """A reasoning chain, split into its five steps."""

    model_config = ConfigDict(from_attributes=True)

    evidence: str = Field(description="what in the history matters")
    preference: str = Field(description="the taste behind it")
    intent: str = Field(description="what the customer is after now")
    recommendation: str = Field(description="what kind of item follows")
    rewritten_history: str = Field(description="the history without what does not fit")
    well_formed: bool = Field(description="false: the five steps were not found, all text is in `evidence`")
    cited: list[int] = Field([], description="places in the history, from 0, of the items that it cites")


class Recommended(ItemReference):
    """One recommended item; lower ranks are better, the best is 1."""

    rank: int
    name: str = Field(description="the tokens of its name")
    logp: float = Field(description="log-probability of the item's name")
    score: float | None = Field(description="the path scorer's score, where one was used")
    chain: Reason | None = Field(description="in reasoning mode, the chain that found the item")
    chain_number: int | None = Field(description="which of the chains that is, from 0")


class SearchPrefix(BaseModel):
    """A part of a name that the search held at one level."""

    codes: str = Field(description="the tokens of its codes")
    kept: bool = Field(description="false: dropped because its items do not fit together")
    ranks: list[int] = Field(description="ranks of the recommended items that it leads to")


class RecommendationAnswer(BaseModel):
    """The history that was used, and the items that follow it, best first."""

    mode: Literal["direct", "reasoning"]
    history: list[ItemReference]
    recommendations: list[Recommended]
    search: list[list[SearchPrefix]] | None = Field(
        description="with `explain`, the prefixes of every level, of all chains, the best items' first"
    )
    seconds: float = Field(description="time in the service: in the queue, and of the work")


class Mistake(BaseModel):
    """What was wrong with the request, and what to change, in one sentence."""

    detail: str


class BatchAnswer(BaseModel):
    """One answer, or what was wrong, for each request, in their order."""

    answers: list[RecommendationAnswer | Mistake]


class ChainSoFar(BaseModel):
    """A chain while it is written, an event of the stream."""

    number: int = Field(description="which of the chains, from 0")
    chain: Reason
