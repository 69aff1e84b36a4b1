"""Says whether spans are wanted, and makes what sends them: OpenTelemetry is loaded only then."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bus.store import Store
from infra.errors import ExporterUnknown
from infra.settings import TelemetrySettings
from infra.spans.content import NoContent, Redacted
from infra.spans.names import NAMES

if TYPE_CHECKING:
    from infra.spans.exporting import SpanExport
    from infra.spans.sending import SdkSender, WholeSender

_WHERE_TO = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def span_export(
    store: Store, settings: TelemetrySettings, environment: Mapping[str, str] = os.environ
) -> SpanExport | None:
    """Make what follows the record and sends spans; None where they are not wanted.

    Raises:
        ExporterUnknown: they are, and the variables name no exporter that there is.
    """
    if not wanted(settings, environment):
        return None
    export = importlib.import_module("infra.spans.exporting").SpanExport
    made: SpanExport = export(store, sender(environment), NAMES[settings.conventions], content(settings, environment))
    return made


def sender(environment: Mapping[str, str] = os.environ) -> SdkSender:
    """Make the sender that the variables ask for.

    Raises:
        ExporterUnknown: they name none that there is, or OpenTelemetry is not installed.
    """
    made: SdkSender = _made("sender_from", environment)
    return made


def whole_sender(environment: Mapping[str, str] = os.environ) -> WholeSender:
    """Make the one that leaves nothing out, likewise.

    Raises:
        ExporterUnknown: they name none that there is, or OpenTelemetry is not installed.
    """
    made: WholeSender = _made("whole_sender_from", environment)
    return made


def _made(name: str, environment: Mapping[str, str]) -> Any:
    try:
        return getattr(importlib.import_module("infra.spans.sending"), name)(environment)
    except ModuleNotFoundError as error:
        raise ExporterUnknown("spans", "wanted", f"pip install 'ostinato[telemetry]' ({error})") from error


def wanted(settings: TelemetrySettings, environment: Mapping[str, str] = os.environ) -> bool:
    """Say whether spans are to be sent."""
    if settings.spans == "off" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return settings.spans == "on" or any(environment.get(name) for name in _WHERE_TO)


def content(settings: TelemetrySettings, environment: Mapping[str, str] = os.environ) -> NoContent:
    """Say what spans tell of what was said: by the setting, or by OpenTelemetry's variable."""
    asked = environment.get(_CAPTURE, "").lower() in {"true", "span_only", "span_and_event"}
    return Redacted() if settings.content or asked else NoContent()
