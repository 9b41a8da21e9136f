"""Bytes on one device, from the shape of a model and the settings of a stage.

Every figure is a sum of tensors that are known to exist; nothing is fitted. What is left out: buffers of the
libraries, the CUDA context (about half a gigabyte) and what an allocator cannot use (often a tenth), so a
device should have a tenth more than is told here.

Legend: P weights of the model, T trained ones, N devices; h, f, q, k as in `shapes`; n tokens of one pass,
padding among them; A answer tokens of it that are scored; V rows of the table; w bytes of a stored weight, t
of a trained one, c of a number that is computed with.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from gream.planning.shapes import ModelShape

SINGLE, DDP, ZERO2, ZERO3, FSDP = "single", "ddp", "zero2", "zero3", "fsdp"
CONFIGS = (SINGLE, DDP, ZERO2, ZERO3, FSDP)  # recipes/accelerate/*.yaml
SHARDED = (ZERO3, FSDP)  # whose weights are shared out, not their states alone

_FLOAT = 4  # bytes of float32
HALF = 2  # bytes of bfloat16
# DeepSpeed's defaults (deepspeed/runtime/zero/config.py), which accelerate's configuration leaves as they are
_ZERO_BUCKET = 500_000_000  # gradients that are summed at a time
_ZERO3_LIVE = 1_000_000_000  # weights that stay gathered before any is released
# TRL scores answers in tiles of tokens x rows of the table (trl/kernels/chunked_logprob.py, trainer/utils.py)
_TILE = 4_096 * 32_768


@dataclass(frozen=True, kw_only=True)
class Training:
    """One forward and backward pass of a training stage, and what is trained."""

    shape: ModelShape
    rank: int = 0  # of the adapters; 0 trains the weights themselves
    rows: int = 0  # token rows that are trained beside adapters, or alone
    weight_bytes: int  # w
    compute_bytes: int  # c; below w it is autocast
    sequences: int  # of one pass
    length: int  # of the longest of them
    answers: int  # A
    checkpointing: bool = False
    chunked_head: bool = False  # whether answers are scored tile by tile, without all their logits
    reference: bool = False  # whether an untrained copy of the model is held
    masked: bool = True  # whether padding is masked, for which keys and values are repeated for all heads

    @property
    def tokens(self) -> int:
        """Places of one pass, n."""
        return self.sequences * self.length

    @property
    def full(self) -> bool:
        """Whether all weights are trained."""
        return not self.rank and not self.rows

    @property
    def trained(self) -> int:
        """Trained weights, T."""
        if self.full:
            return self.shape.parameters
        tables = 1 if self.shape.tied else 2
        return self.shape.adapters(self.rank) + tables * self.rows * self.shape.hidden

    @property
    def trained_bytes(self) -> int:
        """Bytes of a trained weight, t: PEFT keeps adapters in float32 whatever the model is in."""
        return self.weight_bytes if self.full else _FLOAT


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by what they hold."""

    weights: int
    gradients: int
    optimizer: int
    activations: int  # of one pass, kept for its backward pass
    other: int  # reference model, gathered weights, buckets, logits, caches

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(asdict(self).values())


def training_memory(training: Training, config: str, devices: int) -> Memory:
    """Return what a training stage holds at its peak, in the backward pass.

    Weights, gradients and the two moments of AdamW (torch/optim/adam.py: `exp_avg` and `exp_avg_sq`, each
    in the weight's own dtype):

    - `single`, `ddp`: w (P - T) + t T weights, t T gradients, 2 t T moments; with adapters P weights lie
      beside the T. `ddp` copies gradients into buckets to sum them, t T more (torch.nn.parallel, without
      `gradient_as_bucket_view`).
    - `zero2`, `zero3` (https://arxiv.org/abs/1910.02054, section 5: 2P + 2P + 12P bytes in half precision):
      weights in c bytes; gradients, c T, and 12 T of float32 weights and moments shared out over N; with
      `zero3` the weights, too, of which 10^9 stay gathered. In float32 DeepSpeed holds the float32 copy as
      well.
    - `fsdp` (https://arxiv.org/abs/2304.11277, and accelerate, which raises trained weights to float32 under
      mixed precision): weights, gradients and moments shared out; one block and the one that is fetched
      ahead, or the table, gathered in c bytes.

    A reference model is shared out only where weights are.
    """
    shape, trained = training.shape, training.trained
    frozen = 0 if training.full else shape.parameters
    shares = devices if config != SINGLE else 1
    own = training.trained_bytes
    other = _reference(training, config, shares) + _temporary(training)
    cast = config not in (
        SINGLE,
        DDP,
    )  # DeepSpeed and FSDP cast weights once, so states between blocks are short
    kept = activation_bytes(replace(training, weight_bytes=training.compute_bytes) if cast else training)
    if config in (SINGLE, DDP):
        buckets = own * trained if config == DDP else 0
        weights = training.weight_bytes * frozen + own * trained
        copies = copies_of_weights(training)
        return Memory(weights, own * trained, 2 * own * trained, kept, other + buckets + copies)
    if config == FSDP:
        raised = _FLOAT if training.full or training.compute_bytes < _FLOAT else own
        weights = (training.weight_bytes * frozen + raised * trained) // shares
        gathered = training.compute_bytes * max(2 * shape.in_blocks // shape.layers, shape.table)
        return Memory(
            weights, raised * trained // shares, 2 * raised * trained // shares, kept, other + gathered
        )
    compute = training.compute_bytes
    weights = compute * (frozen + trained) // (shares if config == ZERO3 else 1)
    gathered = compute * min(frozen + trained, _ZERO3_LIVE) if config == ZERO3 else 0
    bucket = compute * min(trained, _ZERO_BUCKET)
    states = 3 * _FLOAT * trained // shares
    return Memory(weights, compute * trained // shares, states, kept, other + gathered + bucket)


def activation_bytes(training: Training) -> int:
    """Return what the forward pass keeps for the backward pass, logits left out.

    Counted operation by operation along transformers' decoder layer (RMSNorm on hidden states, queries and
    keys; gated feed-forward; fused attention), after the manner of https://arxiv.org/abs/2205.05198, section
    4.1. Of one token a block keeps, where all weights are trained:

    - two norms, each its input in float32 (4h), the normalised input (w h) and the input of the linear layers
      behind it (c h, or, where autocast makes it, as often as there are layers: 5 c h for both norms);
    - queries: input of their norm (4q), normalised (c q), as attention takes them (c q), and attention's
      output, which is the output layer's input (c q); keys likewise without the last (4k + 2 c k), values c
      k;
    - feed-forward: gate, its activation, up, and their product: 4 c f;
    - roots of the norms and attention's sums: 4 bytes for each of 2 + 2 heads + key heads.

    A batch with padding has a mask, (sequences, length, length) of c bytes in every block, for which keys and
    values are repeated for all heads: 2 c q in place of 2 c k.
    Adapters of rank r keep no normalised inputs, but their own and c r for each of seven. With checkpointing
    a block keeps its input (w h), and one block at a time is computed again.
    """
    shape, tokens = training.shape, training.tokens
    blocks = shape.layers * block_bytes(training)
    if training.checkpointing:
        blocks = shape.layers * tokens * training.weight_bytes * shape.hidden + block_bytes(training)
    last = (_FLOAT + (training.weight_bytes if training.full else 0)) * shape.hidden + _FLOAT  # the last norm
    return blocks + tokens * last + training.answers * training.compute_bytes * shape.hidden


def block_bytes(training: Training) -> int:
    """Return what one block keeps of one pass; see `activation_bytes`."""
    mask = training.compute_bytes * training.sequences * training.length**2 if training.masked else 0
    return training.tokens * _of_a_token(training) + mask


def _of_a_token(training: Training) -> int:
    shape, c, w = training.shape, training.compute_bytes, training.weight_bytes
    h, f, q, k = shape.hidden, shape.feed_forward, shape.query, shape.key
    head = q // shape.heads
    keys = 2 * c * (q if training.masked else k)
    roots = _FLOAT * (2 + 2 * shape.heads + k // head)
    if training.full:
        inputs = (5 if c < w else 2) * c * h
        norms = 2 * (_FLOAT + w) * h
        return norms + inputs + (_FLOAT + 3 * c) * q + (_FLOAT + c) * k + keys + 4 * c * f + roots
    inputs = 0
    if training.rank:
        inputs = (5 * h + q) * c if _autocast(training) else 2 * h * c
        inputs += c * f + 7 * c * training.rank
    return 2 * _FLOAT * h + inputs + (_FLOAT + 2 * c) * q + _FLOAT * k + keys + 3 * c * f + roots


def _temporary(training: Training) -> int:
    """Bytes around the scores of the answers.

    All logits at once: in float32 their log-probabilities, which are kept, their gradient and that of
    the logits, 3 x 4 A V. Tile by tile: one tile, and float32 gradients of the states and, where the table is
    trained, of the table. Trained rows beside adapters stand in a copy of the table, which has a gradient
    (peft/tuners/trainable_tokens).
    """
    shape = training.shape
    table = shape.table * _FLOAT if training.full or training.rows else 0
    if training.chunked_head:
        found = training.compute_bytes * min(_TILE, training.answers * shape.vocabulary)
        found += _FLOAT * training.answers * shape.hidden + table
    else:
        found = 3 * _FLOAT * training.answers * shape.vocabulary
    return found + (2 * training.weight_bytes * shape.table if training.rows else 0)


def copies_of_weights(training: Training) -> int:
    """Return bytes of the half-precision copies that autocast makes of weights and keeps."""
    compute, copied = training.compute_bytes, 0
    if compute < training.weight_bytes:
        copied += training.shape.parameters
    if not training.full and compute < training.trained_bytes:
        copied += training.trained
    return compute * copied


def _autocast(training: Training) -> bool:
    return training.compute_bytes < training.trained_bytes


def _reference(training: Training, config: str, shares: int) -> int:
    """TRL loads the reference model in the policy's dtype; adapters need none: they are switched off."""
    if not training.reference or not training.full:
        return 0
    half = config in (ZERO2, ZERO3)  # DeepSpeed turns it into what is computed with
    held = (training.compute_bytes if half else training.weight_bytes) * training.shape.parameters
    return held // shares if config in SHARDED else held


def cache_bytes(shape: ModelShape, tokens: int, value_bytes: int) -> int:
    """Bytes of the keys and values of so many tokens: 2 x layers x k numbers for each."""
    return tokens * shape.cache_values * value_bytes


def inference_memory(
    shape: ModelShape, *, weight_bytes: int, compute_bytes: int, cached: int, at_once: int
) -> Memory:
    """Return what a model that only answers holds: weights, the cache, one block's values and scores.

    Args:
        shape: of the model.
        weight_bytes: w.
        compute_bytes: c.
        cached: tokens in the cache; 0 where none is kept.
        at_once: tokens of one pass, for which a block holds gate, up and product (3 f) and states (4 h).
    """
    block = compute_bytes * at_once * (3 * shape.feed_forward + 4 * shape.hidden)
    cache = cache_bytes(shape, cached, compute_bytes)
    return Memory(weight_bytes * shape.parameters, 0, 0, 0, block + cache)


def vllm_tokens(shape: ModelShape, share: float, device: float) -> int:
    """Return how many tokens fit into vLLM's cache: its share of the device without weights and a gigabyte.

    Weights and cache in half precision, which vLLM chooses for float32 weights too (`dtype: auto`); the
    gigabyte, for vLLM's activations and graphs, is assumed. 0 where not even the weights fit.
    """
    left = share * device - HALF * shape.parameters - 2**30
    return max(0, int(left // (shape.cache_values * HALF)))
