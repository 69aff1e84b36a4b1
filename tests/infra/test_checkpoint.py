"""A model that is named by its hub id: downloaded with progress from a hub that this test plays, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra.checkpoint import read_groups, resolve_engine
from infra.configuration import ConfigurationWrong
from infra.errors import CheckpointNotFound
from infra.settings import EngineSettings


def safetensors(weights: bytes) -> bytes:
    """Write one tensor in the format of safetensors."""
    entry = {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": entry}).encode()
    return len(header).to_bytes(8, "little") + header + weights


REVISION = "0123456789abcdef0123456789abcdef01234567"
MODEL = "tiny/llama"
FILES = {
    "config.json": json.dumps(
        {
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "hidden_size": 8,
            "max_position_embeddings": 64,
        }
    ).encode(),
    "model.safetensors": safetensors(bytes(range(256)) * 20_000),
    "tokenizer.json": b"{}",
    "README.md": b"not wanted",
}
AT_THE_HUB = {
    **FILES,
    "checkpoint-500/model.safetensors": b"not wanted either",
    "last/checkpoint-9/config.json": b"nor this",
}
RESOLVE = """
import sys
from infra.checkpoint import resolve_engine
from infra.errors import InfraError
from infra.settings import EngineSettings
try:
    print(resolve_engine(EngineSettings(model=sys.argv[1]), lambda text: print(text)).model)
except InfraError as error:
    sys.exit(str(error))
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as a download asks for."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it
        """Say nothing."""

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        file = path.partition(f"/{MODEL}/resolve/{REVISION}/")[2]
        if path.startswith(f"/api/models/{MODEL}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in AT_THE_HUB.items()
            ]
            self._send(200, json.dumps(entries).encode())
        elif path.startswith(f"/api/models/{MODEL}"):
            siblings = [{"rfilename": name} for name in AT_THE_HUB]
            self._send(200, json.dumps({"id": MODEL, "sha": REVISION, "siblings": siblings}).encode())
        elif path.startswith(f"/{MODEL}/resolve/") and file in AT_THE_HUB:
            self._send(200, AT_THE_HUB[file])
        else:
            self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    serving.join(10)
    server.server_close()


def resolve(model: str, hub: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Resolve in a process of its own: the hub's client reads its environment once."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", RESOLVE, model]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_a_hub_id_is_downloaded_and_says_how_far_it_is(hub: str, tmp_path: Path) -> None:
    done = resolve(MODEL, hub, tmp_path)
    assert done.returncode == 0, done.stderr
    *told, folder = done.stdout.splitlines()
    assert told[0] == f"asking the hub for {MODEL}"
    assert len(told) > 1
    # the total grows while the hub learns of the files' sizes
    assert all(re.fullmatch(rf"downloading {MODEL}: \d of \d MB", line) for line in told[1:]), told
    assert told[-1].endswith(" of 5 MB")
    assert (Path(folder) / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    here = {str(one.relative_to(folder)) for one in Path(folder).rglob("*") if one.is_file()}
    assert here == {"config.json", "model.safetensors", "tokenizer.json"}
    assert not done.stderr


def test_a_second_start_downloads_nothing(hub: str, tmp_path: Path) -> None:
    first = resolve(MODEL, hub, tmp_path)
    second = resolve(MODEL, hub, tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert "downloading" not in second.stdout


def test_an_unknown_hub_id_is_one_line(hub: str, tmp_path: Path) -> None:
    done = resolve("tiny/none", hub, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("model 'tiny/none': no such folder, and no such model on the hub (mend the name")
    assert done.stderr.count("\n") == 1


def test_without_a_hub_it_is_one_line(tmp_path: Path) -> None:
    done = resolve(MODEL, "http://127.0.0.1:9", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"model {MODEL!r}: no such folder, and the hub cannot be reached (give --model")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"there is no config\.json in it \(give --model a folder"):
        resolve_engine(EngineSettings(model=str(tmp_path)), tell=lambda _: None)


def unsupported(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "n_layer": 2}', encoding="utf-8")


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5_000_000)


def cut_in_the_header(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 20)


def empty(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 0)


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def test_made_up_weights_need_no_files_of_them(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(FILES[name])
    settings = EngineSettings(model=str(tmp_path), load_format="dummy")
    assert resolve_engine(settings, tell=lambda _: None).model == str(tmp_path)


def test_memory_that_nobody_gave_is_left_to_the_worker_and_given_memory_is_counted(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)

    def blocks(**given: int) -> int:
        return resolve_engine(EngineSettings(model=str(tmp_path), **given), tell=lambda _: None).kv_blocks

    assert blocks() == 0
    assert blocks(kv_memory_mb=1) == (1 << 20) // (2 * 2 * 2 * 4 * 16 * 4)
    assert blocks(kv_blocks=7) == 7
    assert blocks(kv_blocks=2) == 64 // 16 + 1


@pytest.mark.parametrize(
    ("architecture", "more", "window"),
    [
        ("MistralForCausalLM", {"sliding_window": 24}, 24),
        ("MistralForCausalLM", {"sliding_window": None}, 0),
        ("Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}, 24),
        ("Gemma2ForCausalLM", {"sliding_window": 24}, 24),
        ("Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0}, 24),
    ],
)
def test_how_far_back_a_model_sees_is_settled(
    tmp_path: Path, architecture: str, more: dict[str, object], window: int
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    config = json.loads(FILES["config.json"]) | {"architectures": [architecture]} | more
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = EngineSettings(model=str(tmp_path))
    assert resolve_engine(settings, tell=lambda _: None).window == window
    settings = EngineSettings(model=str(tmp_path), window=0)
    assert resolve_engine(settings, tell=lambda _: None).window == 0
    with pytest.raises(CheckpointNotFound, match="a window of 23 tokens is less than what its layers see"):
        resolve_engine(EngineSettings(model=str(tmp_path), window=23), tell=lambda _: None)


LAYERS = {"num_hidden_layers": 12, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "hidden_size": 8}


@pytest.mark.parametrize(
    ("architecture", "window", "groups", "least"),
    [
        # 640 tokens fill 40 rows
        ("LlamaForCausalLM", -1, (1, 0, 12), 40),
        # 512 - 1 + 64 positions are seen or under way at most
        ("MistralForCausalLM", -1, (0, 1, 12), 37),
        # 24 - 1 + 64: of 7 rows
        ("Gemma3ForCausalLM", -1, (1, 5, 2), 40 + 5 * 7),
        ("Gemma3ForCausalLM", 40, (1, 5, 2), 40 + 5 * 8),
        ("Gemma3ForCausalLM", 0, (1, 5, 2), 6 * 40),
        ("Gemma2ForCausalLM", -1, (1, 1, 6), 40 + 7),
    ],
)
def test_memory_is_counted_for_each_group_of_layers(
    tmp_path: Path, architecture: str, window: int, groups: tuple[int, int, int], least: int
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    sees = 512 if architecture.startswith("Mistral") else 24
    config = LAYERS | {"architectures": [architecture], "sliding_window": sees, "max_position_embeddings": 640}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = read_groups(str(tmp_path))
    assert (found.full, found.windowed, found.size) == groups

    def blocks(**given: int) -> int:
        settings = EngineSettings(model=str(tmp_path), window=window, prefill_chunk=32, **given)
        return resolve_engine(settings, tell=lambda _: None).kv_blocks

    assert blocks(kv_blocks=1) == least + 1
    # float32 keys and values of a head of 8, for 16 tokens in the layers of a group
    assert blocks(kv_memory_mb=8) == (8 << 20) // (2 * 8 * 4 * 16 * groups[2])


@pytest.mark.parametrize(
    ("rope", "longest"),
    [({}, 64), ({"type": "dynamic", "factor": 2.0}, 128), ({"rope_type": "yarn", "factor": 4.0}, 256)],
)
def test_a_stretched_model_serves_what_it_was_stretched_to(
    tmp_path: Path, rope: dict[str, object], longest: int
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    config = json.loads(FILES["config.json"]) | {"architectures": ["Qwen2ForCausalLM"], "rope_scaling": rope}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert resolve_engine(EngineSettings(model=str(tmp_path)), tell=lambda _: None).context_length == longest


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tool_parser": "hermess"}, "'hermess' is not known: known are auto, deepseek_v3,"),
        ({"reasoning_parser": "thinking"}, "'thinking' is not known: known are auto,"),
        ({"chat_template": "{}/nowhere.jinja"}, "nowhere.jinja' cannot be read"),
        ({"chat_template": "{}/broken.jinja"}, "line 1"),
    ],
)
def test_what_is_set_of_prompts_and_answers_is_looked_at_before_anything_starts(
    tmp_path: Path, more: dict[str, str], says: str
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "broken.jinja").write_text("{% if %}", encoding="utf-8")
    settings = EngineSettings(model=str(tmp_path), **{name: value.format(tmp_path) for name, value in more.items()})
    with pytest.raises(ConfigurationWrong, match=re.escape(says)):
        resolve_engine(settings, tell=lambda _: None)


def test_a_template_of_one_s_own_is_known_by_its_whole_path(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "own.jinja").write_text("{{ messages }}", encoding="utf-8")
    given = os.path.relpath(tmp_path / "own.jinja")
    settings = EngineSettings(model=str(tmp_path), chat_template=given)
    assert Path(resolve_engine(settings, tell=lambda _: None).chat_template) == Path(given).absolute()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (unsupported, "architecture 'GPT2LMHeadModel' is not supported (supported are Gemma2ForCausalLM, Gemma3"),
        (cut, "model.safetensors is damaged or cut short (download it again)"),
        (cut_in_the_header, "model.safetensors is damaged or cut short (download it again)"),
        (empty, "model.safetensors is damaged or cut short (download it again)"),
        (without_weights, "there are no weights in it"),
        (without_a_tokenizer, "there is no tokenizer.json in it"),
    ],
)
def test_what_a_worker_would_find_out_after_seconds_is_said_at_once(
    tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    settings = EngineSettings(model=str(tmp_path))
    assert resolve_engine(settings, tell=lambda _: None).model == str(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointNotFound, match=re.escape(says)):
        resolve_engine(settings, tell=lambda _: None)
