"""How fast an image tokenizer encodes and decodes.

    python benchmarks/tokenizer.py                                  # the published RGB tokenizer's size, random weights
    python benchmarks/tokenizer.py outputs/tokenizers/rgb/model --decode --scheduler dpm --steps 10 --precision bf16
    python benchmarks/tokenizer.py --compare                        # ways to decode against each other, in one run

Without a path it builds the architecture of 4M's RGB tokenizer (287 M parameters: ViT-B, 16,384 codes, a U-Net on
4 x 4 patches). The published code encodes 2.8 images per second and takes 1.11 s for a denoising step of one image at
224 pixels, on two cores in float32.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fourm import catalog
from fourm.config import build
from fourm.errors import FourmError
from fourm.machine import choose_device, has_bf16
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.configs import DiVAEConfig
from fourm.tokenizers.divae import DiVAE

PUBLISHED = {
    "encoder": {"kind": "vit", "preset": "base", "patch_size": 16, "grid_size": 28},
    "quantizer": {"kind": "ema", "codebook_size": 16384, "dim": 32},
    "denoiser": {"kind": "unet"},
}
FORMS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32", "channels_last": False},
    "fp32, channels last": {"precision": "fp32", "channels_last": True},
    "bf16, channels last": {"precision": "bf16", "channels_last": True},
}


def make_tokenizer(path: Path | None, device: torch.device) -> Any:
    """The tokenizer in a folder, or one of the published size with random weights."""
    if path is not None:
        return load_tokenizer(path, device)
    modality = next(iter(catalog.resolve(["rgb_half@224"]).values()))
    model = DiVAE(modality, build(DiVAEConfig, PUBLISHED))
    for parameter in model.decoder.parameters():  # fresh branches are zero, which some kernels might profit from
        torch.nn.init.normal_(parameter, std=0.02)
    return model.to(device).requires_grad_(False).eval()


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Time of one call, until the device is done."""
    _wait(device)
    start = time.perf_counter()
    with torch.no_grad():
        work()
    _wait(device)
    return time.perf_counter() - start


def fastest(works: dict[str, Callable[[], Any]], device: torch.device, repeats: int) -> dict[str, float]:
    """Shortest time of each; in turns, so that other work on the machine slows all of them down."""
    for work in works.values():
        seconds(work, device)
    times = [{name: seconds(work, device) for name, work in works.items()} for _ in range(repeats)]
    return {name: min(run[name] for run in times) for name in works}


def measure(tokenizer: Any, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """What the options ask for, as numbers by name."""
    images, noisy, ids = inputs(tokenizer, options, device)
    works: dict[str, Callable[[], Any]] = {}
    if options.encode:
        works["encode"] = lambda: tokenizer.encode(images)
    if options.decode:
        works["decode"] = lambda: tokenizer.decode(ids)
        if isinstance(tokenizer, DiVAE):
            works["step"] = lambda: tokenizer.denoise(noisy, 500, ids)
    times = fastest(works, device, options.repeats)
    found = {"parameters": float(sum(p.numel() for p in tokenizer.parameters()))}
    for name in ("encode", "decode"):
        if name in times:
            found[f"{name}_images_per_second"] = options.batch / times[name]
    if "step" in times:
        found["seconds_per_denoising_step"] = times["step"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found["peak_rss_gb"] = peak / 1e9
    if device.type == "cuda":
        found["peak_gpu_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return found


def compare(tokenizer: Any, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Seconds of one denoising step, or of decoding in one pass, in each form of the same decoder."""
    _, noisy, ids = inputs(tokenizer, options, device)
    work = (
        (lambda: tokenizer.denoise(noisy, 500, ids)) if isinstance(tokenizer, DiVAE) else lambda: tokenizer.decode(ids)
    )
    times = dict.fromkeys(FORMS, float("inf"))
    for _ in range(options.repeats):
        for name, form in FORMS.items():
            tokenizer.for_decoding(**form)
            times[name] = min(times[name], *(seconds(work, device) for _ in range(2)))
    return times


def inputs(tokenizer: Any, options: argparse.Namespace, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Images, noise of their shape, and ids."""
    height, width = tokenizer.modality.grid.image_size_at(options.size or min(tokenizer.modality.grid.image_size))
    grid = [side // tokenizer.grid.patch_size for side in (height, width)]
    shape = (options.batch, tokenizer.channels, height, width)
    images = torch.randint(0, tokenizer.channels, (options.batch, height, width)) if tokenizer.is_labels else None
    images = torch.rand(shape) * 2 - 1 if images is None else images
    ids = torch.randint(0, tokenizer.vocab_size, (options.batch, *grid))
    return images.to(device), torch.randn(shape).to(device), ids.to(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, help="a saved tokenizer")
    parser.add_argument("--encode", action="store_true", help="only encode; neither this nor --decode: both")
    parser.add_argument("--decode", action="store_true", help="only decode")
    parser.add_argument("--compare", action="store_true", help="precisions and memory layouts, in one run")
    parser.add_argument("--scheduler", choices=["ddim", "dpm", "unipc"])
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, help="pixels of the shorter side")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    options.encode, options.decode = (options.encode or not options.decode), (options.decode or not options.encode)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    tokenizer = make_tokenizer(options.path, device)
    sampling: dict[str, Any] = {"scheduler": options.scheduler, "num_steps": options.steps}
    sampling = {key: value for key, value in sampling.items() if value is not None}
    if sampling:
        tokenizer.use_sampling(**sampling)
    about = {"device": str(device), "threads": torch.get_num_threads(), "bf16_in_hardware": has_bf16(device)}
    if options.compare:
        times = compare(tokenizer, options, device)
        if options.json:
            print(json.dumps({**about, "seconds": times}))
        else:
            print(about)
            for name, taken in times.items():
                print(f"{name:<22} {taken:8.3f} s   {times['fp32'] / taken:5.2f} x the speed of fp32")
        return
    tokenizer.for_decoding(precision=options.precision, channels_last=options.channels_last)
    found = measure(tokenizer, options, device)
    if options.json:
        print(json.dumps({**about, **found}))
    else:
        print(about)
        for name, value in found.items():
            print(f"{name:<28} {value:14,.3f}")


if __name__ == "__main__":
    try:
        main()
    except FourmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
