"""Text for messages: bounded, on one line, without passwords."""

from __future__ import annotations

import re
import textwrap
from urllib.parse import unquote

__all__ = ["LIMIT", "hide", "one_line", "printable", "redact", "short", "shorten"]

LIMIT = 300
"""Most characters of a message."""

_SECRETS: set[str] = set()
"""Passwords of this process, which :func:`redact` replaces wherever they stand."""

_MIN_SECRET = 4
"""Length of a password that is replaced outside of its URL; a shorter one is part of words."""

# The password of a URL ends at the last @: those that people type are rarely quoted. The scheme may
# be missing, as where a variable of a shell is empty.
_USERINFO = re.compile(r"([A-Za-z0-9+.-]*:/{2,4}[^\s:/@'\"]*):([^\s'\"]*)@")
_WHOLE_USERINFO = re.compile(r"\s*(?:[A-Za-z0-9+.-]*:/{1,4}[^:/@]*:|[^:/@]+:(?!/))(.*)@", re.DOTALL)
# In a query, in libpq's and MySQL's options, and in the repr of a dictionary.
_OPTION = re.compile(
    r"((?<![A-Za-z0-9])(?:ssl_?)?(?:password|passwd|passphrase|pwd|"
    r"aws_secret_access_key|secret)['\"]?\s*[=:]\s*)"
    r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&;,'\")}]+)",
    re.IGNORECASE,
)


def hide(text: str) -> None:
    """Remember the passwords in a URL or an option, so that :func:`redact` finds them anywhere."""
    found = [match[2].strip("'\"") for match in _OPTION.finditer(text)]
    found += _WHOLE_USERINFO.findall(text)
    for secret in found:
        # A driver shows the rest of a password with an @ or a slash as a user or host.
        rests = [secret[match.end() :] for match in re.finditer("[@/]", secret)]
        _SECRETS.update(f"{rest}@" for rest in rests if rest)
        for part in (secret, *re.split("[@/]", secret)):
            _SECRETS.update(s for s in (part, unquote(part)) if len(s) >= _MIN_SECRET)


def redact(text: str) -> str:
    """Return a text without passwords.

    Example:
        >>> redact("postgresql://me:secret@host/studies?password=other&x=1")
        'postgresql://me:***@host/studies?password=***&x=1'
    """
    text = _OPTION.sub(r"\1***", _USERINFO.sub(r"\1:***@", text))
    for secret in sorted(_SECRETS, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def shorten(text: str, limit: int = LIMIT) -> str:
    """Cut a long text in its middle: a message begins with its subject and ends with a hint.

    Example:
        >>> shorten("a" * 50 + "b" * 50, 25)
        'aaaaaaaaaaa...bbbbbbbbbbb'
    """
    if len(text) <= limit:
        return text
    half = (limit - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def printable(text: str) -> str:
    """Return a text on one line; characters that a terminal acts on are escaped.

    Example:
        >>> printable("two\\nlines \\x1b[31m")
        'two lines \\\\x1b[31m'
    """
    if text.isprintable():
        return text
    text = re.sub(r"[ \t\n\r\f\v]+", " ", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(value: object, limit: int = 60) -> str:
    """Return the ``repr`` of any value, cut in the middle beyond ``limit`` characters.

    Python refuses to print integers of more than 4,300 digits, and a deep value is endless.

    Example:
        >>> short("a/long/path", 10), short(10**5000)
        ("'a/...th'", 'an integer of 16610 bits')
    """
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except Exception:  # of a value from outside
        text = f"a {type(value).__name__}"
    return shorten(printable(text), limit)


def one_line(error: BaseException) -> str:
    """Return the message of an error in one short line, without a full stop.

    Of the tensors that a state dict gets wrong, the message names the first one.

    Example:
        >>> one_line(ValueError("No such file.\\nSee the manual."))
        'No such file'
        >>> one_line(ValueError())
        'ValueError'
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].startswith("Error(s) in loading state_dict"):
        fault = textwrap.shorten(lines[1], 90, placeholder=" ...").rstrip(". ")
        return f"{fault}; {len(lines) - 2} more" if len(lines) > 2 else fault
    text = textwrap.shorten(lines[0], 200, placeholder=" ...").rstrip(". ")
    return text if not isinstance(error, KeyError) else f"{text} is missing"
