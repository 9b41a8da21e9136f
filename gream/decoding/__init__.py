"""How an item is found: one search over item names, two engines that give it numbers.

Map of the room:

- `backend.py`: what an engine must give (`Backend`, `Session`): numbers, never decisions.
- `beam.py`: the one beam search: constraint, guidance, ties and ranking are written here and nowhere else.
- `guidance.py`: what may steer the search (`PathScorer`, `PathPruner`).
- `path_scorer.py`: the PROMISE scorer's network.
- `torch_backend.py`: the engine on a transformers model; the beams of a user are positions of its one row.
- `vllm_backend.py`: the engine on vLLM; the only module that imports it.
- `recommend.py`: histories in, item lists out, in direct and in reasoning mode.
- `recommender.py`: the same for people: raw item ids in, titles and reasons out.

The chain of proof, in `tests/decoding`: scoring every item one by one = the search with scripted numbers
= the search with the torch engine = the search with the vLLM engine.
"""
