"""The words of the simulated shop: departments, categories and what leads to what, brands, phrases.

Every product noun is singular or a mass noun, so that "this {noun}" reads well in every template, and
belongs to one category only, so that no two categories can make the same title.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """One shelf of the shop and the words that its titles and descriptions are made of.

    `leads_to` are the two categories that a purchase here makes likely next, the likelier one first.
    """

    department: str
    name: str
    price: int  # what a middling product of the category costs
    nouns: tuple[str, ...]
    materials: tuple[str, ...]
    adjectives: tuple[str, ...]
    uses: tuple[str, ...]
    leads_to: tuple[str, str]


def _category(department: str, name: str, price: int, words: str, leads_to: str) -> Category:
    """Read one category; `words` holds nouns / materials / adjectives / uses, each separated by commas."""
    nouns, materials, adjectives, uses = (
        tuple(word.strip() for word in part.split(",")) for part in words.split("/")
    )
    first, second = (name.strip() for name in leads_to.split(","))
    return Category(department, name, price, nouns, materials, adjectives, uses, (first, second))


# fmt: off
_SHELVES = {
    "Office": (
        ("Printers", 140, "laser printer, photo printer, label printer / recycled plastic, brushed steel, "
         "matt resin / quiet, wireless, compact, fast / home offices, small teams, school work",
         "Printer Ink, Printer Paper"),
        ("Printer Ink", 28, "ink cartridge, toner cartridge, ink refill / black pigment, colour dye, "
         "grey pigment / smudgeproof, vivid, lasting, sharp / long reports, photo prints, daily printing",
         "Printer Paper, Printers"),
        ("Printer Paper", 12, "copy paper, photo paper, label sheet / recycled pulp, glossy cotton, "
         "white birch / bright, smooth, heavy, acidfree / drafts, framed pictures, final copies",
         "Desk Organisers, Printer Ink"),
        ("Desk Organisers", 22, "desk tray, pen holder, file rack / bamboo, wire mesh, grey felt / tidy, "
         "stackable, modular, slim / crowded desks, narrow shelves, shared tables",
         "Pens, Tool Boxes"),
        ("Pens", 9, "fountain pen, gel pen, drafting pencil / brass, cedar, black lacquer / smooth, "
         "balanced, refillable, fine / daily notes, technical drawing, long letters",
         "Printers, Desk Organisers"),
    ),
    "Camping": (
        ("Tents", 180, "dome tent, tunnel tent, tarp shelter / ripstop nylon, waxed canvas, "
         "coated polyester / waterproof, roomy, light, windproof / two hikers, wet weekends, family trips",
         "Sleeping Bags, Camp Stoves"),
        ("Sleeping Bags", 95, "mummy bag, summer bag, camp quilt / goose down, hollow fibre, "
         "merino wool / warm, packable, soft, insulated / cold nights, hut tours, mild summers",
         "Camp Stoves, Tents"),
        ("Camp Stoves", 60, "gas stove, wood stove, alcohol burner / titanium, stainless steel, "
         "cast aluminium / foldable, powerful, stable, windproof / quick meals, group cooking, snow camps",
         "Headlamps, Cookware"),
        ("Headlamps", 35, "trail headlamp, camp lantern, clip lamp / tough polymer, anodised aluminium, "
         "clear acrylic / bright, rechargeable, dimmable, rugged / night hikes, cave visits, late suppers",
         "Backpacks, Bike Lights"),
        ("Backpacks", 110, "hiking backpack, day pack, dry sack / cordura, waxed cotton, "
         "recycled nylon / padded, ventilated, sturdy, adjustable / long trails, day walks, river crossings",
         "Tents, Sleeping Bags"),
    ),
    "Kitchen": (
        ("Coffee Makers", 85, "espresso pot, drip brewer, french press / polished steel, thick glass, "
         "cast aluminium / programmable, elegant, compact, fast / early mornings, large families, "
         "one cup", "Coffee Beans, Mugs"),
        ("Coffee Beans", 16, "espresso roast, filter roast, decaf roast / arabica, robusta blend, "
         "highland arabica / nutty, dark, mild, fruity / slow mornings, strong cups, late evenings",
         "Mugs, Coffee Makers"),
        ("Mugs", 14, "coffee mug, travel cup, soup mug / stoneware, double glass, enamelled steel / "
         "handmade, stackable, glazed, thick / cold hands, train rides, office breaks",
         "Kitchen Knives, Pens"),
        ("Kitchen Knives", 70, "chef knife, paring knife, bread knife / carbon steel, damascus steel, "
         "white ceramic / sharp, forged, balanced, keen / fine slicing, crusty loaves, small fruit",
         "Cookware, Coffee Beans"),
        ("Cookware", 75, "frying pan, stock pot, roasting tin / cast iron, tri-ply steel, "
         "hammered copper / nonstick, heavy, even, seasoned / high heat, slow stews, sunday roasts",
         "Coffee Makers, Kitchen Knives"),
    ),
    "Garden": (
        ("Planters", 40, "flower pot, window box, raised bed / terracotta, cedar wood, zinc sheet / "
         "weatherproof, rustic, deep, frostproof / sunny balconies, herb corners, front doors",
         "Potting Soil, Seeds"),
        ("Potting Soil", 15, "potting mix, compost, seed soil / coconut fibre, bark humus, volcanic clay / "
         "peatfree, loose, rich, organic / young plants, hungry roses, dry summers",
         "Seeds, Garden Shears"),
        ("Seeds", 6, "tomato seed, wildflower mix, salad seed / heirloom stock, organic stock, "
         "pelleted stock / hardy, early, colourful, fragrant / first sowings, bee meadows, small gardens",
         "Watering Cans, Planters"),
        ("Watering Cans", 30, "watering can, garden sprayer, drip kit / galvanised steel, copper, "
         "recycled plastic / leakproof, light, precise, long-necked / seedlings, greenhouse rows, "
         "hanging pots", "Garden Shears, Potting Soil"),
        ("Garden Shears", 45, "pruning shear, hedge trimmer, lopper / tempered steel, coated steel, "
         "ash wood / sharp, ergonomic, geared, light / thick branches, rose bushes, tall hedges",
         "Planters, Screws"),
    ),
    "Cycling": (
        ("Bikes", 420, "city bike, gravel bike, folding bike / chromoly steel, aluminium alloy, "
         "carbon fibre / nimble, sturdy, light, classic / city commutes, forest roads, train travel",
         "Bike Helmets, Bike Locks"),
        ("Bike Helmets", 65, "road helmet, urban helmet, trail helmet / moulded foam, polycarbonate, "
         "cork / ventilated, padded, visible, light / summer rides, rush hours, rocky paths",
         "Bike Lights, Backpacks"),
        ("Bike Lights", 32, "front light, tail light, wheel light / machined aluminium, clear silicone, "
         "black polymer / rechargeable, bright, waterproof, blinking / dark winters, foggy roads, "
         "evening rides", "Bike Locks, Bikes"),
        ("Bike Locks", 48, "chain lock, folding lock, frame lock / hardened steel, boron steel, "
         "woven fabric / heavy, coded, pickproof, compact / busy stations, quick stops, long nights",
         "Bike Pumps, Bike Helmets"),
        ("Bike Pumps", 30, "floor pump, mini pump, tyre inflator / turned aluminium, ash wood, "
         "glass nylon / precise, portable, sturdy, fast / road tyres, flat repairs, wide tyres",
         "Bikes, Drills"),
    ),
    "Pets": (
        ("Dog Leads", 24, "dog lead, dog harness, dog collar / woven hemp, soft leather, "
         "reflective nylon / strong, gentle, adjustable, padded / strong pullers, young puppies, "
         "night walks", "Dog Food, Dog Toys"),
        ("Dog Food", 38, "dry kibble, puppy food, dog biscuit / salmon, grass-fed lamb, turkey / "
         "grainfree, hearty, crunchy, gentle / sensitive stomachs, active dogs, senior dogs",
         "Dog Toys, Grooming"),
        ("Dog Toys", 13, "chew toy, fetch ball, tug rope / natural rubber, cotton rope, olive wood / "
         "tough, squeaky, floating, bouncy / teething puppies, rainy afternoons, lake days",
         "Dog Beds, Dog Leads"),
        ("Dog Beds", 58, "dog bed, travel blanket, dog basket / memory foam, fleece, willow / washable, "
         "plush, orthopaedic, cosy / old joints, car journeys, large breeds",
         "Grooming, Dog Food"),
        ("Grooming", 19, "slicker brush, dog shampoo, nail clipper / oat milk, steel pins, beech wood / "
         "gentle, soothing, quiet, easy / long coats, muddy paws, itchy skin",
         "Dog Leads, Dog Beds"),
    ),
    "Music": (
        ("Guitars", 310, "acoustic guitar, electric guitar, ukulele / solid spruce, mahogany, maple / "
         "resonant, slim, warm, balanced / campfire songs, stage nights, small hands",
         "Guitar Strings, Amplifiers"),
        ("Guitar Strings", 11, "string set, bass string, ukulele string / phosphor bronze, plated nickel, "
         "clear nylon / bright, coated, mellow, durable / finger picking, hard strumming, daily practice",
         "Tuners, Guitars"),
        ("Tuners", 18, "clip tuner, pedal tuner, metronome / black polymer, die-cast zinc, walnut / "
         "accurate, silent, readable, tiny / loud stages, first lessons, quick checks",
         "Music Stands, Guitar Strings"),
        ("Music Stands", 36, "music stand, guitar stand, sheet folder / folding steel, beech wood, "
         "aluminium tube / stable, portable, tall, elegant / orchestra seats, living rooms, street shows",
         "Amplifiers, Tuners"),
        ("Amplifiers", 160, "practice amplifier, tube amplifier, headphone amplifier / birch plywood, "
         "steel chassis, vinyl cover / loud, crisp, vintage, portable / bedroom practice, small clubs, "
         "silent nights", "Guitars, Music Stands"),
    ),
    "Workshop": (
        ("Drills", 120, "cordless drill, hammer drill, impact driver / magnesium alloy, glass nylon, "
         "cast steel / powerful, brushless, compact, rugged / concrete walls, furniture kits, roof work",
         "Drill Bits, Sanders"),
        ("Drill Bits", 20, "masonry bit, twist bit, hole saw / cobalt steel, tungsten carbide, "
         "coated steel / hardened, precise, sharp, lasting / brick walls, clean holes, thick planks",
         "Screws, Watering Cans"),
        ("Screws", 10, "wood screw, wall plug, hinge set / stainless steel, solid brass, zinc steel / "
         "rustproof, selfdrilling, strong, flush / deck boards, heavy shelves, cabinet doors",
         "Tool Boxes, Bike Pumps"),
        ("Tool Boxes", 55, "tool box, tool bag, parts case / sheet steel, ballistic nylon, "
         "clear polymer / lockable, stackable, roomy, sturdy / tidy benches, site visits, small parts",
         "Sanders, Drill Bits"),
        ("Sanders", 80, "orbital sander, hand sander, belt sander / cast aluminium, cork, "
         "carbon fibre / dustfree, smooth, steady, light / table tops, window frames, old floors",
         "Drills, Headlamps"),
    ),
}
# fmt: on

CATEGORIES: tuple[Category, ...] = tuple(
    _category(department, *shelf) for department, shelves in _SHELVES.items() for shelf in shelves
)

DEPARTMENTS: tuple[str, ...] = tuple(dict.fromkeys(category.department for category in CATEGORIES))

# Invented names; which departments a brand sells in follows from its place in this list.
BRANDS = (
    "Norvane", "Kestrin", "Alderby", "Tovik", "Marrowind", "Quillane", "Bexmoor", "Sundell", "Halvorn",
    "Lumora", "Grenlow", "Ivarsen", "Cobbry", "Daxel", "Thornel", "Wexling", "Rillon", "Oakrest", "Zephra",
    "Brambly",
)  # fmt: skip

TIERS = ("budget", "standard", "premium")

OPENINGS = (
    "This {noun} from {brand} uses {material} and suits {use}.",
    "Made for {use}, this {noun} comes in {material}.",
    "{brand} builds this {adjective} {noun} for {use}.",
    "With {material} inside, this {adjective} {noun} is ready for {use}.",
    "{use}? This {adjective} {noun} by {brand} is the answer.",
)

# The second sentence tells the tier, so that price taste can be read from text as well as from the price.
CLOSINGS = {
    "budget": ("Easy on the wallet.", "A low price without frills.", "Costs little and does its job."),
    "standard": ("Good value that holds up.", "Solid middle class.", "A fair price for steady quality."),
    "premium": ("The finest in its class.", "Premium in every detail.", "Best of the {brand} range."),
}
