"""fixtures/images: small pictures as files, and what Transformers' ViT image processor (PIL backend) makes of them.

`images.json` has the configurations and the cases; `images.safetensors` the pixel values of each case.
"""

import json

import numpy as np
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from common import fresh, write_json, write_tensors

NEAREST, LANCZOS, BILINEAR, BICUBIC = range(4)
SQUARE = {"height": 9, "width": 9}
PROCESSORS = {
    "vit": {"size": SQUARE},
    "nearest": {"size": {"height": 7, "width": 23}, "resample": NEAREST},
    "lanczos": {"size": {"height": 11, "width": 6}, "resample": LANCZOS},
    "bicubic": {"size": {"height": 21, "width": 10}, "resample": BICUBIC},
    "wider": {"size": {"height": 40, "width": 13}, "resample": BILINEAR},
    "one_pixel": {"size": {"height": 1, "width": 1}, "resample": BICUBIC},
    "imagenet": {"size": SQUARE, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    "shortest": {"size": {"shortest_edge": 8}, "resample": BICUBIC},
    "cropped": {"size": {"shortest_edge": 12}, "do_center_crop": True, "crop_size": {"height": 9, "width": 7}},
    "cropped_beyond": {"size": SQUARE, "do_center_crop": True, "crop_size": {"height": 12, "width": 8}},
    "not_resized": {"do_resize": False},
    "bytes": {"size": SQUARE, "do_rescale": False, "do_normalize": False},
    "rescaled": {"size": SQUARE, "do_normalize": False, "rescale_factor": 0.0123},
    "not_rescaled": {"size": SQUARE, "do_rescale": False, "image_mean": 120.0, "image_std": 60.5},
}
SIZES = {"wide": (31, 13), "tall": (10, 27), "small": (5, 4), "line": (17, 1)}


def make():
    path = fresh("images")
    files = pictures(path)
    cases, tensors = [], {}
    for name, settings in PROCESSORS.items():
        folder = fresh(path / "processors" / name)
        processor = ViTImageProcessorPil(do_convert_rgb=True, **settings)
        processor.save_pretrained(folder)
        saved = json.loads((folder / "preprocessor_config.json").read_text())
        write_json(folder / "preprocessor_config.json", saved, depth=1)
        for file in files:
            if name != "vit" and file not in ("rgb_wide.png", "rgb_tall.png", "rgb_small.png"):
                continue
            pixels = processor(Image.open(path / file), return_tensors="pt")["pixel_values"][0]
            key = f"{name}.{file}"
            cases.append({"processor": name, "file": file, "shape": list(pixels.shape), "key": key})
            tensors[key] = pixels.float()
    write_json("images/images.json", cases, depth=1)
    write_tensors("images/images.safetensors", tensors)


def pictures(path):
    """Noise on a slope, so that every weight of a filter and every rounding matters."""
    random = np.random.default_rng(7)

    def noise(width, height, channels):
        slope = np.linspace(0, 160, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
        values = slope + random.integers(-60, 90, (height, width, channels))
        return values.clip(0, 255).astype(np.uint8)

    images = {f"rgb_{name}.png": Image.fromarray(noise(*size, 3)) for name, size in SIZES.items()}
    rgba = noise(14, 11, 4)
    rgba[:3, :, 3] = [[0], [255], [128]]
    grey = noise(13, 9, 2)
    images |= {
        "grey.png": Image.fromarray(grey[..., 0]),
        "grey_alpha.png": Image.fromarray(grey, "LA"),
        "rgba.png": Image.fromarray(rgba),
        "bilevel.png": Image.fromarray(noise(19, 12, 1)[..., 0]).convert("1"),
        "palette.png": Image.fromarray(noise(16, 15, 3)).quantize(11),
        "lossless.webp": Image.fromarray(rgba),
    }
    for name, image in images.items():
        image.save(path / name, **({"lossless": True, "exact": True} if name.endswith("webp") else {}))
    images["palette.png"].save(path / "palette_key.png", transparency=3)
    images["rgb_small.png"].save(path / "rgb_key.png", transparency=tuple(int(v) for v in np.array(images["rgb_small.png"])[1, 2]))
    smooth = Image.fromarray(noise(6, 5, 3)).resize((33, 21), Image.Resampling.BICUBIC)
    smooth.save(path / "photo.jpg", quality=92)
    smooth.convert("L").save(path / "grey.jpg", quality=92, progressive=True)
    exif = smooth.getexif()
    exif[0x0112] = 6  # to be turned, which PIL.Image.open does not do
    smooth.save(path / "turned.jpg", quality=92, exif=exif)
    return sorted(file.name for file in path.iterdir() if file.is_file())
