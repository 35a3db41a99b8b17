"""Every error that Cadence raises on purpose, as one tree.

    CadenceError                 anything below; `except CadenceError` catches what we mean to raise
    ├── RequestError             the request is at fault (4xx, never worth a retry)
    │   ├── InvalidRequest       400  a field is missing, of the wrong type, out of range or unsupported
    │   ├── PromptTooLong        400  prompt and answer do not fit the model's context
    │   ├── InvalidAudio         400  audio that cannot be decoded, is empty, or is past a limit
    │   ├── Unauthorized         401  missing or wrong API key
    │   ├── Forbidden            403  a URL or path that this server may not read
    │   ├── NotFound             404  unknown model, route or object
    │   ├── RequestTimeout       408  the client stopped sending its request
    │   ├── Conflict             409  what is to be made exists already
    │   ├── PayloadTooLarge      413  body, upload or decoded audio over its limit
    │   ├── UnsupportedMediaType 415  a body that is not of the type or coding this route reads
    │   └── RequestAborted       499  the client went away or the caller aborted it
    ├── ServiceError             the server is at fault (5xx)
    │   ├── Overloaded           429  queue full; `retry_after_s` says when to come back
    │   ├── NotReady             503  starting, draining or restarting
    │   ├── DeadlineExceeded     504  a stage did not deliver in time
    │   ├── StorageFailed        500  what is kept on disk cannot be written, or is damaged
    │   ├── StageFailed          500  a stage raised or its process died while holding the request
    │   └── InternalError        500  a bug; the message never carries internals
    └── ConfigError              before serving: bad flag, YAML or checkpoint
        └── CheckpointError      a checkpoint file is missing, foreign or inconsistent

Each carries what the OpenAI error object needs: `code`, `http_status`, `param` and a `hint`.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "CadenceError",
    "CheckpointError",
    "ConfigError",
    "Conflict",
    "DeadlineExceeded",
    "Forbidden",
    "InternalError",
    "InvalidAudio",
    "InvalidRequest",
    "NotFound",
    "NotReady",
    "Overloaded",
    "PayloadTooLarge",
    "PromptTooLong",
    "RequestAborted",
    "RequestError",
    "RequestTimeout",
    "ServiceError",
    "StageFailed",
    "StorageFailed",
    "Unauthorized",
    "UnsupportedMediaType",
    "error_from_dict",
]


class CadenceError(Exception):
    """Root of the tree.

    Args:
        message: one full sentence that a client may see: what was expected and what came.
        param: the request field, flag or file key at fault, dotted (`messages.0.content`).
        hint: what to do about it, when that is not obvious from the message.
        code: machine-readable code, when the class's own is too broad (`voice_not_found`).
    """

    http_status: ClassVar[int] = 500
    error_type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.hint = hint
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s

    def to_dict(self) -> dict[str, Any]:
        """Plain data that crosses a process border; `error_from_dict` is its inverse."""
        return {
            "kind": type(self).__name__,
            "message": self.message,
            "param": self.param,
            "hint": self.hint,
            "code": self.code,
            "retry_after_s": self.retry_after_s,
        }

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class RequestError(CadenceError):
    """The request is at fault; repeating it unchanged fails again."""

    http_status = 400
    error_type = "invalid_request_error"
    default_code = "invalid_request"


class InvalidRequest(RequestError):
    """A field is missing, of the wrong type, out of range or not supported."""


class PromptTooLong(RequestError):
    """Prompt plus requested answer do not fit the model's context."""

    default_code = "context_length_exceeded"


class InvalidAudio(RequestError):
    """Audio that cannot be decoded, holds no samples, or is past a limit."""

    default_code = "invalid_audio"


class Unauthorized(RequestError):
    """Missing or wrong API key."""

    http_status = 401
    error_type = "authentication_error"
    default_code = "invalid_api_key"


class Forbidden(RequestError):
    """A URL or path that this server is not allowed to read."""

    http_status = 403
    error_type = "permission_error"
    default_code = "forbidden"


class NotFound(RequestError):
    """Unknown model, route or stored object."""

    http_status = 404
    error_type = "not_found_error"
    default_code = "not_found"


class PayloadTooLarge(RequestError):
    """Body, upload or decoded audio is over its limit."""

    http_status = 413
    default_code = "payload_too_large"


class RequestTimeout(RequestError):
    """The client stopped sending before its request was complete."""

    http_status = 408
    default_code = "request_timeout"


class Conflict(RequestError):
    """What the request wants to make exists already, and must not be replaced."""

    http_status = 409
    default_code = "already_exists"


class UnsupportedMediaType(RequestError):
    """The body's Content-Type or Content-Encoding is not one this route reads."""

    http_status = 415
    default_code = "unsupported_media_type"


class RequestAborted(RequestError):
    """The client went away, or the caller aborted the request."""

    http_status = 499
    default_code = "request_aborted"


class ServiceError(CadenceError):
    """The server is at fault."""


class Overloaded(ServiceError):
    """Admission limits are reached; come back after `retry_after_s`."""

    http_status = 429
    error_type = "rate_limit_error"
    default_code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: int = 1, **details: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **details)


class NotReady(ServiceError):
    """The server is starting, draining, or restarting a stage."""

    http_status = 503
    default_code = "not_ready"

    def __init__(self, message: str, *, retry_after_s: int = 2, **details: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **details)


class DeadlineExceeded(ServiceError):
    """A stage did not deliver within its time."""

    http_status = 504
    error_type = "timeout_error"
    default_code = "deadline_exceeded"


class StorageFailed(ServiceError):
    """What is kept on disk cannot be read or written, or is damaged; the message names no path."""

    default_code = "storage_failed"


class StageFailed(ServiceError):
    """A stage raised, or its process died, while it held the request."""

    default_code = "stage_failed"


class InternalError(ServiceError):
    """A bug of ours; the message says nothing of internals."""


class ConfigError(CadenceError):
    """A flag, environment variable or configuration file is wrong; raised before serving."""

    default_code = "bad_configuration"


class CheckpointError(ConfigError):
    """A checkpoint file is missing, foreign or inconsistent; names file, key, expected and found."""

    default_code = "bad_checkpoint"


def _kinds(root: type[CadenceError]) -> dict[str, type[CadenceError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _kinds(child)
    return found


def error_from_dict(data: dict[str, Any]) -> CadenceError:
    """Rebuild an error that crossed a process border; an unknown kind becomes `InternalError`."""
    kind = _kinds(CadenceError).get(str(data.get("kind")), InternalError)
    details = {k: data[k] for k in ("param", "hint", "code", "retry_after_s") if data.get(k) is not None}
    return kind(str(data.get("message", "Unknown error.")), **details)
