"""Milliseconds of one picture of a splat, and of one with its gradient.

Ours against the dense all-pairs twin in the same run, and against gsplat's kernels where
there is CUDA; compiling is timed apart.

    python -m benchmarks.rasteriser
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.timing import rate, repeated
from p2r_jax.files import provenance, write_json
from p2r_jax.real2sim.splat.dense import render_dense
from p2r_jax.real2sim.splat.gaussians import Splat, initial_splat
from p2r_jax.real2sim.splat.projection import Camera
from p2r_jax.real2sim.splat.raster import render

SCHEMA_VERSION = 1
RENDERERS = {"ours": render, "dense": render_dense}


@dataclass(frozen=True)
class Settings:
    """Settings of the rasteriser's benchmark.

    Attributes:
      out: JSON file.
      gaussians: numbers of Gaussians.
      sizes: sides of the square pictures, px.
      repeats: samples; slow calls get three.
      seed: of the scene.
    """

    out: Path = Path("benchmarks/results/rasteriser.json")
    gaussians: tuple[int, ...] = (2000, 5000)
    sizes: tuple[int, ...] = (128, 256)
    repeats: int = 7
    seed: int = 0


def scene(count: int, size: int, seed: int) -> tuple[Splat, Camera]:
    """Discs on a bumpy ball that fills two thirds of the picture, of mixed opacity."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * count, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x *= 0.1 * (1 + 0.1 * np.sin(9 * x[:, :1]) * np.sin(7 * x[:, 1:2]))
    splat = initial_splat(x, rng.uniform(size=x.shape), count, degree=0, seed=seed)
    logits = jnp.asarray(rng.normal(1.0, 2.0, count), jnp.float32)
    K = jnp.array([[1.1 * size, 0, size / 2], [0, 1.1 * size, size / 2], [0, 0, 1.0]])
    T = jnp.eye(4).at[2, 3].set(0.35)
    return splat.replace(opacity_logits=logits), Camera(T, K, size, size)


def loss(renderer: Callable, splat: Splat, camera: Camera) -> jax.Array:
    """A scalar to differentiate: mean squared distance from mid-grey."""
    return jnp.mean((renderer(splat, camera).rgb - 0.5) ** 2)


def measure(name: str, count: int, size: int, settings: Settings) -> dict:
    """Medians of one renderer on one scene."""
    arguments = scene(count, size, settings.seed)
    renderer = RENDERERS[name]
    row = {"renderer": name, "gaussians": count, "size": size}
    programs = {
        "forward": renderer,
        "forward_and_gradient": jax.value_and_grad(partial(loss, renderer), argnums=(0, 1)),
    }
    for what, function in programs.items():
        program = repeated(function, *arguments)
        found = rate(program.call, 1, settings.repeats)
        row[what] = {
            "ms": 1000 / found["median"],
            "ms_best": 1000 / found["max"],
            "compile_s": program.compile_s,
        }
    row["dropped_pairs"] = int(jax.jit(renderer)(*arguments).dropped)
    return row


def measure_gsplat(count: int, size: int, settings: Settings) -> dict:
    """The same scene and loss with gsplat's CUDA kernels.

    Raises:
      ImportError, RuntimeError: if they cannot run here.
    """
    from p2r_jax.real2sim.splat.backends import make_backend
    from p2r_jax.real2sim.splat.gsplat_backend import to_torch
    from p2r_jax.real2sim.splat.optimise import OptimiserConfig
    from p2r_jax.real2sim.splat.tiles import DEFAULT

    start = time.perf_counter()
    backend = make_backend("gsplat", OptimiserConfig(), 0.1, 1, settings.seed, DEFAULT)
    import torch

    splat, camera = scene(count, size, settings.seed)
    parameters = to_torch(splat, "cuda")

    def forward():
        with torch.no_grad():
            backend.picture(parameters, camera)
        torch.cuda.synchronize()

    def gradient():
        ((backend.picture(parameters, camera)[0] - 0.5) ** 2).mean().backward()
        torch.cuda.synchronize()

    row = {"renderer": "gsplat", "gaussians": count, "size": size, "dropped_pairs": 0}
    for what, call in (("forward", forward), ("forward_and_gradient", gradient)):
        call()
        compile_s = time.perf_counter() - start
        found = rate(call, 1, settings.repeats)
        row[what] = {"ms": 1000 / found["median"], "ms_best": 1000 / found["max"]}
        row[what]["compile_s"] = compile_s
        start = time.perf_counter()
    return row


def measure_all(settings: Settings) -> tuple[list[dict], list[dict]]:
    """Rows of everything that runs here, and what could not be measured, with the reason."""
    rows, skipped = [], []
    for count in settings.gaussians:
        for size in settings.sizes:
            rows += [measure(name, count, size, settings) for name in RENDERERS]
            try:
                rows.append(measure_gsplat(count, size, settings))
            except (ImportError, RuntimeError) as error:
                case = {"renderer": "gsplat", "gaussians": count, "size": size}
                skipped.append(case | {"why": f"not measured: {error}"})
    return rows, skipped


def main(settings: Settings) -> None:
    """Measure, print a line per row, write JSON."""
    rows, skipped = measure_all(settings)
    for row in rows:
        forward, both = row["forward"], row["forward_and_gradient"]
        print(
            f"{row['renderer']:6} {row['gaussians']} Gaussians, {row['size']} px: "
            f"{forward['ms']:.1f} ms, with gradient {both['ms']:.1f} ms "
            f"(compile {forward['compile_s']:.1f} + {both['compile_s']:.1f} s)"
        )
    for row in skipped[:1]:
        print(f"gsplat {row['why']}")
    record = {
        "schema": SCHEMA_VERSION,
        "kind": "rasteriser",
        "provenance": provenance(),
        "settings": asdict(settings) | {"out": settings.out.name},
        "rows": rows,
        "skipped": skipped,
    }
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, record)
    print(f"written: {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
