"""gream: generative reasoning recommendation with large language models.

The road from purchases to recommendations with reasons, one stage after the other:

    data        raw files or the simulator      -> catalogue, interactions, split
    synthesize  catalogue, training reviews     -> profiles, by a model behind an endpoint (optional)
    text        catalogue, profiles             -> one text for each item
    embed       text, training interactions     -> one vector for each item
    sids        vectors                         -> names: a few codes for each item
    vocab       language model, names           -> model and tokenizer with the item tokens
    synthesize  catalogue, interactions         -> five-step reasoning traces
    sft         model, rows                     -> model
    srpo        model, prompts                  -> model
    prm         names, interactions             -> path scorer
    baselines   interactions                    -> item kNN and SASRec, tuned on validation
    evaluate    model, names, scorer, baselines -> report

`gream run recipes/demo` runs them all; `Recommender.load("runs/demo")` uses the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gream.decoding.recommender import Recommendation, Recommender

__all__ = ["Recommendation", "Recommender"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the recommender on first use: it needs torch, and `import gream` must not."""
    if name in __all__:
        from gream.decoding import recommender

        return getattr(recommender, name)
    raise AttributeError(f"module 'gream' has no attribute {name!r}")
