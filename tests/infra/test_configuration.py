"""Settings from defaults, a file, the environment and flags: which one wins, and what a mistake is told."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.cli.main import parser
from infra.configuration import ConfigurationWrong, configure, data_directory

OSTINATO = Path(sys.executable).parent / "ostinato"


def written(folder: Path, text: str) -> str:
    path = folder / "my.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    file = written(tmp_path, 'port = 1\nhost = "a"\ndata = "file"\n[engine]\nkv_memory_mb = 1\n')
    settled = configure({"port": 3}, file, {"OSTINATO_PORT": "2", "OSTINATO_HOST": "b"})
    assert (settled.settings.port, settled.values["port"].origin) == (3, "--port")
    assert (settled.settings.host, settled.values["host"].origin) == ("b", "OSTINATO_HOST")
    assert (settled.settings.engine.kv_memory_mb, settled.settings.data) == (1, "file")
    assert settled.values["engine.kv_memory_mb"].origin == f"{file}:engine.kv_memory_mb"
    assert (settled.settings.shards, settled.values["shards"].origin) == (4, "default")


def test_a_model_gives_its_name_unless_another_is_asked_for() -> None:
    assert configure({"engine.model": "org/Thing-1B"}, None, {}).settings.engine.name == "Thing-1B"
    named = configure({"engine.model": "org/Thing-1B"}, None, {"OSTINATO_ENGINE_NAME": "thing"})
    assert named.settings.engine.name == "thing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "did you mean 'port'?"),
        ("kv_memory_mb = 1", "did you mean 'engine.kv_memory_mb'?"),
        ('port = "x"', "'port' cannot be 'x'"),
        ("port = 70000", "<= 65535"),
        ("[engine]\nthread = 1", "did you mean 'engine.threads'?"),
        ('[engine]\ndtype = "int3"', "'engine.dtype' cannot be 'int3'"),
        ("engine = 3", "there is no setting 'engine'"),
        ("port = ", "this is no TOML"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_it(text: str, said: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigurationWrong) as wrong:
        configure({}, file, {})
    assert str(wrong.value).startswith(file)
    assert said in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_a_mistake_in_the_environment_names_the_variable_and_the_nearest_one() -> None:
    with pytest.raises(ConfigurationWrong, match=r"OSTINATO_PROT.*did you mean 'OSTINATO_PORT'"):
        configure({}, None, {"OSTINATO_PROT": "1"})
    with pytest.raises(ConfigurationWrong, match=r"OSTINATO_PORT.*'port' cannot be 'x'"):
        configure({}, None, {"OSTINATO_PORT": "x"})
    assert configure({}, None, {"OSTINATO_TEST_WITNESS": "not ours"}).settings.port == 8000


def test_agents_in_the_environment_are_parted_by_commas() -> None:
    assert configure({}, None, {"OSTINATO_AGENTS": "a.py,b"}).settings.agents == ("a.py", "b")


def test_every_command_takes_the_configured_data_directory(tmp_path: Path) -> None:
    file = written(tmp_path, 'data = "elsewhere"')
    assert data_directory(None, {"OSTINATO_CONFIG": file}) == "elsewhere"
    assert data_directory("given", {"OSTINATO_CONFIG": file}) == "given"
    done = ostinato(tmp_path, "replay", "ls", OSTINATO_DATA="not-there")
    assert done.returncode == 1
    assert "not-there" in done.stderr


def test_config_show_says_where_each_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "ostinato.toml").write_text("port = 1\n", encoding="utf-8")
    done = ostinato(tmp_path, "config", "show", "--origin", "--json", "--host", "h", OSTINATO_SHARDS="2")
    shown = json.loads(done.stdout)
    assert shown["port"] == {"value": 1, "origin": "ostinato.toml:port"}
    assert shown["host"] == {"value": "h", "origin": "--host"}
    assert shown["shards"] == {"value": 2, "origin": "OSTINATO_SHARDS"}
    assert "ostinato.toml:port" in ostinato(tmp_path, "config", "show", "--origin").stdout


def test_a_named_file_that_is_missing_is_one_line(tmp_path: Path) -> None:
    done = ostinato(tmp_path, "config", "show", "--config", "nowhere.toml")
    assert done.returncode == 1
    assert done.stderr == (
        "ostinato: nowhere.toml: the configuration file cannot be read (No such file or directory): "
        "name another with --config\n"
    )


def ostinato(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OSTINATO, *words],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_page_on_configuration_tells_of_every_setting_and_its_flag() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    missing = [key for key in configure({}, None, {}).values if f"`{key}`" not in page]
    assert missing == []
    flags = {word for action in settings_flags() for word in action.option_strings if word.startswith("--")}
    assert [flag for flag in flags - {"--help", "--json"} if f"`{flag}`" not in page and f"`{flag} " not in page] == []


def settings_flags() -> list[argparse.Action]:
    [commands] = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return list(commands.choices["up"]._actions)
