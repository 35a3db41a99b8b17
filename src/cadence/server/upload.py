"""Forms that bring one recording."""

from __future__ import annotations

from typing import TypeVar

from cadence.errors import InvalidRequest
from cadence.server.form import Form
from cadence.server.schema import Body, parse

__all__ = ["parse_upload"]

BodyT = TypeVar("BodyT", bound=Body)


def parse_upload(kind: type[BodyT], form: Form, file_name: str) -> tuple[BodyT, bytes]:
    """The text fields, checked, and the bytes of the one file.

    Raises:
        InvalidRequest: names the first field at fault; files that the route does not know are fields too.
    """
    others = {name: "a file" for name in form.files if name != file_name}
    texts = {name: value for name, value in form.fields.items() if name != file_name}
    body = parse(kind, texts | others)
    if file_name in form.fields:
        raise InvalidRequest(f"Field {file_name!r} must be a file.", param=file_name, code="invalid_value")
    if file_name not in form.files:
        raise InvalidRequest(f"Field {file_name!r} is required.", param=file_name, code="missing_field")
    return body, form.files[file_name]
