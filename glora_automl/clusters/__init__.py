"""Workers on a cluster that runs already."""

from glora_automl.clusters._ray import search_on_ray

__all__ = ["search_on_ray"]
