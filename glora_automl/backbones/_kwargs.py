"""Keyword arguments of ``timm.create_model`` that a recipe or record may have."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator

from glora_automl._declarations import suggest
from glora_automl._messages import short

__all__ = ["ModelKwargs", "check_kwargs"]

_SHAPE = frozenset(
    re.findall(
        r"\w+",
        """
    act_layer attn_drop_rate base_width bn_eps bn_momentum cardinality channel_multiplier
    channels class_token conv_mlp depth depths dims distilled drop_block_rate drop_path_rate
    drop_rate dynamic_img_pad dynamic_img_size embed_dim embed_dims fc_norm final_norm
    global_pool growth_rate head_bias head_dim head_init_scale hidden_sizes img_size in_chans
    init_values kernel_size kernel_sizes layer_scale_init_value layers ls_init_value mlp_ratio
    mlp_ratios no_embed_class norm_eps norm_layer num_features num_heads num_kv_heads
    output_stride pad_type patch_drop_rate patch_size pos_drop_rate pos_embed pre_norm proj_bias
    proj_drop_rate qk_norm qkv_bias reg_tokens stem_chs stem_size stem_type stem_width
    strict_img_size use_abs_pos_emb use_fc_norm use_rel_pos use_rel_pos_bias
    use_shared_rel_pos_bias weight_init width_factor width_mult widths window_ratio window_size
    """,
    )
)
"""Arguments that shape a model. timm's others name files, addresses and caches, or code."""

_OVERLAY = frozenset(
    re.findall(
        r"\w+",
        """
    crop_mode crop_pct fixed_input_size input_size interpolation mean min_input_size pool_size
    std test_crop_pct test_input_size
    """,
    )
)
"""Keys of ``pretrained_cfg_overlay`` that describe the images."""

_DEEP = frozenset({"depth", "depths", "layers"})
_MAX_SIZE, _MAX_DEPTH = 16_384, 256
"""Largest sizes and numbers of blocks."""


def check_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments if all of them only shape a model.

    Raises:
        ValueError: If one does something else, or its value is out of bounds.

    Example:
        >>> check_kwargs({"img_size": 32})
        {'img_size': 32}
        >>> check_kwargs({"checkpoint_path": "weights.pth"})
        Traceback (most recent call last):
        ValueError: kwargs must hold only arguments that shape a model, got 'checkpoint_path'. ...
    """
    for key, value in kwargs.items():
        if key in ("pretrained", "num_classes"):
            raise ValueError(
                f"kwargs must not contain 'pretrained' or 'num_classes', got {key!r}. Remove it "
                "from `backbone.kwargs`."
            )
        if key == "pretrained_cfg_overlay" and isinstance(value, dict):
            for inner, part in value.items():
                _check_known(f"{key}.{inner}", inner, _OVERLAY)
                _check_value(f"{key}.{inner}", part, _MAX_SIZE)
            continue
        _check_known(key, key, _SHAPE)
        _check_value(key, value, _MAX_DEPTH if key in _DEEP else _MAX_SIZE)
    return kwargs


def _check_known(name: str, key: str, known: frozenset[str]) -> None:
    if key not in known:
        hint = suggest(key, sorted(known))
        if not hint.startswith("Did"):
            hint = "Remove it from `backbone.kwargs`."
        raise ValueError(
            f"kwargs must hold only arguments that shape a model, got {short(name)}. {hint}"
        )


def _check_value(name: str, value: Any, largest: int) -> None:
    """Raise ValueError unless the value is text, a number within bounds, or a list of them."""
    if isinstance(value, list | tuple) and len(value) <= 64:
        for part in value:
            _check_value(name, part, largest)
    elif isinstance(value, str):
        if len(value) > 100:
            raise ValueError(f"kwargs.{name} must be a short text, got {short(value)}.")
    elif isinstance(value, float | int):
        if not (math.isfinite(value) and abs(value) <= largest):
            raise ValueError(
                f"kwargs.{name} must be a number of at most {largest:,}, got {short(value)}."
            )
    elif value is not None:
        raise ValueError(f"kwargs.{name} must be a text, number or list, got {short(value)}.")


ModelKwargs = Annotated[dict[str, Any], AfterValidator(check_kwargs)]
"""Keyword arguments of ``timm.create_model``, checked by :func:`check_kwargs`."""
