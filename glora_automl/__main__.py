"""Entry point of the command line: ``glora``, or ``python -m glora_automl``."""

from __future__ import annotations

from glora_automl._signals import end_on_signal

__all__ = ["main"]


def main() -> None:
    """Run the command line, which a signal ends also while its modules are imported."""
    end_on_signal()
    from glora_automl.cli import main as run

    run()


if __name__ == "__main__":
    main()
