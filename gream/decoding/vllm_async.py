"""vLLM's asynchronous engine in processes beside this one, for a service that is asked by several threads.

The numbers are those of `vllm_backend.py`, which answers one call at a time and starts much faster. Here the
requests of all callers are batched continuously.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gream.decoding.async_backend import AsyncBackend, together
from gream.decoding.vllm_backend import engine_options
from gream.errors import EngineUnavailable, InputError

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput
    from vllm.v1.engine.async_llm import AsyncLLM


def start_vllm(
    folder: Path,
    *,
    max_model_len: int | None = None,
    max_num_seqs: int = 256,
    gpu_memory_utilization: float = 0.8,
) -> AsyncBackend:
    """Start vLLM over a model folder; it takes about 20 seconds on a CPU, and processes of its own.

    Args:
        folder: a saved transformers model, its vocabulary padded to a multiple of 64.
        max_model_len: longest prompt plus completion; the model's own limit if not given.
        max_num_seqs: requests that run at the same time.
        gpu_memory_utilization: share of the GPU's memory that vLLM takes; no effect on a CPU.

    Raises:
        InputError: vLLM is not installed, or the folder holds no model.
    """
    options = engine_options(folder) | {"max_model_len": max_model_len}
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        **options,
        max_num_seqs=max_num_seqs,
        gpu_memory_utilization=gpu_memory_utilization,
        # vLLM's block of 128 tokens on a CPU is longer than many prompts, and only whole blocks are cached.
        block_size=None if torch.cuda.is_available() else 32,
    )
    return AsyncBackend(VllmEngine(AsyncLLM.from_engine_args(arguments)))


class VllmEngine:
    """One AsyncLLM, see `gream.decoding.async_backend.AsyncEngine`."""

    def __init__(self, llm: AsyncLLM) -> None:
        """Take an engine that gives raw log-probabilities; it belongs to this one from now on."""
        self._llm = llm
        self._numbers = itertools.count()

    async def write(
        self, prompt: list[int], *, seed: int, stop: int, max_tokens: int, temperature: float
    ) -> AsyncGenerator[list[int], None]:
        """Write a text and give its tokens as they come, see `AsyncEngine.write`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=temperature,
            max_tokens=max_tokens,
            stop_token_ids=[stop],
            ignore_eos=True,  # only `stop` stops, as in the torch engine
            detokenize=False,
            seed=seed,
            output_kind=RequestOutputKind.DELTA,
        )
        async for output in self._ask(prompt, params):
            yield list(output.token_ids)

    async def score(
        self, prompt: list[int], paths: Sequence[tuple[int, ...]], ids: Sequence[list[int]]
    ) -> list[list[float]]:
        """Score tokens after a prompt that is continued by each path, see `AsyncEngine.score`."""
        parts = [self._score_one([*prompt, *path], some) for path in paths for some in ids]
        found = iter(await together(parts))
        return [[logp for _ in ids for logp in next(found)] for _ in paths]

    async def close(self) -> None:
        """End vLLM's processes."""
        self._llm.shutdown()
        del self._llm  # its destructor cannot run at the interpreter's end

    async def _score_one(self, prompt: list[int], ids: list[int]) -> list[float]:
        from vllm import SamplingParams
        from vllm.logprobs import FlatLogprobs
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprob_token_ids=ids,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        [output] = [output async for output in self._ask(prompt, params)]
        found = output.logprobs
        # The sampled token comes first, then the listed ones in their order, then perhaps padding.
        assert isinstance(found, FlatLogprobs)
        assert found.token_ids[1 : len(ids) + 1] == ids, "vLLM changed the order of logprob_token_ids"
        return found.logprobs[1 : len(ids) + 1]

    async def _ask(self, prompt: list[int], params: SamplingParams) -> AsyncGenerator[CompletionOutput, None]:
        """Make one request; a caller that is cancelled aborts it, as `AsyncLLM.generate` does."""
        from vllm import TokensPrompt
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        tokens = TokensPrompt(prompt_token_ids=prompt)
        try:
            async for output in self._llm.generate(tokens, params, f"gream-{next(self._numbers)}"):
                yield output.outputs[0]
        except VLLMClientError as error:
            raise InputError(f"vLLM cannot take this request: {error}") from error
        except EngineDeadError as error:
            raise EngineUnavailable(
                "The engine process of vLLM has ended; start the service again."
            ) from error
