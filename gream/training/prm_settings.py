"""The settings of the stage `prm`."""

from __future__ import annotations

from dataclasses import dataclass

from gream.arguments import StageConfig, input_folder, option
from gream.errors import InputError

CONTEXTS = ("own", "policy")


@dataclass(kw_only=True)
class PrmConfig(StageConfig):
    """Settings of the stage `prm`."""

    data: str = input_folder("data", doc="folder written by `gream data`")
    sids: str = input_folder("sids", doc="folder written by `gream sids`")
    model: str = input_folder("", doc="folder of the policy; needed by the context `policy`, and only there")
    embeddings: str = input_folder("", doc="folder written by `gream embed`; needed by `lookalikes`")
    output: str = option("prm", doc="name of the folder that this stage writes inside run_dir")
    context: str = option(
        "own", doc="what paths attend to: an encoder of its `own`, or the `policy`'s states"
    )
    train_policy: bool = option(False, doc="train the policy along and write it as `model` inside the output")
    hidden_size: int = option(64, doc="width of the scorer")
    num_layers: int = option(1, doc="layers of the encoder of its own")
    num_heads: int = option(2, doc="attention heads of the encoder of its own")
    dropout: float = option(0.3, doc="dropout of history, attention and feed-forward")
    max_history: int = option(50, doc="newest purchases that scorer and prompt look at")
    neighbours: int = option(
        0, doc="co-purchased items around each purchase that count as evidence for a path; 0: none"
    )
    lookalikes: int = option(
        0, doc="items with the nearest texts around each purchase that count as evidence for a path; 0: none"
    )
    num_negatives: int = option(16, doc="wrong prefixes against each true one, at every depth")
    epochs: int = option(10, doc="passes over the training purchases")
    targets_per_sequence: int = option(
        4, doc="purchases of a user that are learned in an epoch, drawn at random; context `policy` only"
    )
    batch_size: int = option(128, doc="training sequences in a batch; targets with the context `policy`")
    learning_rate: float = option(3e-3, doc="peak learning rate, falling to 0 along a cosine")
    policy_learning_rate: float = option(3e-4, doc="the same of a policy that is trained along")
    weight_decay: float = option(0.01, doc="weight decay of AdamW")
    validation_users: int = option(
        1000, doc="validation cases, drawn at random, that choose the epoch; 0: all"
    )

    def __post_init__(self) -> None:
        for name in ("num_negatives", "epochs", "targets_per_sequence", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` is {getattr(self, name)}; give at least 1.")
        for name in (
            "neighbours", "lookalikes", "learning_rate", "policy_learning_rate", "weight_decay",
            "validation_users",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise InputError(f"`{name}` is {getattr(self, name)}; give at least 0.")
        if self.context not in CONTEXTS:
            raise InputError(f"`context` is {self.context!r}; give one of {', '.join(CONTEXTS)}.")
        if (self.context == "policy") != bool(self.model):
            raise InputError(
                f"`context` is {self.context!r} and `model` is {self.model!r}, but the context `policy`, and "
                "only that, reads a model; give both or none."
            )
        if bool(self.lookalikes) != bool(self.embeddings):
            raise InputError(
                f"`lookalikes` is {self.lookalikes} and `embeddings` is {self.embeddings!r}, but lookalikes, "
                "and only those, need the texts' vectors; give both or none."
            )
        if self.train_policy and self.context != "policy":
            raise InputError("`train_policy` trains what the scorer reads; set `context: policy` with it.")
