"""The bridge keeps to its own document: requests made from it, good ones and bad ones, never come to a 5xx.

By Schemathesis, which draws requests from the document's schemas and checks the answers against it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.system.conftest import UpProcess

pytestmark = pytest.mark.servers

EXAMPLES = 8
"""Of requests to each route: some fit the document, some do not."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
BOUND = {"max_tokens": 4, "stream": False, "wait_s": 0}
"""What keeps an answer short, where a request would have it."""


@pytest.fixture(scope="module")
def document(stack: UpProcess) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{stack.url}/openapi.json", timeout=30).json()
    return found


def ask(up: UpProcess, cases: st.SearchStrategy[Any]) -> int:
    """Make some requests; say how many."""
    asked = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(case=cases)
    def once(case: Any) -> None:
        nonlocal asked
        asked += 1
        if isinstance(case.body, dict):
            case.body |= {name: value for name, value in BOUND.items() if name in case.body}
        case.call_and_validate(base_url=up.url, checks=CHECKS, timeout=60)

    once()
    return asked


def test_no_request_made_from_the_document_breaks_the_bridge(stack: UpProcess, document: dict[str, Any]) -> None:
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 50
    asked = 0
    for operation in operations:
        for mode in schemathesis.GenerationMode:
            with contextlib.suppress(Unsatisfiable):  # nothing is wrong with a request that has nothing in it
                asked += ask(stack, operation.as_strategy(generation_mode=mode))
    assert asked > 300
