"""``python -m glora_automl``: the command line where the ``glora`` script is not on the path."""

from glora_automl.cli import main

if __name__ == "__main__":
    main()
