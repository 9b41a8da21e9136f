"""Requests and answers about the catalogue, the customers and the service itself."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gream.serving.schema import ItemReference, Price, RawId

Words = Annotated[str, Field(max_length=10_000)]


class Item(ItemReference):
    """What the catalogue knows of an item."""

    name: str = Field(description="the tokens of its name")
    description: str
    brand: str
    categories: list[str] = Field(description="coarse to fine")
    price: float | None = Field(description="null: unknown")
    available: bool = Field(description="false: no longer recommended")


class ItemList(BaseModel):
    """Items that were found, the best first, or that were asked for, in the order of their ids."""

    items: list[Item]


class FilterName(BaseModel):
    """A name that a filter takes."""

    name: str
    items: int = Field(description="items of the catalogue that have it")


class FilterNameList(BaseModel):
    """Names that the filters take, those of most items first; the case of a name does not matter."""

    categories: list[FilterName] = Field(description="of all levels")
    brands: list[FilterName]


class ItemChange(BaseModel):
    """What changes of an item; what is left out stays."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"price": 9.5}, "minProperties": 1}
    )

    price: Price = Field(None, description="the new price")  # type: ignore[assignment]
    available: bool = Field(None, description="false: not recommended from the next answer on")  # type: ignore[assignment]

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.price is None and self.available is None:
            raise ValueError("give `price`, `available`, or both")
        return self


class NewItem(BaseModel):
    """An item that the catalogue does not have yet."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item_id: RawId
    title: Annotated[str, Field(min_length=1, max_length=1000)]
    description: Words = ""
    brand: Annotated[str, Field(max_length=256)] = ""
    categories: list[RawId] = Field([], max_length=20, description="coarse to fine")
    price: Price | None = None


class NewItems(BaseModel):
    """Items to name and to add."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: list[NewItem] = Field(min_length=1, max_length=1000)


class Customer(BaseModel):
    """A customer of the data set."""

    user_id: str
    history: list[ItemReference] = Field(description="oldest first")


class CustomerList(BaseModel):
    """Some customers, as examples."""

    customers: list[Customer]


class Service(BaseModel):
    """What this service can do, and with which settings it does it."""

    version: str
    items: int
    customers: int
    engine: str
    scorer: bool = Field(description="whether `expand_width` can be used")
    num_beams: int = Field(description="prefixes that a search keeps unless a request says otherwise")
    codebooks: list[int] = Field(description="number of codes of each codebook")
    ordered: bool = Field(description="whether the codes of a name have an order")
    loaded: str = Field(description="when this model was loaded, ISO 8601")


class Health(BaseModel):
    """That the service is up."""

    status: Literal["ok"]
    version: str
    items: int = Field(description="number of items in the catalogue")


class Live(BaseModel):
    """That the process answers, or takes requests."""

    status: Literal["ok"]
