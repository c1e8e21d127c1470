"""Export a searched adapter as an ONNX graph and serve it with ONNX Runtime over HTTP.

    python examples/export_onnx.py
    curl --data-binary @photo.png http://127.0.0.1:8000
    python examples/export_onnx.py --small

Serving needs onnxruntime, NumPy and Pillow alone: neither torch nor this package.
"""

import io
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from sample import arguments

from glora_automl import Workspace, export_model, load_recipe, search


def picture(body: bytes) -> Image.Image:
    """Return the image of a file upright and opaque, as in training."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def server(folder: Path, port: int) -> HTTPServer:
    """Return a server that answers the bytes of an image with its class."""
    graph = onnxruntime.InferenceSession(folder / "model.onnx")
    record = json.loads((folder / "glora.json").read_text(encoding="utf-8"))
    prepare = record["preprocessing"]
    _, height, width = prepare["size"]
    resampling = Image.Resampling[prepare["interpolation"].upper()]
    mean, std = (np.array(prepare[key], np.float32) for key in ("mean", "std"))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            image = picture(body).resize((width, height), resampling)  # crop_mode = squash
            pixels = ((np.asarray(image, np.float32) / 255 - mean) / std).transpose(2, 0, 1)
            (logits,) = graph.run(None, {graph.get_inputs()[0].name: pixels[None]})
            answer = json.dumps({"class": record["classes"][int(logits[0].argmax())]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            """Print nothing."""

    return HTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    options = arguments(__doc__, port="8000")
    recipe = load_recipe("smoke" if options.small else "digits")
    workspace = Workspace(runs=options.runs)
    search(recipe, name="served", workspace=workspace)
    folder = options.runs / "served-onnx"
    export_model("served", "onnx", folder, force=True, workspace=workspace)
    if not options.small:
        print(f"http://127.0.0.1:{options.port} (Ctrl-C ends it)")
        server(folder, int(options.port)).serve_forever()
    with server(folder, 0) as running:  # ask once, and end
        threading.Thread(target=running.serve_forever, daemon=True).start()
        photo = io.BytesIO()
        Image.new("L", (8, 8), 200).save(photo, "png")
        url = f"http://127.0.0.1:{running.server_port}"
        print(urllib.request.urlopen(url, photo.getvalue()).read().decode())
        running.shutdown()


if __name__ == "__main__":
    main()
