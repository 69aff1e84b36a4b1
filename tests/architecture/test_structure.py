"""The house's own rules, where no linter knows them."""

from __future__ import annotations

import argparse
import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.cli.main import parser

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "bus", "engine", "actors", "infra")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "--quick" in path.read_text(encoding="utf-8")]
FORBIDDEN = {"utils", "helpers", "common", "misc", "base", "manager"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 50
MOST_METHODS = 15
MOST_MODULES_OF_HELP = 12

# a file or function may be longer for a reason, given here
LONGER_FILES: dict[str, str] = {}
LONGER_FUNCTIONS: dict[str, str] = {
    "bus/streams.py:stream_configs": "the streams are data, told in one place",
}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_is_a_noun_of_the_domain_and_not_too_long(path: Path) -> None:
    assert path.stem not in FORBIDDEN
    if _name(path) not in LONGER_FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_functions_fit_on_half_a_screen_and_classes_stay_small(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            length = (node.end_lineno or 0) - first.lineno + 1
            assert length <= LONGEST_FUNCTION or f"{_name(path)}:{node.name}" in LONGER_FUNCTIONS, node.name
        if isinstance(node, ast.ClassDef):
            public = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name[0] != "_"]
            assert len(public) <= MOST_METHODS, node.name


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=_name)
def test_the_init_of_a_folder_holds_only_its_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_every_exception_listed_here_is_still_needed() -> None:
    for name in LONGER_FILES:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) > LONGEST_FILE


def test_the_public_api_is_the_list_we_agreed_on() -> None:
    module = importlib.import_module("ostinato")
    assert module.__all__ == [
        *("About", "Agent", "Answer", "Answered", "Approval", "BatchParts", "CallFailed", "Choice", "Classified"),
        *("Classifier", "ClassifierProcessor", "Client", "Combined", "CostControl", "DefinitionError", "Delegated"),
        *("Delegation", "Embedder", "Fetcher", "Filtered", "Fixed", "Goal", "GoalVerdict", "GoalView", "InDoubt"),
        *("Joined", "Judged", "McpTools", "Memory", "Mode", "ModelChain", "ModelEntry", "ModelSelection", "NoAnswer"),
        *("Permission", "Permitted", "Prefixed", "Processor", "Refused", "RegexFilter", "Renamed", "RequestContext"),
        *("RoutedEmbedder", "RunEnd", "Running", "ScheduleUnfit", "SchemaValidator", "Score", "SemanticRecall"),
        *("Services", "SettlementRefused", "Skill", "Skills", "Standing", "StepChanges", "StepView"),
        *("StructuredOutput", "Surroundings", "SystemPromptScrubber", "TaskItem", "TaskList", "ThreadUnfit"),
        *("TokenLimiter", "Tool", "ToolCallFilter", "ToolContext", "ToolSearch", "ToolUse", "ToolUsed", "Toolset"),
        *("Translator", "Tripped", "UnicodeNormalizer", "Waiting", "WordEmbedder", "YesNo", "agent_tool", "allow"),
        *("ask", "ask_user", "client_tool", "connect", "deny", "handoff", "inline", "language_detector", "moderation"),
        *("personal_data_detector", "prompt_injection_detector", "submit_plan", "switch_mode", "tool", "web_fetch"),
    ]
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("module", ["engine.core.scheduler", "engine.text.tokenizer", "infra.roles.agents", "ostinato"])
def test_torch_is_loaded_by_workers_alone(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def _commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and verb of the command line, as it is typed."""
    yield words
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for name, below in action.choices.items():
                yield from _commands(below, (*words, name))


@pytest.mark.parametrize("words", list(_commands(parser())), ids=lambda words: " ".join(words) or "ostinato")
def test_help_does_not_load_what_it_does_not_need(words: tuple[str, ...]) -> None:
    """Under 200 ms: an empty Python with argparse takes 50, the rest is what is imported, so that is counted."""
    code = (
        "import sys, argparse, gettext, locale, shutil\n"
        "before = set(sys.modules)\n"
        "import infra.cli.main as cli\n"
        f"try: cli.main([*{words!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = done.stderr.split()
    assert "usage: ostinato" in done.stdout
    assert not {"torch", "numpy", "nats", "asyncpg", "asyncio", "starlette", "msgspec"} & set(loaded)
    assert len(loaded) <= MOST_MODULES_OF_HELP, loaded


def test_no_session_of_ours_is_named_in_the_repository() -> None:
    """The repository must not know the machine it was written on."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    for name in files:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".sql"} and path != Path(__file__):
            assert "/work/" not in path.read_text(encoding="utf-8"), name


@pytest.mark.parametrize("script", SCRIPTS, ids=_name)
def test_a_benchmark_starts_by_itself(script: Path) -> None:
    argv = [sys.executable, str(script), "--help"]
    done = subprocess.run(argv, cwd=ROOT.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout
