"""How it learns: supervised fine-tuning, reinforcement learning, and the scorer that guides the search.

- `sft`: stage `sft`; aligns names with words, then teaches the reasoning chain (TRL's SFTTrainer).
- `srpo`: stage `srpo`; sharpens both modes on a verifiable reward. `srpo_training` puts its parts together,
  `srpo_trainer` is TRL's GRPOTrainer with five overrides.
- `prompt_pool`, `solve_chance`: what is asked, rather what a group can learn from.
- `rollouts`, `answer_support`: write completions under the trie, and learn over the choices that there were.
- `completions`: reads a completion, token by token, into a path or into "malformed".
- `rewards`, `reg4rec_rewards`, `process_reward`: how good a path is; functions over tensors.
- `reward_terms`: the rewards of a recipe as the columns that the trainer asks for.
- `advantages`: how much better than its group a completion was; pure functions over tensors.
- `refill`, `groups`: replace groups without a signal, and throw none with one away.
- `validation`, `watch`, `run_log`, `srpo_report`: how good both modes are meanwhile, and what looks wrong.
- `prm` (`prm_settings`): stage `prm`; trains the path scorer of `decoding.path_scorer` on valid prefixes.
- `path_loss`: the scorer's loss: InfoNCE against valid prefixes at every depth.
- `history_targets`, `policy_targets`: what the scorer learns from, with an encoder of its own or on a policy.

This is the only room that knows `trl`, in `sft_trainer`, `srpo_trainer` and `srpo_training`.
"""
