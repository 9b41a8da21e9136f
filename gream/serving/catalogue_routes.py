"""Routes about items and customers: look up, search, and change what is served."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Query

import gream
from gream.errors import NotFoundError
from gream.serving.catalogue_schema import (
    Customer,
    CustomerList,
    FilterName,
    FilterNameList,
    Item,
    ItemChange,
    ItemList,
    NewItems,
    Service,
)
from gream.serving.desk import Desk, titles_of
from gream.serving.filter_names import Named
from gream.serving.mistakes import described
from gream.serving.schema import ItemReference, RawId
from gream.serving.shop import Loaded

if TYPE_CHECKING:
    from gream.decoding.recommender import Recommender


def add_catalogue_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes under /v1/items, /v1/filters, /v1/customers and /v1/service."""
    shop = desk.shop

    @app.get("/v1/items", responses=described(401, 404, 422))
    async def items(
        query: Annotated[str, Query(max_length=1000, description="words; the last may be unfinished")] = "",
        ids: Annotated[
            list[RawId], Query(max_length=100, description="item ids, each as an `ids` of its own")
        ] = [],  # noqa: B006 - fastapi makes a new one for each request
        limit: Annotated[int, Query(ge=1, le=100, description="most items, but for `ids`")] = 20,
    ) -> ItemList:
        """Find items by words of their title, brand and categories, the best first, or look `ids` up.

        With `ids` words have no effect; without either the answer is the beginning of the catalogue.
        """
        loaded = shop.current
        catalogue = loaded.recommender.catalogue
        if ids:
            found = catalogue.lookup(ids, "`ids`", suggest=False)
        elif query:
            found = await asyncio.to_thread(lambda: loaded.search.find(query, limit))
        else:
            found = list(range(min(limit, len(catalogue))))
        return ItemList(items=[describe(loaded.recommender, item) for item in found])

    @app.get("/v1/filters", responses=described(401, 422))
    async def filters(limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> FilterNameList:
        """Return the categories and brands that the filters of a request take, those of most items first."""
        loaded = shop.current
        names = await asyncio.to_thread(lambda: loaded.filter_names)

        def most(named: Named) -> list[FilterName]:
            return [FilterName(name=name, items=count) for name, count in named[:limit]]

        return FilterNameList(categories=most(names.categories), brands=most(names.brands))

    @app.get("/v1/items/{item_id:path}", responses=described(401, 404))
    async def item(item_id: str) -> Item:
        """Return what the catalogue knows of one item."""
        return _known(shop.current, item_id)

    @app.get("/v1/customers", responses=described(401, 422))
    async def customers(limit: Annotated[int, Query(ge=1, le=100)] = 12) -> CustomerList:
        """Return some customers of the data set with what they bought, spread evenly over all."""
        recommender = shop.current.recommender
        users = recommender.interactions.user_ids
        step = max(1, len(users) // limit)
        return CustomerList(customers=[_customer(recommender, user) for user in users[::step][:limit]])

    @app.get("/v1/service", responses=described(401))
    async def service() -> Service:
        """Say what this service can do."""
        return describe_service(shop.current)


def add_change_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes that change what is served."""
    shop = desk.shop

    @app.patch("/v1/items/{item_id:path}", responses=described(401, 404, 422))
    async def change(item_id: str, body: ItemChange) -> Item:
        """Change the price of an item, or whether it is recommended, from the next request on."""
        _known(shop.current, item_id)
        await asyncio.to_thread(shop.change, item_id, body.model_dump(exclude_none=True))
        return _known(shop.current, item_id)

    @app.post("/v1/items", responses=described(401, 409, 413, 422))
    async def add(body: NewItems) -> ItemList:
        """Name items that came later and recommend them from now on; nothing is trained for it."""
        await asyncio.to_thread(shop.add, [item.model_dump(exclude_none=True) for item in body.items])
        return ItemList(items=[_known(shop.current, item.item_id) for item in body.items])

    @app.post("/v1/reload", responses=described(401, 409))
    async def reload() -> Service:
        """Serve what the run's folder holds now: another model, other names, other purchases."""
        return describe_service(await asyncio.to_thread(shop.reload))


def describe_service(loaded: Loaded) -> Service:
    """Say what a loaded run can do."""
    recommender = loaded.recommender
    layout = recommender.engine.names.layout
    return Service(
        version=gream.__version__,
        items=len(recommender.catalogue),
        customers=len(recommender.interactions.user_ids),
        engine=type(recommender.engine.backend).__name__.removesuffix("Backend").lower(),
        scorer=recommender.engine.scorer is not None,
        num_beams=recommender.search.num_beams,
        codebooks=list(layout.codebook_sizes),
        ordered=layout.ordered,
        loaded=loaded.since,
    )


def describe(recommender: Recommender, item: int) -> Item:
    """Return what is known of one item."""
    catalogue, shelf = recommender.catalogue, recommender.shelf
    price = float(shelf.prices[item])
    return Item(
        item_id=catalogue.item_ids[item],
        title=catalogue.titles[item],
        name=recommender.engine.names.spell(item),
        description=catalogue.descriptions[item],
        brand=catalogue.brands[item],
        categories=list(catalogue.categories[item]),
        price=round(price, 4) if math.isfinite(price) else None,
        available=bool(shelf.available[item]),
    )


def _known(loaded: Loaded, item_id: str) -> Item:
    """Describe an item.

    Raises:
        NotFoundError: there is no such item.
    """
    item = loaded.recommender.catalogue.index.get(item_id)
    if item is None:
        raise NotFoundError(f"No item has the id {item_id[:256]!r}; use an item_id of the catalogue.")
    return describe(loaded.recommender, item)


def _customer(recommender: Recommender, user_id: str) -> Customer:
    history = recommender.history_of(user_id)
    titles = titles_of(recommender, history)
    return Customer(
        user_id=user_id,
        history=[ItemReference(item_id=i, title=t) for i, t in zip(history, titles, strict=True)],
    )
