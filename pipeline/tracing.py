"""What a run does as spans of OpenTelemetry, where `OTEL_TRACES_EXPORTER` asks for them; else nothing at all.

A job is a trace: the spans of its parts (plan, score, publish, ...) are the driver's, and each shard's is made on the
driver from its done-record, so that workers export nothing. The shards' times are thus by the workers' clocks.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from pipeline.errors import BertmillError

EXPORTER_VARIABLE = "OTEL_TRACES_EXPORTER"
_PARENT_VARIABLES = ("TRACEPARENT", "TRACESTATE")  # https://opentelemetry.io/docs/specs/otel/context/env-carriers/
_EXPORTER_PACKAGES = {"console": "opentelemetry.sdk", "otlp": "opentelemetry.exporter.otlp.proto.http"}
_FLUSH_MS = 5_000

_tracer: Any = None


@contextlib.contextmanager
def traced(name: str, **attributes: object) -> Iterator[None]:
    """One trace for a job of this name, exported as `OTEL_TRACES_EXPORTER` says.

    That is `console` (to stderr), `otlp` (over HTTP) or `none`; where to and as what, the other standard variables say
    (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_RESOURCE_ATTRIBUTES`, ...). Where `TRACEPARENT` names a span, the job is part
    of it. What cannot be exported is said, and fails no job.
    """
    global _tracer
    exporter = _open_exporter()
    if exporter is None or _tracer is not None:
        yield
        return
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)  # not the process's: Ray has its own
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("bertmill")
    try:
        with _started(f"bertmill {name}", attributes, _parent()):
            yield
    finally:
        _tracer = None
        provider.force_flush(_FLUSH_MS)
        provider.shutdown()


@contextlib.contextmanager
def span(name: str, **attributes: object) -> Iterator[None]:
    """A part of the job, as a block or, by `@span(...)`, a function; nothing where nobody asked for spans."""
    if _tracer is None:
        yield
        return
    with _started(name, attributes):
        yield


def annotate_span(**attributes: object) -> None:
    """Say more of the part that runs now."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(_named(attributes))


def trace_variables() -> dict[str, str]:
    """The variables by which a process that is started now goes on with this trace; none where there is no trace."""
    if _tracer is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {name.upper(): value for name, value in carrier.items()}


def add_span(name: str, ended_s: float, elapsed_s: float, **attributes: object) -> None:
    """A part that was done elsewhere, and ended `ended_s` seconds after 1970."""
    if _tracer is not None:
        start_ns, end_ns = int((ended_s - elapsed_s) * 1e9), int(ended_s * 1e9)
        _tracer.start_span(name, attributes=_named(attributes), start_time=start_ns).end(end_ns)


@contextlib.contextmanager
def _started(name: str, attributes: Mapping[str, object], parent: Any = None) -> Iterator[None]:
    from opentelemetry.trace import Status, StatusCode

    made = _tracer.start_as_current_span(
        name, parent, attributes=_named(attributes), record_exception=False, set_status_on_exception=False
    )
    with made as current:
        try:
            yield
        except BaseException as error:
            if not (isinstance(error, BertmillError) and error.exit_code == 0):
                current.set_status(Status(StatusCode.ERROR, str(error)))
            current.set_attribute("error.type", type(error).__name__)
            raise


def _named(attributes: Mapping[str, object]) -> dict[str, Any]:
    return {f"bertmill.{name}": value for name, value in attributes.items() if value is not None}


def _open_exporter() -> Any:
    found = os.environ.get(EXPORTER_VARIABLE) or "none"
    if found == "none":
        return None
    if found not in _EXPORTER_PACKAGES:
        return _say(f"{found!r} is none of {', '.join(_EXPORTER_PACKAGES)}, none")
    if not _is_installed(_EXPORTER_PACKAGES[found]):
        return _say(f"{found} needs packages that are not here: pip install 'bertmill[otel]'")
    if found == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return ConsoleSpanExporter(out=sys.stderr, formatter=lambda each: each.to_json(indent=None) + "\n")


def _say(reason: str) -> None:
    """Other programs read the variable too: what bertmill makes of it must not stop a night."""
    print(f"note: {EXPORTER_VARIABLE}: {reason}; nothing is traced", file=sys.stderr)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def _resource() -> Any:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create() if named else Resource.create({SERVICE_NAME: "bertmill"})


def _parent() -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    given = {name.lower(): os.environ[name] for name in _PARENT_VARIABLES if os.environ.get(name)}
    return TraceContextTextMapPropagator().extract(given)
