"""The bodies and answers of POST /tokenize and /detokenize."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field

from cadence.server.schema import Body, Text

__all__ = ["DetokenizeBody", "Detokenized", "TokenizeBody", "Tokenized"]

TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class TokenizeBody(Body):
    """A text to take apart. Names of control tokens in it are ordinary text."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"messages": (), "add_special_tokens": (False,)}

    prompt: Text
    model: str | None = None
    return_token_strs: bool | None = Field(None, description="With the text of each token.")


class DetokenizeBody(Body):
    """Ids to put together; those that stand for nothing give nothing."""

    tokens: Annotated[list[TokenId], Field(max_length=1_000_000)]
    model: str | None = None


class Tokenized(BaseModel):
    """The ids of a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(BaseModel):
    """The text of ids."""

    prompt: str
