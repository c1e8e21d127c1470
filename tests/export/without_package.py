"""Compute the logits of all exports without this package.

python without_package.py EXPORTS OUT.npz
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import peft
import timm
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits


def images(model):
    """Return digits, normalised by the configuration of the exported timm model."""
    config = timm.data.resolve_model_data_config(model)
    bunch = load_digits()
    indices = np.flatnonzero(np.isin(bunch.target, (5, 6, 7)))[:40]
    grey = torch.from_numpy(np.rint(bunch.images[indices] * (255 / 16)) / 255).float()
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    assert config["input_size"] == (3, 8, 8)
    return (grey[:, None].expand(-1, 3, -1, -1) - mean) / std


def merged_by_hand(model, folder):
    """Merge the tensors of an adapter file by GLoRA's equation 10."""
    weights = load_file(folder / "adapter.safetensors")
    state = dict(model.state_dict())
    layers = {name.rpartition(".")[0] for name in weights if not name.startswith("head.")}
    for layer in layers:
        frozen, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]

        def value(tensor, layer=layer):
            parts = {
                kind: weights[f"{layer}.{tensor}_{kind}"]
                for kind in ("scalar", "vector", "left", "right")
                if f"{layer}.{tensor}_{kind}" in weights
            }
            if "left" in parts:
                return parts["left"] @ parts["right"]
            (found,) = parts.values() or [torch.zeros(())]
            return found[:, None] if tensor in "ABC" and found.ndim else found

        a, b, c, d, e = map(value, "ABCDE")
        state[f"{layer}.weight"] = frozen + frozen * a + b
        shift = (frozen @ c)[:, 0] if c.ndim else 0
        state[f"{layer}.bias"] = bias + bias * d + e + shift
    state |= {name: tensor for name, tensor in weights.items() if name.startswith("head.")}
    model.load_state_dict(state)
    return model.eval()


def main(exports, out):
    config = json.loads((exports / "timm/config.json").read_text(encoding="utf-8"))
    assert config["label_names"] == ["5", "6", "7"]
    model = timm.create_model(f"local-dir:{exports / 'timm'}", pretrained=True).eval()
    x = images(model)
    found = {"timm": model(x)}
    weights = str(exports / "timm/model.safetensors")
    kwargs = {"num_classes": config["num_classes"], **config["model_args"]}
    model = timm.create_model(config["architecture"], checkpoint_path=weights, **kwargs)
    found["timm, checkpoint_path"] = model.eval()(x)

    def backbone():
        return timm.create_model(f"local-dir:{exports / 'backbone'}", pretrained=True).eval()

    found["backbone"] = backbone()(x)
    found["adapter"] = merged_by_hand(backbone(), exports / "adapter")(x)
    adapted = peft.PeftModel.from_pretrained(backbone(), str(exports / "peft")).eval()
    found["peft"] = adapted(x)
    found["peft, merged"] = adapted.merge_and_unload()(x)
    session = onnxruntime.InferenceSession(str(exports / "onnx/model.onnx"))
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"]) == ["5", "6", "7"]
    assert json.loads(properties["preprocessing"])["size"] == [3, 8, 8]
    found["onnx"] = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
    one_by_one = [session.run(None, {"images": image[None].numpy()})[0] for image in x[:3]]
    np.testing.assert_allclose(np.concatenate(one_by_one), found["onnx"][:3], rtol=1e-4, atol=1e-5)
    assert not [name for name in sys.modules if name.startswith("glora")]
    np.savez(out, images=x, **found)


if __name__ == "__main__":
    with torch.inference_mode():
        main(Path(sys.argv[1]), sys.argv[2])
