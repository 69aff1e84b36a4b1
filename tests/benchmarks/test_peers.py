"""The comparison of engines asks all of them the same, reads what they answer, and draws the right conclusions."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.checkpoints import CONFIGS, Checkpoint, checkpoint
from benchmarks.peers_client import Answer, EngineFailed, Ran, run
from benchmarks.peers_engines import Engine, Job, inline, transformers
from benchmarks.peers_gguf import gguf, pairs_from_halves
from benchmarks.peers_processes import cpu_of, environment, first_line, free_port, healthy, serving, started
from benchmarks.peers_report import (
    Ceiling,
    Measured,
    Place,
    Spent,
    agreement,
    cells,
    last_line,
    measured,
    picture,
    table,
)
from benchmarks.peers_workloads import CONTEXT, SHARED, Tokens, Turn, Workload, workloads
from engine.text.tokenizer import Tokenizer

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 600,
}
HALF = Ceiling(bandwidth=1.0, flops=1.0)
"""Of a machine that `_measured` uses half of."""


@pytest.fixture(scope="module", params=list(CONFIGS))
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint("small", tmp_path_factory.mktemp("peers"), CONFIGS[request.param] | SMALL)


def test_a_checkpoint_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    config = CONFIGS["smol-135m"] | SMALL
    first, second = (checkpoint("small", tmp_path / name, config) for name in ("a", "b"))
    files = sorted(path.name for path in first.folder.iterdir())
    assert "model.safetensors" in files
    assert all((first.folder / name).read_bytes() == (second.folder / name).read_bytes() for name in files)
    assert checkpoint("small", tmp_path / "a", config).folder == first.folder


def test_the_shapes_are_those_of_the_known_models() -> None:
    sizes = {name: Checkpoint(name, Path(), config) for name, config in CONFIGS.items()}
    assert sizes["smol-135m"].decoded_bytes == pytest.approx(269e6, rel=1e-3)
    assert sizes["qwen3-0.6b"].decoded_bytes == pytest.approx(1192e6, rel=1e-3)


def test_every_token_of_the_vocabulary_has_a_text_of_its_own(small: Checkpoint) -> None:
    tokenizer = Tokenizer.load(small.folder)
    assert tokenizer.size == small.vocabulary
    texts = [tokenizer.decode([token]) for token in range(3 + 256, small.vocabulary)]
    assert len(set(texts)) == len(texts)
    assert all(text.isalnum() and text.isascii() for text in texts)


@pytest.mark.anyio
@pytest.mark.deadline(120)
async def test_our_engine_and_transformers_write_the_same_through_pipes(small: Checkpoint, tmp_path: Path) -> None:
    many = next(one for one in workloads(small.vocabulary) if one.name == "w2")
    asked = Workload("tokens", tuple((Turn(program[0].new, 3 + n),) for n, program in enumerate(many.programs[:5])))

    async def answers(engine: Engine) -> list[Tokens]:
        async with engine.opened(Job(small, 1, tmp_path, "float32")) as running:
            ran, _ = await run(asked, running.door)
        return [one.turns[0].tokens for one in ran]

    ours = await answers(inline())
    assert [len(tokens) for tokens in ours] == [3, 4, 5, 6, 7]
    assert ours == await answers(transformers())


@pytest.mark.anyio
async def test_an_engine_that_ends_before_it_is_ready_is_told(tmp_path: Path) -> None:
    argv = [sys.executable, "-S", "-c", "print(end='')"]
    with pytest.raises(EngineFailed, match="before it was ready"):
        async with started(argv, environment(), tmp_path / "log") as process:
            await first_line(process, 60)


@pytest.mark.anyio
async def test_a_server_that_ends_before_it_answers_is_told(tmp_path: Path) -> None:
    argv = [sys.executable, "-S", "-c", "raise SystemExit(3)"]
    with pytest.raises(EngineFailed, match="it ended with 3 before it was ready"):
        async with serving(argv, environment(), tmp_path / "log") as process:
            await healthy(process, f"http://127.0.0.1:{free_port()}/health", 60)


class Scripted:
    """Answers with numbers that count on, one token too few where it is told to."""

    def __init__(self, short_of: int = -1) -> None:
        self.asked: list[tuple[Tokens, int]] = []
        self._short_of = short_of

    async def ask(self, prompt: Tokens, count: int) -> AsyncIterator[Sequence[int]]:
        self.asked.append((prompt, count))
        for number in range(count - (len(self.asked) - 1 == self._short_of)):
            yield [len(self.asked) * 100 + number]


@pytest.mark.anyio
async def test_a_turn_goes_on_with_what_the_engine_answered() -> None:
    door = Scripted()
    program = (Turn((1, 2), 2), Turn((3,), 1, 0.001), Turn((4,), 1))
    ((ran,), _) = await run(Workload("w4", (program,)), door)
    assert [prompt for prompt, _ in door.asked] == [(1, 2), (1, 2, 100, 101, 3), (1, 2, 100, 101, 3, 200, 4)]
    assert [turn.tokens for turn in ran.turns] == [(100, 101), (200,), (300,)]


@pytest.mark.anyio
async def test_an_answer_that_is_too_short_is_no_result() -> None:
    with pytest.raises(EngineFailed, match="1 tokens came where 2 were asked for"):
        await run(Workload("w1", ((Turn((1,), 2),),) * 2, together=False), Scripted(short_of=1))


def test_the_workloads_are_pinned() -> None:
    first, second = workloads(49_152), workloads(49_152)
    assert first == second
    found = {
        one.name: (len(one.programs), sum(len(turn.new) for program in one.programs for turn in program), one.outputs)
        for one in first
    }
    assert found == {
        "w1": (3, 384, 384),
        "w2": (64, 13_455, 6984),
        "w3_cold": (32, 32 * (SHARED + 32), 1024),
        "w3_warm": (32, 32 * (SHARED + 32), 1024),
        "w4": (16, 18_781, 5792),
    }
    for one in first:
        assert max(sum(len(turn.new) + turn.count for turn in program) for program in one.programs) < CONTEXT
    waits = [turn.wait_s for program in first[-1].programs for turn in program[1:]]
    assert min(waits) >= 0.2
    assert max(waits) <= 2.0


def test_warm_requests_share_the_system_prompt_of_cold_ones_and_nothing_else() -> None:
    cold, warm = (next(one for one in workloads(1000) if one.name == name) for name in ("w3_cold", "w3_warm"))
    starts = {program[0].new[:SHARED] for one in (cold, warm) for program in one.programs}
    assert len(starts) == 1
    assert len({program[0].new[SHARED:] for one in (cold, warm) for program in one.programs}) == 64
    assert cold.computed - warm.computed == SHARED


def test_a_gguf_file_holds_every_tensor_and_token(small: Checkpoint) -> None:
    plain = gguf(small.folder).read_bytes()
    magic, version, tensors, keys = struct.unpack_from("<4sIQQ", plain)
    norms = 2 * (2 if small.config["model_type"] == "qwen3" else 0)
    assert (magic, version, tensors) == (b"GGUF", 3, 2 * 9 + norms + 2)
    assert keys > 15
    assert plain.count(b"blk.1.") == (tensors - 2) // 2
    embedding = (small.folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", embedding)
    told = json.loads(embedding[8 : 8 + length])["model.embed_tokens.weight"]["data_offsets"]
    assert embedding[8 + length + told[0] : 8 + length + told[1]] in plain


def test_rotating_pairs_of_turned_rows_is_rotating_halves_of_the_rows_as_they_are() -> None:
    rows, size, columns = 2 * 8, 8, 5
    weight = np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns)
    turned = pairs_from_halves(weight, size)
    for head in range(rows // size):
        for at in range(size // 2):
            pair = turned[head * size + 2 * at], turned[head * size + 2 * at + 1]
            halves = weight[head * size + at], weight[head * size + size // 2 + at]
            assert np.array_equal(pair, halves)


def _ran(*spans: tuple[float, float, float]) -> tuple[Ran, ...]:
    return tuple(Ran((Answer(asked, first, last, tuple(range(11))),)) for asked, first, last in spans)


def _measured(engine: str, workload: str, value: float, number: int = 0) -> Measured:
    figures = {"decode_s": value, "output_s": value, "program_p95": value}
    rest = dict.fromkeys(("wall", "ttft", "program_p50", "used", "engine_cpu", "client_cpu", "others_cpu"), 0.5)
    return Measured(model="smol", engine=engine, workload=workload, round=number, **rest, **figures)


def test_figures_are_made_of_what_the_client_saw(small: Checkpoint) -> None:
    single = Workload("w1", ((Turn((1, 2), 11),),) * 3, together=False)
    ran = _ran((0.0, 0.1, 1.1), (2.0, 2.3, 2.8), (3.0, 3.2, 5.2))
    told = measured(Place(small, "ostinato", 0), single, ran, 5.2, Spent(3.0, 0.1, 0.2))
    assert told.decode_s == pytest.approx(10.0)
    assert told.ttft == pytest.approx(0.2)
    assert told.output_s == pytest.approx(33 / 5.2)
    assert told.used == pytest.approx(10.0 * small.decoded_bytes)
    many = measured(Place(small, "x", 0), Workload("w2", single.programs), ran, 5.2, Spent(3.0, 0.1, 0.2))
    assert many.used == pytest.approx(2 * (small.body * (6 + 33 - 3) + small.head * 33) / 5.2)
    ceiling = Ceiling(bandwidth=100.0 * small.decoded_bytes, flops=10 * many.used)
    fractions = {key[1]: cell.fraction for key, cell in cells([told, many], ceiling).items()}
    assert fractions == {"w1": pytest.approx(0.1), "w2": pytest.approx(0.1)}


def test_ratios_are_to_the_best_peer_and_only_seconds_are_better_when_less() -> None:
    rows = {"ostinato": 20.0, "inline": 90.0, "vllm": 10.0, "llama.cpp": 16.0}
    runs = [_measured(engine, workload, value) for workload in ("w1", "w4") for engine, value in rows.items()]
    told = last_line(cells(runs, HALF), ["smol", "absent"])
    assert (told["w1_ratio"], told["w4_p95_ratio"]) == (1.25, 2.0)
    assert told["w2_ratio"] is None
    assert told["w1_roofline_fraction"] == 0.5
    assert told["w1_ratio_absent"] is None


def test_a_run_without_peers_has_no_ratios() -> None:
    told = last_line(cells([_measured("ostinato", "w1", 20.0), _measured("inline", "w1", 10.0)], HALF), ["smol"])
    assert told["w1_ratio"] is None
    assert told["w1_roofline_fraction"] == 0.5


def test_rounds_become_their_median_and_the_table_and_the_picture_show_it() -> None:
    runs = [_measured("ostinato", "w2", value, number) for number, value in enumerate((10.0, 50.0, 20.0))]
    found = cells([*runs, _measured("vllm", "w2", 40.0)], HALF)
    assert found["smol", "w2", "ostinato"].value == 20.0
    told = table(found, {("smol", "w4", "vllm"): "over 300 s"})
    assert "20.00    10.00    50.00" in told
    assert "smol w4 vllm: over 300 s" in told
    drawn = ElementTree.fromstring(picture(found))
    assert len(drawn.findall(".//{*}rect")) == 1 + 2


def test_agreement_counts_tokens_up_to_the_first_other_one() -> None:
    streams = {("smol", "ostinato"): [(1, 2, 3), (4, 5, 6)], ("smol", "vllm"): [(1, 2, 9), (4, 5, 6)]}
    assert agreement(streams) == "smol, vllm: the first 2, 3 tokens of single streams as ours"


def test_cpu_is_that_of_a_process_and_all_below_it(tmp_path: Path) -> None:
    before = cpu_of(os.getppid(), tmp_path)
    spent = sum(number * number for number in range(2_000_000))
    assert spent
    assert cpu_of(os.getppid(), tmp_path) >= before
