"""Where studies are kept. Nothing here knows torch."""

from glora_automl.storages._open import default_url, hold_writes, open_storage, storage_errors

__all__ = ["default_url", "hold_writes", "open_storage", "storage_errors"]
