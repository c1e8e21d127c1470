"""What every reader of input from outside promises."""

from glora_automl._messages import LIMIT
from glora_automl.errors import GLoRAError


def refusal(call, *args, **kwargs):
    """Call a reader; return its message if it refuses the input, None if it takes it.

    The message is one printable line of bounded length. Any other exception is a fault.
    """
    try:
        call(*args, **kwargs)
    except GLoRAError as error:
        message = str(error)
    else:
        return None
    assert 0 < len(message) <= LIMIT, message
    assert message.isprintable(), message
    return message
