"""Constrained beam search by transformers' `generate` with a Python dictionary as the trie, as it is used.

Legend: B users, W beams.
"""

from __future__ import annotations

from typing import Any

import torch

from gream.semantic_ids.layout import Names


class Rival:
    """The search of B users with prompts of equal length.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        names: the catalogue's.
        blocks: for each level the vocabulary ids of its codes.
        prompts: token ids.
        beams: width, and the length of the lists.
    """

    def __init__(
        self, model: Any, names: Names, blocks: list[range], prompts: list[list[int]], beams: int
    ) -> None:
        self._model, self._beams, self._levels = model, beams, len(blocks)
        self._prompts = torch.tensor(prompts, device=model.device)
        self._item_of: dict[tuple[int, ...], int] = {}
        children: dict[tuple[int, ...], set[int]] = {}
        for item, codes in enumerate(names.codes.tolist()):
            tokens = tuple(block.start + code for block, code in zip(blocks, codes, strict=True))
            self._item_of[tokens] = item
            for level, token in enumerate(tokens):
                children.setdefault(tokens[:level], set()).add(token)
        self._allowed = {path: sorted(tokens) for path, tokens in children.items()}

    def search(self) -> Any:
        """Search once; call it under `torch.inference_mode`."""
        start = self._prompts.shape[1]
        return self._model.generate(
            self._prompts,
            attention_mask=torch.ones_like(self._prompts),
            max_new_tokens=self._levels,
            num_beams=self._beams,
            num_return_sequences=self._beams,
            do_sample=False,
            length_penalty=0.0,
            eos_token_id=None,
            pad_token_id=0,
            prefix_allowed_tokens_fn=lambda _, tokens: self._allowed[tuple(tokens[start:].tolist())],
            return_dict_in_generate=True,
            output_scores=True,
        )

    def found(self, output: Any) -> tuple[list[list[int]], list[list[float]]]:
        """Return the B lists of W items, best first, ties by lower item id, and their scores."""
        sequences = output.sequences[:, self._prompts.shape[1] :].tolist()
        pairs = [
            (-score, self._item_of[tuple(row)])
            for score, row in zip(output.sequences_scores.tolist(), sequences, strict=True)
        ]
        users = [sorted(pairs[start : start + self._beams]) for start in range(0, len(pairs), self._beams)]
        items = [[item for _, item in user] for user in users]
        return items, [[-cost for cost, _ in user] for user in users]
