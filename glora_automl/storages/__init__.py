"""Where studies are kept. Nothing here knows torch."""

from glora_automl.storages._fast import FastRDBStorage
from glora_automl.storages._open import default_url, open_storage, storage_errors

__all__ = ["FastRDBStorage", "default_url", "open_storage", "storage_errors"]
