"""Multipart forms: files and text fields, read with limits.

Fields are named as the official clients name them: `name[]` for each item of a list, `name[key]` for an
object. Everything is text until a schema has looked at it.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from cadence.errors import InvalidRequest, UnsupportedMediaType
from cadence.server.body import body_chunks, check_text

__all__ = ["Form", "read_form"]

_MAX_FIELDS = 256
_MAX_FIELD_BYTES = 1 << 20
_FORM_TYPE = re.compile(r"multipart/form-data\s*;.*boundary=.*", re.IGNORECASE)
_NAME = re.compile(r"([^\[\]]+)(?:\[([^\[\]]*)\])?")


@dataclass(slots=True)
class Form:
    """What a form holds: text by name (lists and one level of objects among it), and files by name."""

    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, value: str) -> None:
        """Add one text field. A plain name that comes again makes a list of its values.

        Raises:
            InvalidRequest: a name that makes no sense, or that is both a value and an object.
        """
        check_text(name)
        check_text(value)
        match = _NAME.fullmatch(name)
        if match is None:
            raise InvalidRequest(f"{name[:100]!r} is no field name.", code="unknown_field")
        plain, key = match.groups()
        there = self.fields.get(plain)
        if key:  # name[key]
            there = self.fields.setdefault(plain, {})
            if not isinstance(there, dict) or key in there:
                raise _twice(plain)
            there[key] = value
        elif isinstance(there, dict):
            raise _twice(plain)
        elif isinstance(there, list):
            there.append(value)
        elif there is not None:
            self.fields[plain] = [there, value]
        else:
            self.fields[plain] = value if key is None else [value]


async def read_form(request: Request, *, max_bytes: int, stall_s: float, max_files: int = 1) -> Form:
    """Read a multipart body. Large files wait on disk until all is there.

    Raises:
        UnsupportedMediaType: another Content-Type, or a Content-Encoding.
        PayloadTooLarge, RequestTimeout, RequestAborted: see `body.body_chunks`.
        InvalidRequest: no valid form, too many fields, or a name twice.
    """
    if not _FORM_TYPE.fullmatch(request.headers.get("content-type", "").strip()):
        raise UnsupportedMediaType("The body must be a form, with Content-Type: multipart/form-data.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The body must not be compressed.")
    async with contextlib.aclosing(body_chunks(request, max_bytes=max_bytes, stall_s=stall_s)) as chunks:
        parser = MultiPartParser(
            request.headers,
            chunks,
            max_files=max_files,
            max_fields=_MAX_FIELDS,
            max_part_size=_MAX_FIELD_BYTES,
        )
        try:
            parsed = await parser.parse()
        except MultiPartException as error:
            raise InvalidRequest("The body is not a valid form.", code="invalid_form") from error
    try:
        return await _collect(parsed.multi_items())
    finally:
        await parsed.close()


async def _collect(items: list[tuple[str, UploadFile | str]]) -> Form:
    form = Form()
    for name, value in items:
        if isinstance(value, str):
            form.add(name, value)
            continue
        check_text(name)
        if name in form.files:
            raise _twice(name)
        form.files[name] = await value.read()
    return form


def _twice(name: str) -> InvalidRequest:
    return InvalidRequest(f"The form holds {name[:100]!r} twice.", param=name[:100], code="invalid_form")
