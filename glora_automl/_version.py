"""The version, from the installed distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("glora-automl")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
