"""The engine on vLLM: level by level, one request for each beam, on the prefix cache.

vLLM has no search of its own that fits: its beam search ignores constraints and cannot be guided. It does
give exact full-vocabulary log-probabilities of listed tokens (`logprob_token_ids`), which is all that
`beam.py` asks. `vllm_async.py` is the same engine for callers in several threads.

Legend: B users, W beams, K tokens of a level's block.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gream.decoding.backend import Watch, check_prompts
from gream.decoding.path_session import PathSession, Prefix, check_no_states, chunks
from gream.errors import InputError

if TYPE_CHECKING:
    from vllm import LLM

_CPU_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in-process: starts in 3 s instead of 20 s
    "TORCH_COMPILE_DISABLE": "1",  # compiling one small function costs 20 s and needs g++
}


class VllmBackend:
    """A model folder served by vLLM in this process."""

    def __init__(
        self,
        folder: Path,
        *,
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        gpu_memory_utilization: float = 0.8,
        seed: int = 0,
    ) -> None:
        """Load the model of `folder`: in float32 on a CPU, in the folder's own dtype on a GPU.

        Args:
            folder: a saved transformers model, its vocabulary padded to a multiple of 64.
            max_model_len: longest prompt plus completion; the model's own limit if not given.
            max_num_seqs: requests that run at the same time.
            gpu_memory_utilization: share of the GPU's memory that vLLM takes; no effect on a CPU.
            seed: of the engine; every sampled text has a seed of its own besides.

        Raises:
            InputError: vLLM is not installed, or the folder holds no model.
        """
        options = engine_options(folder)
        from vllm import LLM

        self._llm: LLM | None = LLM(
            **options,
            seed=seed,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            gpu_memory_utilization=gpu_memory_utilization,
        )

    @classmethod
    def around(cls, llm: LLM) -> VllmBackend:
        """Use an engine that belongs to somebody else, who brings its weights up to date: TRL's for example.

        Args:
            llm: gives raw or processed log-probabilities. The processed ones of a greedy request are raw ones
                as long as no logits processor is at work, and scores are asked for greedily.

        Raises:
            InputError: it gives logits in their place.
        """
        given = llm.llm_engine.model_config.logprobs_mode
        if not given.endswith("logprobs"):
            raise InputError(f"The engine gives {given}; make it with logprobs_mode='raw_logprobs'.")
        backend = cls.__new__(cls)
        backend._llm = llm
        return backend

    @property
    def device(self) -> torch.device:
        """The host: vLLM hands its numbers out as Python floats."""
        return torch.device("cpu")

    def complete(
        self,
        prompts: list[list[int]],
        *,
        seeds: Sequence[Sequence[int]],
        stop: int,
        max_tokens: int,
        temperature: float,
        watch: Watch | None = None,
    ) -> list[list[list[int]]]:
        """Write free texts after each prompt, see `Backend.complete`; a text is told when it is whole.

        One request for each text: the prefix cache keeps all but the last block of a prompt from being
        computed again, and `n` texts of one request could not have seeds of their own.
        """
        from vllm import SamplingParams, TokensPrompt

        check_prompts(prompts)
        wanted = [(row, seed) for row, of_user in enumerate(seeds) for seed in of_user]
        params = [
            SamplingParams(
                temperature=temperature,
                max_tokens=max_tokens,
                stop_token_ids=[stop],
                ignore_eos=True,  # only `stop` stops, as in the torch engine
                detokenize=False,
                seed=seed,
            )
            for _, seed in wanted
        ]
        requests = [TokensPrompt(prompt_token_ids=prompts[row]) for row, _ in wanted]
        outputs = self._engine.generate(requests, params, use_tqdm=False)
        texts: list[list[list[int]]] = [[] for _ in prompts]
        for (row, _), output in zip(wanted, outputs, strict=True):
            texts[row].append(list(output.outputs[0].token_ids))
            if watch:
                watch(row, len(texts[row]) - 1, texts[row][-1])
        return texts

    def start(self, prompts: list[list[int]], *, keep_states: bool = False) -> PathSession:
        """Begin one search over these prompts; the prefix cache keeps each from being computed twice.

        Raises:
            InputError: the states of the prompts are asked for.
        """
        check_prompts(prompts)
        check_no_states(keep_states)

        def score(prefixes: list[Prefix], block: range) -> torch.Tensor:
            return self.score([prompts[user] + list(path) for user, path in prefixes], block)

        return PathSession(len(prompts), score)

    def score(self, prompts: list[list[int]], block: range) -> torch.Tensor:
        """Score the tokens of `block` after every prompt: (len(prompts), K) float32."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.logprobs import FlatLogprobs

        lists = chunks(block)
        requests = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts for _ in lists]
        params = [
            SamplingParams(
                max_tokens=1, temperature=0.0, logprob_token_ids=ids, flat_logprobs=True, detokenize=False
            )
            for ids in lists
        ]
        outputs = self._engine.generate(requests, params * len(prompts), use_tqdm=False)
        numbers: list[float] = []
        for row, output in enumerate(outputs):
            ids = lists[row % len(lists)]
            found = output.outputs[0].logprobs
            # The sampled token comes first, then the listed ones in their order, then perhaps padding.
            assert isinstance(found, FlatLogprobs)
            assert found.token_ids[1 : len(ids) + 1] == ids, "vLLM changed the order of logprob_token_ids"
            numbers += found.logprobs[1 : len(ids) + 1]
        return torch.tensor(numbers, dtype=torch.float32).reshape(len(prompts), len(block))

    def close(self) -> None:
        """Give the engine's memory back; the backend cannot be used afterwards."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None

    @property
    def _engine(self) -> LLM:
        if self._llm is None:
            raise RuntimeError("the vLLM backend was closed")
        return self._llm


def engine_options(folder: Path) -> dict[str, Any]:
    """Prepare this process for vLLM, and tell what every engine of vLLM over a model folder is made with.

    Raises:
        InputError: vLLM is not installed, or the folder holds no model.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no model (no config.json); run `gream sft`, or correct the path.")
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        for name, value in _CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    try:
        import vllm  # noqa: F401 - only after its environment is set
    except ImportError as error:
        raise InputError(
            f"The engine vllm was asked for, but vLLM cannot be imported ({error}); "
            "run `pip install 'gream[vllm]'`, or use the engine torch."
        ) from error
    return {
        "model": str(folder),
        "skip_tokenizer_init": True,  # ids in, ids out
        "dtype": "auto" if on_gpu else "float32",
        "enable_prefix_caching": True,
        "enforce_eager": not on_gpu,
        # On a CPU vLLM 0.31 stops when a prompt that is followed by sampling with a seed comes in parts.
        "enable_chunked_prefill": on_gpu,
        "disable_log_stats": True,
        "logprobs_mode": "raw_logprobs",  # of the full vocabulary, before temperature
        "generation_config": "vllm",  # not the folder's: its sampling defaults are not ours
    }
