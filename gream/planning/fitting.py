"""What a stage holds on one device under each way of sharing out, and what to change if it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gream.planning.memory import (
    DDP,
    FSDP,
    HALF,
    SHARDED,
    SINGLE,
    ZERO3,
    Memory,
    Training,
    cache_bytes,
    inference_memory,
    training_memory,
)
from gream.planning.needs import Answering, Needs
from gream.training.adapters import LORA

GIB = 2**30  # what is called a GB of a device's memory
USABLE = 0.9  # of a device: the rest is what the figures leave out, see `memory`
_MOST_DEVICES = 64
_RANK = 16  # of the adapters that are proposed


def held(needs: Needs, config: str, devices: int, device: float) -> Memory | None:
    """Return what a stage holds at its peak on one device; None without a language model, or where refused.

    The cache of completions is gone before their pass begins, so that the larger one of cache and activations
    counts. vLLM takes its share of the device whatever it needs.

    Args:
        needs: of the stage.
        config: one of `memory.CONFIGS`.
        devices: how many share a training out.
        device: bytes of one device.
    """
    if _is_refused(needs, config):
        return None
    if needs.training is not None:
        kind = SINGLE if needs.step.stage == "prm" else config  # each process holds all that it trains along
        found = training_memory(needs.training, kind, devices)
        cache = cache_bytes(needs.training.shape, needs.rollouts, needs.training.compute_bytes)
        more = max(0, cache - found.activations) + round(needs.vllm * device)
        return replace(found, other=found.other + more)
    if needs.answering is None:
        return None
    a = needs.answering
    found = inference_memory(
        a.shape,
        weight_bytes=HALF if needs.vllm else a.weight_bytes,
        compute_bytes=a.compute_bytes,
        cached=a.cached,
        at_once=0 if needs.vllm else a.at_once,
    )
    # Inside its share vLLM holds the weights, and fills the rest with its cache.
    return replace(found, other=max(0, round(needs.vllm * device) - found.weights)) if needs.vllm else found


def fits(memory: Memory, device: float) -> bool:
    """Say whether a tenth of the device stays free."""
    return memory.total <= USABLE * device


def advice(needs: Needs, config: str, devices: int, device: float) -> str | None:
    """Name what makes a stage fit, or start at all; None where it fits as it is.

    Settings that change no result come first: they are added one to the other, until all of them together
    fit. Then it is other accelerate configurations, adapters, more devices.
    """
    if _is_refused(needs, config):
        return f"cannot be shared out by {config}, which trains no rows of an embedding alone; take {ZERO3}"
    memory = held(needs, config, devices, device)
    if memory is None or fits(memory, device):
        return None
    told = f"{_gb(memory.total)} under {config}, a device has {_gb(USABLE * device)} to give"
    for words, changed, other, more in _ways(needs, config, devices):
        found = held(changed, other, more, device)
        if found is not None and fits(found, device):
            return f"does not fit ({told}); {words} makes it {_gb(found.total)}"
    return f"does not fit ({told}), and no setting here makes it; take a smaller model or a larger device"


def _is_refused(needs: Needs, config: str) -> bool:
    """Say whether the stage refuses to start, see `gream.training.shared_weights.check_processes`."""
    trains_rows = needs.step.stage == "sft" and needs.training is not None and not needs.training.full
    return config == FSDP and trains_rows


def _ways(needs: Needs, config: str, devices: int) -> Iterator[tuple[str, Needs, str, int]]:
    """Ever larger changes: words, the stage with them, accelerate configuration, devices."""
    if needs.training is None:
        for batch, changed in _smaller_batches(needs):
            yield f"`batch_size: {batch}`", changed, config, devices
        return
    if needs.step.stage == "prm":  # which has none of the settings below
        yield (
            "`train_policy: false`",
            replace(needs, training=None, answering=_only_read(needs)),
            config,
            devices,
        )
        return
    steps = list(_settings(needs))
    for words, changed in steps:
        yield words, changed, config, devices
    words, least = steps[-1] if steps else ("", needs)
    joined = f"{words} and " if words else ""
    if devices > 1 and config in (SINGLE, DDP):
        yield "`--accelerate zero3`", needs, ZERO3, devices
        yield f"{joined}`--accelerate zero3`", least, ZERO3, devices
    if needs.step.stage == "srpo" and least.training is not None and least.training.reference:
        free = replace(least, training=replace(least.training, reference=False))
        yield f"{joined}`beta: 0`, which needs no reference model,", free, config, devices
    if least.training is not None and least.training.full:
        adapters = replace(least, training=replace(least.training, rank=_RANK))
        yield f"{joined}`trainable: {LORA}`", adapters, config, devices
    more = 2 * devices
    while more <= _MOST_DEVICES:
        other = config if config in SHARDED else ZERO3
        shared = replace(least, rollouts=least.rollouts * devices // more)
        yield f"{joined}{more} devices under {other}", shared, other, more
        more *= 2


def _only_read(needs: Needs) -> Answering:
    training = needs.training
    assert training is not None
    width = training.compute_bytes
    return Answering(training.shape, width, width, 0, training.sequences * training.length)


def _settings(needs: Needs) -> Iterator[tuple[str, Needs]]:
    """What changes no result, one added to the other: checkpointing, then ever smaller passes."""
    training, words = needs.training, []
    if training is None:
        return
    if needs.step.stage in ("sft", "srpo") and not training.checkpointing:
        training = replace(training, checkpointing=True)
        words.append("`gradient_checkpointing: true`")
        yield words[0], replace(needs, training=training)
    whole = needs.work.sequences
    for size in [d for d in range(whole - 1, 0, -1) if whole % d == 0]:
        smaller = replace(needs, training=_with_rows(training, whole, size))
        yield " with ".join([*words, f"`micro_batch_size: {size}`"]), smaller


def _with_rows(training: Training, before: int, rows: int) -> Training:
    answers = training.answers * rows // before
    if training.masked:
        return replace(training, sequences=rows, answers=answers)
    return replace(training, length=-(-training.length * rows // before), answers=answers)  # packed


def _smaller_batches(needs: Needs) -> Iterator[tuple[int, Needs]]:
    batch = getattr(needs.step.config, "batch_size", 1)
    whole = needs.answering
    smaller = batch // 2
    while whole is not None and smaller:
        share = smaller / batch
        answering: Answering = replace(
            whole, cached=round(whole.cached * share), at_once=round(whole.at_once * share)
        )
        yield smaller, replace(needs, answering=answering)
        smaller //= 2


def _gb(size: float) -> str:
    return f"{size / GIB:.1f} GB"
