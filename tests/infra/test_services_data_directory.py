"""A data directory has one holder, one format and one number of shards."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.errors import AlreadyRunning, DataDirectoryVersion, DiskTooFull, ForeignDirectory, ShardsDiffer
from infra.services.data_directory import DataDirectory, Runtime


def test_a_second_holder_learns_who_the_first_is_and_where_it_serves(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path)
    first.open()
    first.write_runtime(Runtime(pid=os.getpid(), urls={"http": "http://127.0.0.1:8000"}))
    with pytest.raises(AlreadyRunning, match=rf"process {os.getpid()} .* http://127.0.0.1:8000") as refused:
        DataDirectory(tmp_path).open()
    assert refused.value.pid == os.getpid()
    first.close()
    second = DataDirectory(tmp_path)
    second.open()
    second.close()


def test_ports_that_are_remembered_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.open()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: directory.remember_port(f"server-{number}", 5000 + number), range(40)))
    assert [directory.port(f"server-{number}") for number in range(40)] == list(range(5000, 5040))
    directory.close()


def test_a_holder_that_has_not_said_who_it_is_holds_all_the_same(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path)
    first.open()
    with pytest.raises(AlreadyRunning, match="another process already runs"):
        DataDirectory(tmp_path).open()
    first.close()


def test_little_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DiskTooFull, match=r"only 100 MB free .* 512 MB needed") as full:
        DataDirectory(tmp_path, free=lambda _: 100 * 2**20).open()
    assert full.value.free == 100 * 2**20
    assert not (tmp_path / "format").exists()
    DataDirectory(tmp_path).open()


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "format").write_text('{"format": 9, "shards": 4}', encoding="utf-8")
    with pytest.raises(DataDirectoryVersion, match="has data format 9, this version of Ostinato reads 1"):
        DataDirectory(tmp_path).open()


def test_a_format_file_that_cannot_be_read_is_another_version(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("hello", encoding="utf-8")
    with pytest.raises(DataDirectoryVersion, match="'hello'"):
        DataDirectory(tmp_path).open()


def test_the_number_of_shards_is_fixed_when_the_directory_is_made(tmp_path: Path) -> None:
    made = DataDirectory(tmp_path, shards=4)
    made.open()
    made.close()
    with pytest.raises(ShardsDiffer, match="made with 4 shards and cannot be used with 8"):
        DataDirectory(tmp_path, shards=8).open()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ForeignDirectory, match=r"thesis\.tex"):
        DataDirectory(tmp_path).open()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_start_that_failed_half_way_can_be_made_again(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "format.new").touch()
    directory = DataDirectory(tmp_path)
    directory.open()
    directory.close()


def test_ports_and_runtime_are_remembered(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.open()
    assert directory.port("nats") is None
    assert directory.read_runtime() is None
    directory.remember_port("nats", 4321)
    directory.remember_port("postgres", 5432)
    directory.write_runtime(Runtime(pid=1, pids={"nats": 2}))
    assert DataDirectory(tmp_path).port("nats") == 4321
    assert DataDirectory(tmp_path).read_runtime() == Runtime(pid=1, pids={"nats": 2})
    directory.remove_runtime()
    assert directory.read_runtime() is None
    directory.close()
