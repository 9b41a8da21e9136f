"""Good traces in free words, as a large model may write them: templates, synonyms, distracting words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gream.data.store import Catalogue
from gream.language.reasoning import Trace

# What else the simulated shop's categories may be called; real catalogues get their names bent instead.
SYNONYMS = {
    "Printers": ("a laser printer", "a machine that prints photos and labels", "printing hardware"),
    "Printer Ink": ("ink cartridges", "fresh toner", "a refill of ink"),
    "Printer Paper": ("copy paper", "sheets of paper to print on", "glossy photo paper"),
    "Desk Organisers": ("a tray for the desk", "a pen holder or file rack", "an organiser for the desk"),
    "Pens": ("a fountain pen", "something to write with, such as a gel pen", "a drafting pencil"),
    "Tents": ("a dome tent", "a tarp shelter for camping", "a tent to sleep in"),
    "Sleeping Bags": ("a mummy bag", "a sleeping bag", "a camp quilt"),
    "Camp Stoves": ("a gas stove", "a burner to cook on while camping", "a camp stove"),
    "Headlamps": ("a lantern for the camp", "a headlamp", "a lamp for the trail"),
    "Backpacks": ("a hiking backpack", "a day pack", "a backpack to carry it all"),
    "Coffee Makers": ("an espresso pot", "a french press or a drip brewer", "a coffee maker"),
    "Coffee Beans": ("an espresso roast", "freshly roasted beans of coffee", "a decaf roast"),
    "Mugs": ("a coffee mug", "a travel cup", "a mug to drink from"),
    "Kitchen Knives": ("a chef knife", "a paring knife for the kitchen", "a knife for bread"),
    "Cookware": ("a frying pan", "a stock pot", "pots and pans, that is cookware"),
    "Planters": ("a flower pot", "a window box for flowers", "a raised bed"),
    "Potting Soil": ("compost", "a mix of potting soil", "soil to pot the plants in"),
    "Seeds": ("tomato seed", "a wildflower mix to sow", "seeds for salad"),
    "Watering Cans": ("a watering can", "a sprayer for the garden", "a drip kit to water with"),
    "Garden Shears": ("a pruning shear", "a hedge trimmer", "shears for the garden"),
    "Bikes": ("a city bike", "a gravel bike", "a folding bike"),
    "Bike Helmets": ("a road helmet", "a helmet for the bike", "an urban helmet"),
    "Bike Lights": ("a front light", "a tail light for the bike", "lights for the wheel"),
    "Bike Locks": ("a chain lock", "a folding lock", "a lock for the bike"),
    "Bike Pumps": ("a floor pump", "a tyre inflator", "a mini pump"),
    "Dog Leads": ("a dog harness", "a collar for the dog", "a lead for walking the dog"),
    "Dog Food": ("dry kibble", "puppy food", "food or a biscuit for the dog"),
    "Dog Toys": ("a chew toy", "a fetch ball", "a tug rope for the dog"),
    "Dog Beds": ("a dog bed", "a basket or blanket to sleep in", "a bed for the dog"),
    "Grooming": ("a slicker brush", "dog shampoo", "a clipper for the nails"),
    "Guitars": ("an acoustic guitar", "a ukulele", "an electric guitar"),
    "Guitar Strings": ("a set of strings", "bass strings", "strings for the ukulele"),
    "Tuners": ("a clip tuner", "a metronome", "a pedal tuner"),
    "Music Stands": ("a music stand", "a stand for the guitar", "a folder for the sheet music"),
    "Amplifiers": ("a practice amplifier", "a tube amplifier", "an amplifier for headphones"),
    "Drills": ("a cordless drill", "a hammer drill", "an impact driver"),
    "Drill Bits": ("a masonry bit", "a hole saw", "twist bits for the drill"),
    "Screws": ("wood screws", "wall plugs", "a set of hinges"),
    "Tool Boxes": ("a tool box", "a tool bag", "a case for small parts"),
    "Sanders": ("an orbital sander", "a belt sander", "a hand sander"),
}
PREFERENCES = (
    "The customer keeps coming back to {area} and values things that are {trait}",
    "Likes {area}; tends to choose {trait} products, {distractor} ones among them",
    "A steady interest in {area}, with an eye on {trait} quality{brand}",
    "Their basket is mostly about {area}{brand}, and they seem to prefer {trait} goods",
    "Someone who takes {area} seriously and looks for {trait}, sensible purchases",
    "Over time this person built up {area} step by step, always {trait}{brand}",
    "Practical and {trait} choices around {area}; {distractor} is no obstacle",
    "{area} is what ties the purchases together{brand}; the taste is {trait}",
)
INTENTS = (
    "Having bought {last}, the customer now needs {next}",
    "{last} calls for {next}, which is still missing",
    "With {last} at hand, the next step is {next}",
    "They are completing what {last} began and want {next} to go with it",
    "The purchase of {last} suggests that they are looking for {next}",
    "To get the most out of {last} they will want {next}, perhaps {distractor}",
    "Right now the aim is {next}, since {last} came just before",
    "In the middle of a project: after {last} they turn to {next}",
)
RECOMMENDATIONS = (
    "{next} of {trait} make at a fair price",
    "Recommend {next}, preferably {trait}{brand}",
    "The best fit is {next}: {trait}, and not too expensive",
    "Look for {next} that is {trait} and {distractor}",
    "{next}, {trait} enough for everyday use{brand}",
    "I would suggest {next} with a {trait} character",
    "Something {trait}: {next}",
    "Go for {next}, as that rounds off the collection; {trait} if possible",
)
TRAITS = (
    "solid", "reliable", "well-made", "affordable", "no-nonsense", "long-lived", "handy", "high-quality",
    "simple", "thoughtful", "good-looking", "dependable",
)  # fmt: skip
STOCK = ("the", "set", "black", "new", "good", "with", "for")
_COMMON = 0.02  # share of the items that hold a distracting word, at least


class Paraphraser:
    """Writes sound traces about given purchases in free words."""

    def __init__(self, catalogue: Catalogue, rng: np.random.Generator) -> None:
        self.catalogue = catalogue
        self.rng = rng
        simulated = {path[-1] for path in catalogue.categories if path} == set(SYNONYMS)
        self.synonyms = SYNONYMS if simulated else {}
        split = [set(text.lower().split()) for text in catalogue.titles]
        words, counts = np.unique([word for text in split for word in text], return_counts=True)
        self.common = {
            str(w) for w, n in zip(words, counts, strict=True) if n >= _COMMON * len(split) and w.isalpha()
        }

    def pick(self, options: Sequence[str]) -> str:
        return str(options[self.rng.integers(len(options))])

    def kind(self, item: int) -> str:
        """What an item is, in words other than the category's own where there are any."""
        path = self.catalogue.categories[item]
        name = path[-1] if path else self.catalogue.brands[item] or "Item"
        bent = (name, name.lower(), f"some {name.lower()}", f"{_singular(name.lower())} supplies")
        return self.pick((*self.synonyms.get(name, ()), *bent))

    def distractor(self, target: int) -> str:
        """A word that the target's title shares with many items; any common word where it shares none."""
        shared = sorted(self.common.intersection(self.catalogue.titles[target].lower().split()))
        return self.pick(shared if shared and self.rng.random() < 0.7 else STOCK)

    def texts(self, history: Sequence[int], target: int) -> dict[str, str]:
        """Preference, intent and recommendation."""
        catalogue, pick = self.catalogue, self.pick
        brand = pick([catalogue.brands[item] for item in history])
        path = catalogue.categories[int(history[-1])]

        def fill(template: str) -> str:
            return template.format(
                area=path[-2 if len(path) > 1 else -1].lower() if path else "household goods",
                trait=pick(TRAITS),
                brand=f", often by {brand}" if brand and self.rng.random() < 0.7 else "",
                distractor=self.distractor(target),
                last=self.kind(int(history[-1])),
                next=self.kind(target),
            )

        return {
            "preference": fill(pick(PREFERENCES)),
            "intent": fill(pick(INTENTS)),
            "recommendation": fill(pick(RECOMMENDATIONS)),
        }

    def trace(self, user: int, history: tuple[int, ...], target: int) -> Trace:
        """A sound trace: it cites purchases of the history and keeps all of them but one at most."""
        cited = sorted(self.rng.choice(len(history), size=min(len(history), 2), replace=False))
        left_out = int(self.rng.integers(-2, len(history))) if len(history) > 2 else -1
        evidence = tuple(history[place] for place in cited)
        return Trace(
            user=user,
            history=history,
            target=target,
            evidence=evidence,
            kinds=tuple(self.kind(item) for item in evidence),
            rewritten=tuple(item for place, item in enumerate(history) if place != left_out),
            **self.texts(history, target),
        )


def _singular(name: str) -> str:
    for ending, one in (("ies", "y"), ("ches", "ch"), ("xes", "x"), ("ss", "ss"), ("s", "")):
        if name.endswith(ending):
            return name.removesuffix(ending) + one
    return name
