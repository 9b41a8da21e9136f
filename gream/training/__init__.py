"""How it learns: supervised fine-tuning, reinforcement learning, and the scorer that guides the search.

- `sft`: stage `sft`; aligns names with words, then teaches the reasoning chain (TRL's SFTTrainer).
- `srpo`: stage `srpo`; sharpens both modes on a verifiable reward (TRL's GRPOTrainer, two overrides).
- `completions`: reads a completion, token by token, into a path or into "malformed".
- `rewards`: how close a path came to the target; pure functions over tensors.
- `advantages`: how much better than its group a completion was; pure functions over tensors.
- `prm`: stage `prm`; trains the path scorer of `decoding.path_scorer` on valid prefixes.
- `path_loss`: the scorer's loss: InfoNCE against valid prefixes at every depth.
- `history_targets`, `policy_targets`: what the scorer learns from, with an encoder of its own or on a policy.

This is the only room, and `sft` and `srpo` the only modules, that know `trl`.
"""
