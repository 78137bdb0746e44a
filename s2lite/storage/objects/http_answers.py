"""What a store's HTTP server said, found in the text that obstore makes of it.

obstore has a few classes of errors and puts everything else into their text: the URL, the status,
and the body of the answer. Callers need the status and the error code in the body. Of the rest only
the body's message gets into our own texts: a body can repeat what was signed, and a URL can carry
a signature.
"""

import json
import re

import attrs

MAX_MESSAGE_LENGTH = 300

_ANSWER = re.compile(r"Server returned non-2xx status code: (\d{3})[^:\n]*(?:: ?(.*))?", re.DOTALL)
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_QUERY = re.compile(r"(https?://[^\s?]*)\?\S*")
_USER = re.compile(r"(https?://)[^\s/@]*@")


@attrs.frozen
class Answer:
    """An answer that says no: HTTP status, the store's own error code if it has one, and why."""

    status: int
    code: str = ""
    message: str = ""

    def __str__(self) -> str:
        parts = [f"HTTP {self.status}", *([self.code] if self.code else [])]
        return " ".join(parts) + (f": {self.message}" if self.message else "")


def find_answer(text: str) -> Answer | None:
    """The answer that the text of one of obstore's errors speaks of, if it speaks of one."""
    found = _ANSWER.search(text)
    if found is None:
        return None
    body = (found[2] or "").split("\n\nDebug source:", 1)[0].strip()
    code, message = _read_xml(body) if "<" in body else _read_json(body)
    return Answer(int(found[1]), code, _shortened(message))


def without_secrets(text: str) -> str:
    """The text without what a URL in it may carry: a signature in its query, a user's name."""
    return _USER.sub(r"\1", _QUERY.sub(r"\1", text))


def _read_xml(body: str) -> tuple[str, str]:
    code, message = _CODE.search(body), _MESSAGE.search(body)
    return code[1] if code else "", message[1] if message else ""


def _read_json(body: str) -> tuple[str, str]:
    """The error of a Google API, or else the whole body as the message: a proxy's, say."""
    try:
        error = json.loads(body)["error"]
        return str(error.get("errors", [{}])[0].get("reason", "")), str(error["message"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", without_secrets(body)


def _shortened(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= MAX_MESSAGE_LENGTH else line[:MAX_MESSAGE_LENGTH] + "..."
