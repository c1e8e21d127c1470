"""Messages of foreign errors, made fit for the package's own."""

from __future__ import annotations

import textwrap

__all__ = ["one_line", "short"]


def short(value: object, limit: int = 60) -> str:
    """Return a value's ``repr``, cut in the middle beyond ``limit`` characters.

    Example:
        >>> short("a/long/path", 10)
        "'a/...th'"
    """
    text = repr(value)
    if len(text) <= limit:
        return text
    half = (limit - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def one_line(error: BaseException) -> str:
    """Return the message of an error in one short line, without a full stop.

    Of the tensors that a state dict gets wrong, the message names the first two.

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
        faults = [
            textwrap.shorten(line, 160, placeholder=" ...").rstrip(". ") for line in lines[1:]
        ]
        more = f"; {len(faults) - 2} more" if len(faults) > 2 else ""
        return "; ".join(faults[:2]) + more
    text = textwrap.shorten(lines[0], 200, placeholder=" ...").rstrip(". ")
    return text if not isinstance(error, KeyError) else f"{text} is missing"
