"""The description of the endpoints for programs (OpenAPI 3.1), from the forms that read the requests."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from asd import __version__
from asd.serving.endpoint.bodies import FORMS
from asd.serving.endpoint.past.feedback import Feedback

__all__ = ["document"]

REFERENCE = "#/components/schemas/{name}"
WRONG = {
    "400": "A field is wrong, or asks for what is not supported",
    "401": "No valid key",
    "403": "Not this host",
}
POSTED = WRONG | {
    "404": "No such model or stage",
    "408": "The body came too slowly",
    "413": "The body is too large",
    "415": "The body is not JSON",
    "429": "Too many requests, or a cap on spend",
    "500": "The server failed",
    "503": "No stage could answer, or the server does not take requests now",
    "504": "The deadline came before any answer",
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


@cache
def document() -> dict[str, Any]:
    """The whole description."""
    bodies, schemas = msgspec.json.schema_components(FORMS.values(), ref_template=REFERENCE)
    chat, text = ({"content": {"application/json": {"schema": body}}, "required": True} for body in bodies)
    return {
        "openapi": "3.1.0",
        "info": {"title": "asd", "version": __version__},
        "components": {
            "schemas": {**schemas, "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/chat/completions": {"post": _posted("Answer a conversation", chat)},
            "/v1/completions": {"post": _posted("Answer a prompt", text)},
            "/v1/models": {"get": _got("The cascade, and every stage by itself")},
            "/v1/models/{model}": {"get": _got("One of them", "model")},
            "/v1/asd/feedback": {"post": _scored()},
            "/v1/asd/requests/{request}": {"get": _got("How a request was answered", "request")},
            "/metrics": {"get": _got("Counters in the text format of Prometheus", kind="text/plain")},
            "/health": {"get": _got("The server runs")},
            "/ready": {"get": _got("Whether requests are taken") | _also_unready()},
            "/openapi.json": {"get": _got("This description")},
        },
    }


def _posted(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    answered = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {}}}
    return {
        "summary": summary,
        "requestBody": body,
        "responses": {"200": {"description": "The answer", "content": answered}, **_failed(POSTED)},
    }


def _scored() -> dict[str, Any]:
    content = {"application/json": {"schema": msgspec.json.schema(Feedback)["$defs"]["Feedback"]}}
    statuses = {"404": "No such request", "408": "", "409": "It was scored otherwise", "413": "", "415": ""}
    failed = _failed(WRONG | {status: why or POSTED[status] for status, why in statuses.items()})
    found = {
        "description": "All scores of it",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
    return {
        "summary": "Score the answer to a request",
        "requestBody": {"content": content, "required": True},
        "responses": {"200": found, **failed},
    }


def _got(summary: str, parameter: str | None = None, kind: str = "application/json") -> dict[str, Any]:
    within = {"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}
    failed = WRONG | {"404": "There is none"} if parameter else WRONG
    form = {"type": "object" if kind == "application/json" else "string"}
    found = {"description": summary, "content": {kind: {"schema": form}}}
    return {
        "summary": summary,
        "parameters": [within] if parameter else [],
        "responses": {"200": found, **_failed(failed)},
    }


def _also_unready() -> dict[str, Any]:
    states = _got("Whether requests are taken")["responses"]
    return {"responses": states | {"503": states["200"]}}


def _failed(statuses: dict[str, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": REFERENCE.format(name="Error")}}}
    return {status: {"description": why, "content": content} for status, why in statuses.items()}
