"""How request bodies are described and checked; the bodies are in `schema_speech` and `schema_chat`.

Rule: what a client sends is used, or refused by name. Fields that we know of but do not support are
refused with that reason, unless they hold the value that asks for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from cadence.errors import InvalidRequest

__all__ = ["Body", "Sampling", "StopStrings", "Text", "conflict", "parse"]

MAX_MESSAGE_CHARS = 400
INT64 = 2**63
# How pydantic names the branch of a union in an error's path; clients know only their own fields.
_TYPES = frozenset({"str", "int", "float", "bool"})
_TAGS = frozenset(
    {"text", "input_audio", "audio_url"}
    | {"system", "developer", "user", "human", "assistant", "tool"}
    | {"tool_json_schemas", "function_output", "input"}
)

Text = Annotated[str, Field(json_schema_extra={"pattern": "^[^\\u0000]*$"})]
"""User text. `body` refuses NUL before any schema is asked; the document has to say so too."""

StopString = Annotated[str, Field(min_length=1, max_length=256)]
StopStrings = Annotated[
    StopString | Annotated[list[StopString], Field(max_length=16)],
    Field(description="The answer ends before the first of these."),
]
BodyT = TypeVar("BodyT", bound="Body")


class Body(BaseModel):
    """A JSON object of a request: nothing is coerced, nothing unknown passes.

    `unsupported` names fields that other servers have and we do not, each with the values that ask
    for nothing (null always does).
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name in cls.unsupported.keys() & data.keys():
            neutral = cls.unsupported[name]
            value = data[name]
            if value is not None and not any(value == n and type(value) in _kinds(n) for n in neutral):
                only = f" other than {' or '.join(map(repr, neutral))}" if neutral else ""
                raise PydanticCustomError(
                    "unsupported", f"'{name}'{only} is not supported by this server.", {"field": name}
                )
        return {name: value for name, value in data.items() if name not in cls.unsupported}


class Sampling(Body):
    """Fields that say how to sample; null means: as the server's default."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=INT64, description="-1 or 0: all.")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-INT64, lt=INT64)

    def given(self) -> dict[str, Any]:
        """The sampling fields that hold a value, by the names of `SamplingParams`."""
        return {name: value for name in Sampling.model_fields if (value := getattr(self, name)) is not None}


def _kinds(neutral: Any) -> tuple[type, ...]:
    """Types in which JSON may write a neutral value: 1 and 1.0 are the same number, True is none."""
    return (int, float) if type(neutral) in (int, float) else (type(neutral),)


def parse(kind: type[BodyT], data: Any) -> BodyT:
    """Check a parsed JSON body against its description.

    Raises:
        InvalidRequest: names the first field at fault.
    """
    if not isinstance(data, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _explain(error.errors(include_url=False, include_input=False)) from None


def _explain(errors: list[ErrorDetails]) -> InvalidRequest:
    """The deepest error, and what else is wrong at the same place (branches of a union)."""
    params = [_param(error) for error in errors]
    param = max(params, key=lambda name: name.count("."))
    here = [error for error, name in zip(errors, params, strict=True) if name == param]
    kind = here[0]["type"]
    if kind == "extra_forbidden":
        text, code = f"Unknown field '{param}'.", "unknown_field"
    elif kind == "missing":
        text, code = f"Field '{param}' is required.", "missing_field"
    elif kind == "unsupported":
        text, code = here[0]["msg"], "unsupported_field"
    else:
        reasons = list(dict.fromkeys(_lower(error["msg"]) for error in here))
        text, code = f"Field '{param}' is not valid: {' or '.join(reasons)}.", "invalid_value"
    return InvalidRequest(text[:MAX_MESSAGE_CHARS], param=param[:MAX_MESSAGE_CHARS] or None, code=code)


def _param(error: ErrorDetails) -> str:
    """The dotted path of an error as the client wrote it."""
    loc = error["loc"]
    if error["type"] == "unsupported":
        loc = (*loc, error["ctx"]["field"])
    exact = error["type"] in ("extra_forbidden", "missing", "unsupported")
    kept = [
        str(step) for i, step in enumerate(loc) if (exact and i == len(loc) - 1) or not _is_branch(loc, i)
    ]
    return ".".join(kept)


def _is_branch(loc: tuple[int | str, ...], i: int) -> bool:
    """Whether step `i` names a branch of a union and not a key: a type, or a tag after a list index."""
    step = loc[i]
    if not isinstance(step, str):
        return False
    if "[" in step or "-" in step or step[:1].isupper() or step in _TYPES:  # list[...], constrained-str
        return True
    return step in _TAGS and i < len(loc) - 1 and isinstance(loc[i - 1], int)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def conflict(fields: Iterable[str]) -> InvalidRequest:
    """Two fields that mean the same were given different values."""
    names = list(fields)
    return InvalidRequest(
        f"{' and '.join(f'{name!r}' for name in names)} differ; send one of them.",
        param=names[0],
        code="conflicting_fields",
    )
