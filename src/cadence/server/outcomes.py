"""How recent speech requests ended, for clients of raw streams: a stream of samples cannot say it itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from cadence.errors import NotFound
from cadence.server.errors import as_cadence_error, error_object
from cadence.server.schema_answers import ErrorDetail, SpeechOutcome
from cadence.server.usage import speech_usage
from cadence.types import Done

__all__ = ["Outcomes"]

MAX_KEPT = 1024


class Outcomes:
    """The last outcomes by request id; the oldest make room. Holds counts and reasons, no content."""

    def __init__(self, max_kept: int = MAX_KEPT) -> None:
        self._max_kept = max_kept
        self._kept: OrderedDict[str, SpeechOutcome] = OrderedDict()

    def find(self, request_id: str) -> SpeechOutcome:
        """What became of a request; raises NotFound."""
        if request_id not in self._kept:
            raise NotFound("No recent speech request has this id.", param="request_id")
        return self._kept[request_id]

    @contextmanager
    def follow(self, request_id: str) -> Iterator[SpeechOutcome]:
        """Keep the outcome of the work in the block: "running" until it is left, then how it ended.

        Leaving without `complete` means that the client went away, or the error that is passing.
        """
        outcome = SpeechOutcome(request_id=request_id)
        self._kept[request_id] = outcome
        self._kept.move_to_end(request_id)
        while len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
        try:
            yield outcome
        except Exception as error:
            outcome.status = "failed"
            outcome.error = ErrorDetail(**error_object(as_cadence_error(error)))
            raise
        finally:
            if outcome.status == "running":
                outcome.status = "aborted"

    @staticmethod
    def complete(outcome: SpeechOutcome, done: Done) -> None:
        """The engine has ended the answer."""
        outcome.status = "completed"
        outcome.finish_reason = done.finish_reason
        outcome.usage = speech_usage(done.usage)
