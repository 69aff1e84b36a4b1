"""The engines that are compared: how each is started on a checkpoint, with the same threads and room for KV."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.checkpoints import Checkpoint
from benchmarks.peers_client import Door, EngineFailed, LlamaServer, OpenAI, Piped
from benchmarks.peers_gguf import gguf
from benchmarks.peers_processes import environment, first_line, free_port, healthy, serving, started
from benchmarks.peers_workloads import CONTEXT

HERE: Final = Path(__file__).parent
BLOCK: Final = 16
KV_TOKENS: Final[Mapping[str, int]] = {"smol-135m": 65_536, "qwen3-0.6b": 36_864}
"""Room for contexts, the same for all: more than any workload fills."""
_SLOTS: Final = 16
_READY_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Job:
    """What is served, and with how much of the machine."""

    checkpoint: Checkpoint
    threads: int
    folder: Path
    """For data and logs."""
    dtype: str = "bfloat16"

    @property
    def kv_tokens(self) -> int:
        """Tokens of context that there is room for."""
        return KV_TOKENS.get(self.checkpoint.name, 65_536)

    @property
    def kv_gib(self) -> int:
        """The same in whole GiB of bfloat16, for those who take no less."""
        return math.ceil(self.kv_tokens * self.checkpoint.kv_bytes / 2**30)

    @property
    def log(self) -> Path:
        """Where an engine writes what it tells."""
        return self.folder / "engine.log"


@dataclass(frozen=True, slots=True)
class Running:
    """An engine that is ready."""

    door: Door
    pid: int


Opened = AbstractAsyncContextManager[Running]


@dataclass(frozen=True, slots=True)
class Engine:
    """One that is compared."""

    name: str
    opened: Callable[[Job], Opened]
    workloads: frozenset[str] | None = None
    """Those that it is asked; all for None."""


def ostinato() -> Engine:
    """Ours as it is served: HTTP bridge, bus, scheduler, worker, log."""

    @asynccontextmanager
    async def opened(job: Job) -> AsyncIterator[Running]:
        argv = [sys.executable, "-m", "infra.cli.main", "serve", str(job.checkpoint.folder), "--json", "--port", "0"]
        argv += ["--data", str(job.folder / "data"), "--dtype", job.dtype, "--max-model-len", str(CONTEXT)]
        argv += ["--block-size", str(BLOCK), "--num-gpu-blocks-override", str(job.kv_tokens // BLOCK)]
        argv += ["--served-model-name", job.checkpoint.name]
        variables = environment(PYTHONPATH=str(HERE.parent), OSTINATO_ENGINE_THREADS=str(job.threads))
        async with started(argv, variables, job.log) as process:
            ready = json.loads(await first_line(process, _READY_S))
            yield Running(OpenAI(ready["url"], job.checkpoint.name), process.pid)

    return Engine("ostinato", opened)


def inline() -> Engine:
    """Ours in one process, without HTTP and bus."""

    def argv(job: Job) -> list[str]:
        told = (job.checkpoint.folder, job.threads, job.kv_tokens, CONTEXT, job.dtype)
        return [sys.executable, str(HERE / "peers_inline.py"), *map(str, told)]

    return Engine("inline", _piped(argv, {}))


def transformers() -> Engine:
    """`transformers.generate`, in this interpreter."""

    def argv(job: Job) -> list[str]:
        told = (job.checkpoint.folder, job.threads, job.dtype)
        return [sys.executable, str(HERE / "peers_transformers.py"), *map(str, told)]

    return Engine("transformers", _piped(argv, {}))


def openvino(python: str) -> Engine:
    """OpenVINO GenAI, on a checkpoint that its exporter has written."""

    def argv(job: Job) -> list[str]:
        exported = _exported(python, job.checkpoint)
        return [python, str(HERE / "peers_openvino.py"), str(exported), str(job.threads), str(job.kv_gib)]

    return Engine("openvino", _piped(argv, {}))


def vllm(python: str) -> Engine:
    """vLLM's server on a CPU, with all threads: left to itself it keeps one core for others."""

    @asynccontextmanager
    async def opened(job: Job) -> AsyncIterator[Running]:
        port = free_port()
        argv = [python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
        argv += ["--model", str(job.checkpoint.folder), "--served-model-name", job.checkpoint.name]
        argv += ["--dtype", job.dtype, "--max-model-len", str(CONTEXT), "--uvicorn-log-level", "warning"]
        variables = environment(
            VLLM_CPU_KVCACHE_SPACE=str(job.kv_gib),
            VLLM_CPU_OMP_THREADS_BIND=f"0-{job.threads - 1}" if job.threads > 1 else "0",
            VLLM_CPU_NUM_OF_RESERVED_CPU="0",
            VLLM_NO_USAGE_STATS="1",
            PATH=f"{Path(python).parent}:{environment().get('PATH', '')}",
        )
        async with serving(argv, variables, job.log) as process:
            await healthy(process, f"http://127.0.0.1:{port}/health", _READY_S)
            yield Running(OpenAI(f"http://127.0.0.1:{port}", job.checkpoint.name), process.pid)

    return Engine("vllm", opened)


def llama_server(binary: str) -> Engine:
    """llama.cpp's server as it comes."""
    return Engine("llama.cpp", _llama(binary, (), {}))


def llama_server_huge(binary: str) -> Engine:
    """The same with its weights in huge pages, which speeds single streams up; nothing else is asked of it."""
    variables = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    return Engine("llama.cpp-huge", _llama(binary, ("--load-mode", "none"), variables), frozenset({"w1"}))


def _llama(binary: str, more: tuple[str, ...], variables: Mapping[str, str]) -> Callable[[Job], Opened]:
    @asynccontextmanager
    async def opened(job: Job) -> AsyncIterator[Running]:
        port, threads = free_port(), str(job.threads)
        argv = [binary, "--model", str(gguf(job.checkpoint.folder)), "--host", "127.0.0.1", "--port", str(port)]
        argv += ["--threads", threads, "--threads-batch", threads, "--parallel", str(_SLOTS)]
        # every slot with a part of its own: in one pool each sequence's attention walks the cells of all
        argv += ["--no-kv-unified", "--ctx-size", str(job.kv_tokens), "--no-ui", *more]
        async with serving(argv, environment(**variables), job.log) as process:
            await healthy(process, f"http://127.0.0.1:{port}/health", _READY_S)
            yield Running(LlamaServer(f"http://127.0.0.1:{port}"), process.pid)

    return opened


def _piped(argv: Callable[[Job], list[str]], more: Mapping[str, str]) -> Callable[[Job], Opened]:
    @asynccontextmanager
    async def opened(job: Job) -> AsyncIterator[Running]:
        line = await asyncio.to_thread(argv, job)
        async with started(line, environment(OMP_NUM_THREADS=str(job.threads), **more), job.log) as process:
            if json.loads(await first_line(process, _READY_S)) != "ready":
                raise EngineFailed("it says something else than that it is ready")
            door = Piped(process)
            yield Running(door, process.pid)
            await door.close()

    return opened


def _exported(python: str, made: Checkpoint) -> Path:
    """Give the checkpoint as OpenVINO reads it, written if it is not there: a minute."""
    folder = made.folder / "openvino"
    if not folder.exists():
        unready = made.folder / "openvino.unready"
        shutil.rmtree(unready, ignore_errors=True)
        argv = [str(Path(python).parent / "optimum-cli"), "export", "openvino", "--model", str(made.folder)]
        argv += ["--task", "text-generation-with-past", "--weight-format", "fp16", str(unready)]
        done = subprocess.run(argv, capture_output=True, text=True, env=environment(), check=False)
        if done.returncode != 0:
            raise EngineFailed(f"optimum-cli did not export {made.name}: {done.stderr[-500:]}")
        unready.rename(folder)
    return folder
