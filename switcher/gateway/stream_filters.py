"""Filters that a stream's parts pass through, and that check whether it was complete."""

from __future__ import annotations

import json

from switcher.gateway import stream_errors
from switcher.gateway.endpoints import ApiStyle, StreamTerminator
from switcher.gateway.meter import USAGE_WINDOW, RequestUsage
from switcher.gateway.proxy_request import ProxyRequest
from switcher.gateway.translate import MAX_LINE_BYTES, ReplyTranslator

HEAD_BYTES = 4096  # bytes of the start of a stream, which has the response's id
STOPPED_EARLY = "The model stopped before its answer was complete."


class StreamFilter:
    """A filter that changes nothing; it counts tokens and checks that the stream ends properly."""

    def __init__(self, terminator: StreamTerminator, usage: RequestUsage) -> None:
        self.usage = usage
        self._terminator = terminator
        self._marks = terminator.value
        self._token_mark = stream_errors.TOKEN_MARKS.get(terminator, b"\n")
        self._tokens_seen = 0
        self._head = b""  # the first bytes
        self._tail = b"\n"  # the last bytes
        self._complete = False

    def feed(self, part: bytes) -> bytes:
        """Return what to send to the client for the next part of the stream, possibly nothing."""
        self._head = self._head or part[:HEAD_BYTES]
        self._tokens_seen += part.count(self._token_mark)
        window = self._tail + part
        self._complete = self._complete or any(mark in window for mark in self._marks)
        self._tail = window[-USAGE_WINDOW:]
        return part

    @property
    def stops_early(self) -> bool:
        """Return whether the rest of the host's stream can be ignored."""
        return False

    def rest(self) -> bytes:
        """Return what was held back, at the end of the stream."""
        return b""

    def problem(self) -> str:
        """Return what is wrong with the end of the stream; empty if nothing is."""
        return "" if self._complete else STOPPED_EARLY

    def count_tokens(self) -> None:
        """Read the token counts at the end of the stream, or count the parts if it was
        interrupted."""
        self.usage.read_tokens(self._tail)
        if not self._complete:
            self.usage.tokens_out = max(self.usage.tokens_out, self._tokens_seen)

    def error_ending(self, style: ApiStyle, problem: str) -> bytes:
        """Return what to send after a stream with a problem; nothing if the host reported the
        problem itself."""
        if not problem or stream_errors.has_own_error(style, self._tail):
            return b""
        end = b"\n" if style is ApiStyle.OLLAMA else b"\n\n"
        gap = b"" if self._tail.endswith(end) else end  # the last event or line may be cut
        return gap + stream_errors.error_ending(
            style, self._terminator, self._head, self._tail, problem
        )


class HidingUsage(StreamFilter):
    """A filter that removes the event without choices, which carries the token counts.

    An incomplete event is held back until the rest comes; a client could not use it either.
    """

    _kept_back = _blank_line = b""

    def feed(self, part: bytes) -> bytes:
        super().feed(part)
        blank_line = self._blank_line or self._find_blank_line(part)
        events, end, rest = (self._kept_back + part).rpartition(blank_line)
        passed = events + end
        if _has_no_choices(events):
            split = passed.split(blank_line)
            self.usage.read_tokens(b"".join(e for e in split if _has_no_choices(e)))
            passed = blank_line.join(e for e in split if not _has_no_choices(e))
        if len(rest) > MAX_LINE_BYTES:  # Ollama's events are shorter
            passed, rest = passed + rest, b""
        self._kept_back = rest
        return passed

    def _find_blank_line(self, part: bytes) -> bytes:
        """Return what ends an event, and remember it as soon as the stream shows it.

        Hosts other than Ollama end lines with CRLF. JSON contains neither of the two characters.
        """
        window = self._kept_back + part
        if b"\n" in window:
            self._blank_line = b"\r\n\r\n" if b"\r\n" in window else b"\n\n"
        return self._blank_line or b"\n\n"

    def rest(self) -> bytes:
        return self._kept_back


def _has_no_choices(events: bytes) -> bool:
    return b'"choices":[]' in events or b'"choices": []' in events


class DoneLines(StreamFilter):
    """A filter for Ollama's lines; the last one says whether the reply is done."""

    _last_line = _next_line = b""

    def feed(self, part: bytes) -> bytes:
        lines, end, rest = (self._next_line + part).rpartition(b"\n")
        if end:
            self._last_line = lines[lines.rfind(b"\n") + 1 :]
        self._next_line = rest[: MAX_LINE_BYTES + 1]  # Ollama's lines are shorter
        return super().feed(part)

    def problem(self) -> str:
        try:
            line = json.loads(self._next_line.strip() or self._last_line)
            self._complete = isinstance(line, dict) and line.get("done") is True
        except (ValueError, RecursionError):
            self._complete = False
        return super().problem()


class Translating(StreamFilter):
    """A filter that turns Ollama's lines into the events of the client's API."""

    def __init__(self, translator: ReplyTranslator, request: ProxyRequest) -> None:
        super().__init__(request.endpoint.terminator, request.usage)
        self._translator = translator

    def feed(self, part: bytes) -> bytes:
        return super().feed(self._translator.feed(part))

    @property
    def stops_early(self) -> bool:
        return bool(self._translator.error)

    def problem(self) -> str:
        return self._translator.error or ("" if self._translator.done else STOPPED_EARLY)

    def count_tokens(self) -> None:
        super().count_tokens()
        self.usage.read_tokens(self._translator.last_line)


def filter_for(request: ProxyRequest) -> StreamFilter:
    """Return the filter for a stream that already has the client's API style."""
    terminator = request.endpoint.terminator
    if request.hide_usage:
        return HidingUsage(terminator, request.usage)
    if terminator is StreamTerminator.DONE_LINE:
        return DoneLines(terminator, request.usage)
    return StreamFilter(terminator, request.usage)
