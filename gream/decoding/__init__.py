"""How an item is found: one search over item names, and the engines that give it numbers.

Map of the room:

- `backend.py`: what an engine must give (`Backend`, `Session`): numbers, never decisions.
- `beam.py`: the one beam search, for ordered and unordered names: constraint, guidance and ranking are
  written here and nowhere else; `beams.py` has what it holds: ties, padding, the merge of equal paths.
- `guidance.py`: what may steer the search (`PathScorer`, `PathPruner`).
- `path_scorer.py`: the PROMISE scorer's network; `history_encoder.py` is the context of its own,
  `scorer_context.py` what it knows of a user, `evidence.py` what it makes of the neighbours of a history
  (`neighbours.py`), `scorer_shape.py` and `scorer_file.py` what is stored.
- `consistency.py`: REG4Rec's pruning of paths whose codes contradict each other.
- `torch_backend.py`: the engine on a transformers model; the beams of a user are positions of its one row;
  `writer.py` writes its free text.
- `vllm_backend.py`: the engine on vLLM in this process, one call at a time.
- `path_session.py`: a search on an engine without beams, which vLLM is everywhere.
- `async_backend.py`: an engine for callers in many threads, over `vllm_async.py` (vLLM beside this process)
  or `openai_engine.py` (vLLM's servers anywhere). `completions.py` is what goes over the wire; `replicas.py`
  spreads requests over several servers and loses none with one.
- `engines.py`: which engines there are, and how each comes to a model folder.
- `recommend.py`: histories in, item lists out (`answer.py`); `chains.py` is reasoning mode.
- `recommender.py`: the same for people: raw item ids in, titles and reasons out.

The chain of proof, in `tests/decoding`: scoring every item one by one = the search with scripted numbers
= the search with the torch engine = the search with each vLLM engine.
"""
