"""vLLM's own OpenAI server as teacher, with a tiny model built from a config, on the CPU if need be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gream.artifacts import read_manifest
from gream.cli import main
from gream.data.store import Catalogue
from gream.language.reasoning import load_traces
from gream.language.vocab import build_model, train_tokenizer

LONGEST_START = 300  # seconds; half a minute on an idle machine

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "TORCH_COMPILE_DISABLE": "1",
}


def save_tiny_model(folder: Path, texts: list[str]) -> None:
    """A random model that speaks ChatML; only the server's grammar makes what it writes JSON."""
    tokenizer = train_tokenizer(texts, 400)
    model = build_model(448, hidden_size=64, num_layers=2, num_heads=2, seed=0)
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue) -> Iterator[str]:
    """Base URL of a server that has just been started."""
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("teacher")
    save_tiny_model(folder / "model", catalogue.titles)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2048"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the engine is a process of its own
        server.wait()


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + LONGEST_START
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError(f"vLLM did not start: {log.read_text()[-3000:]}")


def steps_about_ink() -> dict[str, Any]:
    """A form in which any sampled answer is a trace whose intent is ink."""
    numbers = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 2}
    fields: dict[str, Any] = {"evidence": numbers, "keep": numbers, "category": {"enum": ["ink"]}}
    for name in ("preference", "intent", "recommendation"):
        fields[name] = {"enum": ["good for every day", "quick and quiet", "cheap but sound"]}
    form = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "steps", "schema": form}}


@pytest.mark.vllm
def test_a_served_model_writes_traces_and_a_second_run_asks_nothing(
    vllm_url: str, tmp_path: Path, run_dir: Path, catalogue: Catalogue
) -> None:
    config = tmp_path / "synthesize.yaml"
    # No `seed`: with one, vLLM 0.31 on a CPU stops its engine when a prompt is prefilled in parts.
    parameters = f"{{max_tokens: 400, temperature: 1.0, response_format: {steps_about_ink()}}}"
    config.write_text(f"run_dir: {run_dir}\nmodel: tiny\nper_user: 9\nparameters: {parameters}\n")
    made = []
    for url in (vllm_url, "http://127.0.0.1:9/v1"):  # nobody is at the second address
        assert main(["synthesize", "traces", "--config", str(config), "--teacher", url]) == 0
        made.append(read_manifest(run_dir / "traces"))
    assert made[0].outputs == made[1].outputs and made[0].counts == made[1].counts
    traces, dropped = load_traces(run_dir / "traces"), pl.read_parquet(run_dir / "traces" / "dropped.parquet")
    assert traces and {catalogue.categories[t.target][-1] for t in traces} == {"ink"}
    assert made[0].counts["answers"] == len(traces) + len(dropped) == made[0].counts["attempts"]
    assert not [reason for reason in dropped["reason"] if "JSON" in reason or "failed" in reason]
    assert made[0].counts["prompt_tokens"] > 100 * made[0].counts["answers"]


@pytest.mark.vllm
def test_a_model_that_is_not_served_is_told(
    vllm_url: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run_dir", str(run_dir), "--teacher", vllm_url, "--model", "other", "--retries", "0"]
    assert main(["synthesize", "traces", *words]) == 2
    assert "knows no model 'other'" in capsys.readouterr().err
