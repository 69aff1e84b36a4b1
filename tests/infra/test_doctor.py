"""The doctor's checks judge what probes tell them; a check that breaks or hangs is a line, not a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infra.doctor import disk, machine, ports, servers
from infra.doctor.examination import Check, examine
from infra.doctor.finding import Finding, ok
from infra.services.data_directory import DataDirectory


def doctor(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.cli.main", "doctor", *argv]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **environment}
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_a_check_that_breaks_is_a_problem_and_one_that_hangs_a_warning() -> None:
    never = threading.Event()

    def hangs() -> Finding:
        never.wait(10)
        return ok("hangs", "")

    def breaks() -> Finding:
        raise RuntimeError("two\nlines")

    begun = time.monotonic()
    found = examine([Check("hangs", hangs, 0.1), Check("breaks", breaks), Check("fine", lambda: ok("fine", "yes"))])
    never.set()
    assert time.monotonic() - begun < 5
    assert [finding.level for finding in found] == ["warning", "problem", "ok"]
    assert found[1].says == "the check itself failed: RuntimeError: two lines"


@pytest.mark.parametrize(
    ("finding", "level", "word"),
    [
        (machine.python((3, 10, 2), "python"), "problem", "3.11"),
        (machine.python((3, 13, 0), "python"), "ok", "3.13.0"),
        (machine.cpu(8, 1.0, frozenset({"avx2"})), "warning", "cgroup allows 1 of 8"),
        (machine.cpu(8, None, frozenset({"sse"})), "warning", "AVX2"),
        (machine.cpu(8, None, frozenset({"avx2", "amx_bf16"})), "ok", "amx_bf16 yes"),
        (machine.memory(8 * 2**30, 2**30, None), "warning", "1.0 GiB free of 8.0"),
        (machine.memory(8 * 2**30, 7 * 2**30, 4 * 2**30), "ok", "of 4.0"),
        (machine.gpu(None, None), "ok", "CPU"),
        (machine.gpu("", "12.8"), "warning", "nvidia-smi"),
        (machine.gpu("H200", None), "warning", "CPU build"),
        (machine.gpu("H200", "12.8"), "ok", "CUDA 12.8"),
        (machine.platform(0, "CPU, ops: cpu", ""), "ok", "ops: cpu"),
        (machine.platform(0, "CPU", "plug-in 'npu' is left out: it broke"), "warning", "'npu' is left out"),
        (machine.platform(1, "", "Traceback\nPlatformUnavailable: no xpu:7 here"), "problem", "no xpu:7 here"),
        (machine.compiler(None, True), "problem", "gcc"),
        (machine.compiler(None, False), "ok", "none"),
        (machine.text("ascii", "utf-8"), "warning", "LANG"),
        (machine.files(256, 4096), "warning", "ulimit"),
        (machine.files(-1, -1), "ok", "unlimited"),
        (machine.extras(lambda name: name == "transformers"), "ok", "installed: train; not installed: local"),
        (disk.space(100 * 2**20), "problem", "512 MB needed"),
        (disk.space(2**30), "warning", "1.0 GiB"),
        (servers.nats_version("nats", "nats-server: v2.10.4", "here"), "problem", "too old"),
        (servers.nats_version("nats", "hello", "here"), "problem", "does not tell"),
        (servers.postgres_version("postgres", "postgres (PostgreSQL) 11.2", "here"), "problem", "too old"),
        (servers.postgres_version("postgres", "postgres (PostgreSQL) 18beta1", "here"), "ok", "18"),
        (servers.clock(0, 0.05, 50_000), "problem", "2025"),
        (servers.clock(servers.EARLIEST, 0.05, servers.EARLIEST + 3_000_000), "warning", "jumped"),
        (servers.clock(servers.EARLIEST, 0.05, servers.EARLIEST + 50_000), "ok", "set"),
    ],
    ids=lambda value: value.check if isinstance(value, Finding) else str(value),
)
def test_a_check_judges_what_it_is_told(finding: Finding, level: str, word: str) -> None:
    assert finding.level == level
    assert word in f"{finding.says}: {finding.mend}"
    assert bool(finding.mend) == (level != "ok")


@pytest.mark.parametrize(("text", "cores"), [("max 100000\n", None), ("150000 100000", 1.5)])
def test_a_control_group_says_how_many_cores_it_allows(text: str, cores: float | None) -> None:
    assert machine.cgroup_cores(text) == cores


def test_a_taken_port_is_named_with_who_has_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = ports.http_port("127.0.0.1", port, frozenset())
        assert found.level == "problem"
        assert f"process {os.getpid()}" in found.says
        assert ports.http_port("127.0.0.1", port, frozenset({port})).level == "ok"
        assert ports.server_ports({"nats": port}, frozenset()).level == "warning"


def test_a_data_directory_is_looked_at_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "data"
    assert disk.data(path).level == "ok"
    assert disk.sync(path).level != "problem"
    assert list(tmp_path.iterdir()) == []
    made = DataDirectory(path)
    made.open()
    assert "held by process" in disk.data(path).says
    made.close()
    assert "held by nobody" in disk.data(path).says
    (path / "format").write_text('{"format": 9, "shards": 4}', encoding="utf-8")
    assert disk.data(path).level == "problem"
    assert disk.data(Path(__file__)).level == "problem"
    assert disk.data(Path(__file__).parent).level == "problem"


def test_the_report_of_a_fine_machine_is_quick_plain_and_ends_well(tmp_path: Path) -> None:
    begun = time.monotonic()
    done = doctor("--data", str(tmp_path / "data"), "--port", free_port())
    assert time.monotonic() - begun < 10
    assert done.returncode == 0, done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {"ok", "warning"}


def test_a_problem_ends_in_a_non_zero_code_and_json_is_one_object(tmp_path: Path) -> None:
    (tmp_path / "format").write_text('{"format": 9, "shards": 4}', encoding="utf-8")
    dead = f"nats://someone:hidden@127.0.0.1:{free_port()}"
    done = doctor("--json", "--data", str(tmp_path), "--port", free_port(), "--nats", dead)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["ok"] is False
    wrong = {finding["check"] for finding in report["findings"] if finding["level"] == "problem"}
    assert wrong == {"data", "nats"}
    assert "hidden" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_what_is_configured_is_what_is_looked_at(tmp_path: Path) -> None:
    agents = tmp_path / "agents.py"
    agents.write_text("import sys\nsys.exit(3)\n", encoding="utf-8")
    file = tmp_path / "settings.toml"
    file.write_text(f'agents = ["{agents}"]\n[engine]\nmodel = "/nowhere"\n', encoding="utf-8")
    dead = f"postgresql://someone:hidden@127.0.0.1:{free_port()}/x"
    argv = ("--json", "--config", str(file), "--data", str(tmp_path / "data"), "--port", "0")
    done = doctor(*argv, OSTINATO_POSTGRES=dead)
    assert done.returncode == 1
    wrong = {each["check"]: each for each in json.loads(done.stdout)["findings"] if each["level"] == "problem"}
    assert wrong.keys() == {"postgres", "model", "agents"}
    assert wrong["model"]["says"] == "model '/nowhere': there is no such folder"
    assert "in line 2: SystemExit: 3" in wrong["agents"]["says"]
    assert "hidden" not in done.stdout + done.stderr


def test_colour_is_forced_and_forbidden_as_everywhere(tmp_path: Path) -> None:
    argv = ("--data", str(tmp_path), "--port", free_port())
    assert "\x1b[" in doctor(*argv, FORCE_COLOR="1", NO_COLOR="").stdout
    assert "\x1b" not in doctor(*argv, FORCE_COLOR="1", NO_COLOR="1").stdout
