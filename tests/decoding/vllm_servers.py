"""A tiny model with item tokens, and vLLM's own OpenAI server over it, on the CPU if need be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from gream.language.vocab import train_tokenizer
from gream.semantic_ids.layout import Names, SidLayout

SIZES = (150, 4, 3)  # the first block needs two requests
STOP = 7
LONGEST_START = 300  # seconds; half a minute on an idle machine

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "TORCH_COMPILE_DISABLE": "1",
}


def some_names(num_items: int = 60, *, ordered: bool = True) -> Names:
    every = np.stack(np.meshgrid(*[np.arange(s) for s in SIZES], indexing="ij"), -1).reshape(-1, 3)
    chosen = np.random.default_rng(0).permutation(len(every))[:num_items]
    return Names(SidLayout(SIZES, ordered=ordered), every[chosen].astype(np.int32))


def save_model(folder: Path) -> tuple[Any, Any]:
    """Save a model far from uniform, so that a wrong prefix shows, and its tokenizer; return both."""
    tokenizer = train_tokenizer([f"good ink model {i}" for i in range(50)], 300)
    tokenizer.add_tokens(SidLayout(SIZES).tokens())
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
        eos_token_id=9,  # not the stop token: an engine that stops here differs from the others
    )
    model = Qwen3ForCausalLM(config).eval()
    model.generation_config.temperature, model.generation_config.do_sample = 0.3, True  # not to be taken
    model.generation_config.top_k = 2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def blocks(tokenizer: Any, names: Names) -> list[range]:
    """The token ids of each place of a name."""
    start = tokenizer.convert_tokens_to_ids("<a_0>")
    ends = np.cumsum((0, *SIZES)) + start
    if not names.layout.ordered:
        return [range(start, int(ends[-1]))] * len(SIZES)
    return [range(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]


class VllmServer:
    """One server process; `kill` ends it as a crashed machine would."""

    def __init__(self, model: Path, *words: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = model.parent / f"server-{port}.log"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
        command += ["--block-size", "32", "--no-enable-chunked-prefill", *words]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **ENVIRONMENT}, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        deadline = time.monotonic() + LONGEST_START
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health"):
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        raise AssertionError(f"vLLM did not start: {self.log.read_text()[-3000:]}")

    def metric(self, name: str) -> float:
        """Sum of one of the numbers at /metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """End the server and its engine, which is a process of its own."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal_number)
        self.process.wait()
