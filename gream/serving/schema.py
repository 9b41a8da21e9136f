"""Requests and answers of the HTTP service, with the bounds that one request may ask for."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

RawId = Annotated[str, Field(min_length=1, max_length=256)]


class RecommendationRequest(BaseModel):
    """A history, given or by the id of a user of the data set, and how to answer."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"history": ["an item_id", "a later item_id"], "k": 5}},
    )

    history: Annotated[list[RawId], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="item ids, oldest first; either this or `user_id`"
    )
    user_id: RawId | None = Field(None, description="a user of the data set, instead of `history`")
    k: int = Field(10, ge=1, le=100, description="number of items wanted")
    mode: Literal["direct", "reasoning"] = Field("direct", description="answer at once, or think aloud first")
    num_chains: int = Field(4, ge=1, le=32, description="reasoning chains to write; no effect in direct mode")
    expand_width: int | None = Field(
        None, ge=1, le=1000, description="prefixes the path scorer sees at each level; null: no scorer"
    )
    exclude_seen: bool = Field(True, description="leave out the items of the history")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.history is None) == (self.user_id is None):
            raise ValueError("give either `history` or `user_id`, and not both")
        return self


class ItemReference(BaseModel):
    """An item by its id, with its title."""

    item_id: str
    title: str


class Reason(BaseModel):
    """The reasoning chain that found an item, split into its five steps."""

    model_config = ConfigDict(from_attributes=True)

    evidence: str = Field(description="what in the history matters")
    preference: str = Field(description="the taste behind it")
    intent: str = Field(description="what the customer is after now")
    recommendation: str = Field(description="what kind of item follows")
    rewritten_history: str = Field(description="the history without what does not fit")
    well_formed: bool = Field(description="false: the five steps were not found, all text is in `evidence`")


class Recommended(ItemReference):
    """One recommended item; lower ranks are better, the best is 1."""

    rank: int
    logp: float = Field(description="log-probability of the item's name")
    score: float | None = Field(description="the path scorer's score, where one was used")
    chain: Reason | None = Field(description="in reasoning mode, the chain that found the item")


class RecommendationAnswer(BaseModel):
    """The history that was used, and the items that follow it, best first."""

    mode: Literal["direct", "reasoning"]
    history: list[ItemReference]
    recommendations: list[Recommended]
    seconds: float = Field(description="time of the work, without the time in the queue")


class Item(ItemReference):
    """What the catalogue knows of an item."""

    description: str
    brand: str
    categories: list[str] = Field(description="coarse to fine")
    price: float | None = Field(description="null: unknown")


class Health(BaseModel):
    """That the service is up."""

    status: Literal["ok"]
    version: str
    items: int = Field(description="number of items in the catalogue")


class Mistake(BaseModel):
    """What was wrong with the request, and what to change, in one sentence."""

    detail: str
