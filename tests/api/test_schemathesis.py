"""Our OpenAPI document, taken at its word: requests made from it meet no 5xx and no undescribed answer.

Both valid requests and ones that break the document in some way; the seed is fixed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from cadence.server.app import create_app

from .conftest import Live, run_live

SEED = 20
EXAMPLES = 10  # of each operation and mode
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CONFIG = ServerConfig(allow_url_fetch=False)
SCHEMA = schemathesis.openapi.from_dict(create_app(FakeEngine(), CONFIG).openapi())
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
CASES = [
    pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
    for operation in OPERATIONS
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode is GenerationMode.POSITIVE or operation.method == "post"
]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    """A server that reads nothing from elsewhere."""
    with run_live(FakeEngine(), CONFIG) as live:
        yield live


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_operation(server: Live, operation: schemathesis.APIOperation, mode: GenerationMode) -> None:
    print("seed", SEED)

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(mode))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=server.url, checks=CHECKS)

    check()


def test_all_operations_are_asked() -> None:
    assert {operation.path for operation in OPERATIONS} == set(SCHEMA.raw_schema["paths"])
