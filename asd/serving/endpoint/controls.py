"""What a request may decide for itself: how good, how dear, how late, by whom, and what is shown meanwhile.

    {"model": "asd", "messages": [...], "asd": {"lam": 5, "deadline_s": 2}}      in the body (`extra_body`)
    {"model": "asd", "messages": [...], "lam": 5, "deadline_s": 2}               or beside the other fields
    x-asd-lam: 5                                                                 in a header
    {"model": "asd/lam-5", ...}, "asd/quality-0.95", "asd/always-L"              in the model's name

The same control may be given in several of these places if the values agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from asd.serving.endpoint.refusals import RequestError
from asd.types import AnswerKind

__all__ = ["CONTROLS", "HEADER", "MODEL", "Controls", "Priority", "Show", "read_controls"]

MODEL = "asd"
"""The cascade's name; those of its settings begin with it and a slash."""
HEADER = "x-asd-"
FIXED = "always-"
"""Before the name of a stage that answers alone."""

Show = Literal["hold", "verified", "draft"]
Priority = Literal["low", "normal", "high"]
_Share = Annotated[float, Meta(gt=0, le=1)]
_Weight = Annotated[float, Meta(ge=0, le=1e6)]
_Positive = Annotated[float, Meta(gt=0, le=1e9)]


class Controls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The controls of one request; None: as the server has it.

    Attributes:
        lam: Runs of the largest stage that one fully right answer is worth.
        quality: Share of the reference's quality to keep over the stream of requests at this setting.
        budget: Most that the request may cost, in the ladder's price unit.
        deadline_s: Seconds from the arrival of the request, all attempts included.
        stages: Those that may answer and verify.
        show: What a stream may show before the cascade has stopped: "hold": nothing; "verified": what the
            largest stage allowed has verified; "draft": every answer as it comes, replaced by a better one.
        answers: What kind of answer is expected, where the policy was fitted on several.
        priority: Who is refused first, and before that answered by the smallest stage, when many ask.
    """

    lam: _Weight | None = None
    quality: _Share | None = None
    budget: _Positive | None = None
    deadline_s: _Positive | None = None
    stages: tuple[str, ...] | None = None
    show: Show | None = None
    answers: AnswerKind | None = None
    priority: Priority | None = None

    def __post_init__(self) -> None:
        if self.lam is not None and self.quality is not None:
            raise ValueError("give lam or quality, not both")
        if self.stages is not None and not self.stages:
            raise ValueError("stages is empty; name at least one, or leave it out")

    @property
    def is_own(self) -> bool:
        """The request gets the server's own setting: it says nothing of quality."""
        return self.lam is None and self.quality is None and self.stages is None

    @property
    def given(self) -> dict[str, Any]:
        """Those that the request names."""
        return {name: value for name, value in msgspec.to_builtins(self).items() if value is not None}


CONTROLS = Controls.__struct_fields__


def read_controls(
    model: str, headers: Iterable[tuple[str, str]], fields: Mapping[str, Any], nested: object
) -> Controls:
    """The controls of one request, from everywhere they may stand.

    Args:
        model: The name that the request gives.
        headers: Names in lower case.
        fields: Fields of the body that are controls and not null.
        nested: The body's field "asd".

    Raises:
        RequestError: No such model or control, a value out of range, or two places disagree.
    """
    if nested is not None and not isinstance(nested, dict):
        raise RequestError(400, "asd: expected an object of controls", param="asd")
    inside = {name: value for name, value in (nested or {}).items() if value is not None}
    places = [_of_model(model), _of_headers(headers), dict(fields), inside]
    merged: dict[str, Any] = {}
    for controls in (_converted(place) for place in places if place):
        for name, value in controls.given.items():
            if merged.setdefault(name, value) != value:
                raise RequestError(400, f"{name} is given twice: {merged[name]!r} and {value!r}", param=name)
    return _converted(merged)


def _of_model(model: str) -> dict[str, Any]:
    name, slash, setting = model.partition("/")
    what, dash, value = setting.partition("-")
    if model == MODEL:
        return {}
    if name == MODEL and slash and dash and value:
        if what == FIXED.rstrip("-"):
            return {"stages": [value]}
        if what in {"lam", "quality"}:
            return {what: _number(value)}
    raise RequestError(
        404,
        f"there is no model {model!r}; there are {MODEL}, {MODEL}/lam-NUMBER, {MODEL}/quality-NUMBER and "
        f"{MODEL}/{FIXED}STAGE (see /v1/models)",
        code="model_not_found",
        param="model",
    )


def _of_headers(headers: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Those that begin with `HEADER`; dashes stand for the underscores that some proxies drop."""
    found: dict[str, Any] = {}
    for header, value in headers:
        if not header.startswith(HEADER):
            continue
        name = header.removeprefix(HEADER).replace("-", "_")
        if name in found:
            raise RequestError(400, f"the header {header} is given twice", param=header)
        text = value.strip()
        found[name] = text if name in {"show", "answers", "priority", "stages"} else _number(text)
    return found


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # the conversion of all controls reports it with its name


def _converted(fields: Mapping[str, Any]) -> Controls:
    """One place's controls; a text is taken for a list of stages with commas between them."""
    stages = fields.get("stages")
    if isinstance(stages, str):
        stages = [name.strip() for name in stages.split(",")]
    if isinstance(stages, list) and "" in stages:
        message = f"stages: {fields['stages']!r} has a stage without a name; write stages as S,L"
        raise RequestError(400, message, param="stages")
    read = fields if stages is None else {**fields, "stages": stages}
    try:
        return msgspec.convert(read, Controls)
    except msgspec.ValidationError as error:
        raise RequestError(
            400, f"asd: {error}; the controls are {', '.join(CONTROLS)}", param="asd"
        ) from error
