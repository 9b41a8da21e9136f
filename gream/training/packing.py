"""The rows of an optimiser step in one sequence, without padding, each attending to itself alone.

All rows of a step are laid one after the other, in the order of the plan, by TRL's padding-free collator;
positions restart with every row. A step has the same rows, the same loss and the same gradient as without
packing, so `batch_size` means what it meant and the schedule of a curriculum stays as planned. Packing a
whole data set into sequences of one length (TRL's `packing`) would reorder the rows by their lengths.

transformers keeps such rows apart by a dense mask over the whole sequence, which on a CPU costs more than
padding does. Here attention goes through the rows one by one, causal and without any mask. With flash
attention that would be one call of a kernel; here it is one call for each row.

Legend: B rows, T tokens of all rows together, H heads, D width of a head, A answer tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from gream.errors import InputError

IGNORED = -100  # label of a token that carries no loss
ROW_BY_ROW = "gream_row_by_row"


def row_by_row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each row of a packed sequence, as transformers calls an attention function.

    Args:
        module: the attention layer.
        query: (1, H, T, D), as `key` and `value`, which may have fewer heads.
        key: see `query`.
        value: see `query`.
        attention_mask: None; transformers makes no mask for a function that it has none for.
        cu_seq_lens_q: (B + 1,) where each row begins, and T.
        dropout: probability of dropping an attention weight.
        scaling: of the scores.

    Returns:
        (1, T, H, D), and no weights.
    """
    lengths = cu_seq_lens_q.diff().tolist()
    # split, not slices: the gradient of a slice is as long as the whole sequence.
    rows = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    found = [
        sdpa_attention_forward(module, q, k, v, None, dropout=dropout, scaling=scaling, is_causal=True)[0]
        for q, k, v in rows
    ]
    return torch.cat(found, dim=1), None


@contextlib.contextmanager
def attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Let a model use another attention function inside the block."""
    AttentionInterface.register(ROW_BY_ROW, row_by_row_attention)
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def check_packable(model: PreTrainedModel) -> None:
    """Refuse a model that the attention here would be wrong for.

    Raises:
        InputError: it forgets tokens outside a window.
    """
    if any(DynamicCache(config=model.config).is_sliding):
        raise InputError(
            "The model has sliding-window attention, but packing needs full attention; leave `packing` out."
        )


def answers_of_packed(inputs: dict[str, Any]) -> dict[str, Any]:
    """Ask the model for the logits before answer tokens only, (1, A, vocabulary), and for their loss."""
    following = inputs["labels"][0, 1:]  # what each position but the last predicts
    places = (following != IGNORED).nonzero().flatten()  # (A,)
    answers = following[places][None]  # (1, A)
    return {
        **inputs,
        "labels": answers,
        "shift_labels": answers,
        "logits_to_keep": places,
        "use_cache": False,
    }


def answers_of_padded(inputs: dict[str, Any]) -> dict[str, Any]:
    """Ask the model for the logits from the first answer token of any row on, and for their loss."""
    labels = inputs["labels"]
    first = int((labels != IGNORED).any(dim=0).int().argmax())
    kept = labels.shape[1] - first + 1  # the position before the first answer predicts it
    return {**inputs, "labels": labels[:, -kept:], "logits_to_keep": kept, "use_cache": False}
