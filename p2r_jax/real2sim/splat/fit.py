"""The splat step: views and a rough surface in, ``splat.ply`` and how good it is out."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from p2r_jax.files import as_record, check_same_run, provenance, write_atomic, write_json
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.splat.backends import BackendName, SplatBackend, make_backend
from p2r_jax.real2sim.splat.crops import HALF, Crops, check_points, crop_views, point_colours
from p2r_jax.real2sim.splat.gaussians import Splat, initial_splat
from p2r_jax.real2sim.splat.optimise import OptimiserConfig
from p2r_jax.real2sim.splat.ply import write_ply
from p2r_jax.real2sim.splat.tiles import RasterSettings
from p2r_jax.real2sim.views import View
from p2r_jax.real2sim.views import split_views as held_out_by_rule

SCHEMA_VERSION = 1
RECORD, CHECKPOINT = "splat.json", "checkpoint.msgpack"
LEAST_VIEWS = 3
STRIDE = 20  # steps in one go: how long Ctrl-C may wait
PREVIEWED = 3  # held-out views in the live preview


@dataclass(frozen=True)
class SplatConfig:
    """Settings of the splat step.

    Attributes:
      backend: ``jax`` runs anywhere; the others are gsplat's 3D and 2D Gaussians on CUDA.
      size: of the crops around the object, px.
      gaussians: their number; it does not change.
      iterations: steps, each on one view.
      hold_out: every so many-th view is kept for judging.
      degree: of the colours' harmonics: 0, or 1 for light that depends on the direction.
      opacity: of every Gaussian at first.
      preview_every: steps between two preview pictures and checkpoints.
      seed: of everything.
      optimiser: rates and weights.
      raster: of the JAX rasteriser.
    """

    backend: BackendName = "jax"
    size: int = 256
    gaussians: int = 8000
    iterations: int = 1500
    hold_out: int = 8
    degree: int = 1
    opacity: float = 0.9
    preview_every: int = 100
    seed: int = 0
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    raster: RasterSettings = field(default_factory=RasterSettings)

    def __post_init__(self):
        if self.hold_out < 2:
            raise ValueError(f"hold_out {self.hold_out} leaves no view to fit; take 2 or more")
        if self.degree not in (0, 1):
            raise ValueError(f"harmonics of degree {self.degree} are not implemented; take 0 or 1")


@dataclass(frozen=True)
class ViewScore:
    """How well a view that was not fitted is rendered, over white.

    Attributes:
      view: its name.
      psnr_db: over the pixels of the mask.
      psnr_crop_db: over the whole crop.
      mask_iou: of alpha and mask, both at one half.
    """

    view: str
    psnr_db: float
    psnr_crop_db: float
    mask_iou: float


@dataclass(frozen=True)
class SplatResult:
    """What the step made.

    Attributes:
      splat: in the world frame, m.
      ply: the same as a file.
      held_out: score of every view that was kept for judging.
      seconds: of this call; a fit that went on had some before.
    """

    splat: Splat
    ply: Path
    held_out: tuple[ViewScore, ...]
    seconds: float

    @property
    def psnr_db(self) -> float:
        """Mean over held-out views, on mask pixels."""
        return float(np.mean([score.psnr_db for score in self.held_out]))

    @property
    def mask_iou(self) -> float:
        """Mean over held-out views."""
        return float(np.mean([score.mask_iou for score in self.held_out]))


def fit_splat(
    views: Sequence[View], points: Float[np.ndarray, "n 3"], config: SplatConfig, out: Path
) -> SplatResult:
    """Fit a splat to masked views.

    Ctrl-C leaves a checkpoint; the same call goes on from there, exactly.

    Args:
      views: calibrated, with images and masks.
      points: on the object's surface (vertices of the visual hull, or of SfM), m.
      config: settings.
      out: folder for ``splat.ply``, ``heldout/``, ``preview.png`` and, last, ``splat.json``.

    Raises:
      CaptureError: if there are too few views, a mask is empty, or holds no point.
      ValueError: if ``out`` holds a checkpoint of another fit, or points are too few.
      RuntimeError: if the backend cannot run here, or the fit diverges.
    """
    fitted, held = split_views(views, config.hold_out)
    points = np.asarray(points, np.float64)
    radius = float(np.linalg.norm(points - points.mean(0), axis=-1).max())
    backend = make_backend(
        config.backend, config.optimiser, radius, config.iterations, config.seed, config.raster
    )
    start = time.perf_counter()
    crops, judged = (crop_views(part, config.size) for part in (fitted, held))
    check_points(points, views)
    first = initial_splat(
        points, point_colours(points, fitted), config.gaussians, config.degree, config.opacity,
        config.seed,
    )  # fmt: skip
    run = FitRun(config, _digest(views, points), out)
    state, dropped = run.optimise(backend, run.begin(backend, first), crops, judged)
    splat = backend.splat(state)
    scores = tuple(score_views(backend, splat, judged, [view.name for view in held]))
    seconds = time.perf_counter() - start
    result = SplatResult(splat, out / "splat.ply", scores, seconds)
    write_ply(result.ply, splat)
    _write_pictures(out / "heldout", backend, splat, judged, held)
    write_json(out / RECORD, _record(config, result, len(views), radius, dropped))
    run.forget_checkpoint()
    return result


def split_views(views: Sequence[View], hold_out: int) -> tuple[list[View], list[View]]:
    """Views to fit, and every ``hold_out``-th one, from the middle of its stretch, to judge by.

    Raises:
      CaptureError: if there are fewer than three to fit or none to judge by.
    """
    fitted, held = held_out_by_rule(views, hold_out)
    if len(fitted) < LEAST_VIEWS or not held:
        raise CaptureError(
            f"{len(views)} views are too few to fit and judge a splat; film from more sides",
            [view.name for view in views],
        )
    return fitted, held


@dataclass(frozen=True)
class FitRun:
    """The loop around a backend: progress, preview, checkpoints.

    Attributes:
      config: settings.
      inputs: digest of views and points.
      out: folder.
    """

    config: SplatConfig
    inputs: str
    out: Path

    def begin(self, backend: SplatBackend, first: Splat) -> Any:
        """The state to go on from: a checkpoint's, or a new one."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / RECORD).unlink(missing_ok=True)  # an older fit's: this one is not done
        checkpoint = self.out / CHECKPOINT
        if not checkpoint.is_file():
            write_json(self.out / "config.json", as_record(self))
            return backend.start(first)
        try:
            check_same_run(self.out, self, ("config", "inputs"))
        except ValueError as error:
            tqdm.write(f"splat: starts anew ({error})")
            checkpoint.unlink()
            return self.begin(backend, first)
        state = backend.load(checkpoint, first)
        tqdm.write(f"splat: goes on at step {backend.steps_done(state)} ({checkpoint})")
        return state

    def optimise(
        self, backend: SplatBackend, state: Any, crops: Crops, judged: Crops
    ) -> tuple[Any, int]:
        """Run to the last step; returns the state and the most pairs that a step dropped."""
        total, dropped = self.config.iterations, 0
        done = backend.steps_done(state)
        with tqdm(total=total, initial=done, desc="splat", unit="step", mininterval=1.0) as bar:
            try:
                while done < total:
                    steps = min(STRIDE - done % STRIDE, total - done)
                    state, progress = backend.advance(state, crops, steps)
                    done, dropped = done + steps, max(dropped, progress.dropped)
                    if not np.isfinite(progress.squared_error):
                        raise ValueError(
                            f"the splat diverged before step {done}; lower the rates of "
                            "--splat.optimiser, first that of the means"
                        )
                    bar.set_postfix(psnr=f"{psnr_db(progress.squared_error):.1f}", refresh=False)
                    bar.update(steps)
                    if done % self.config.preview_every < steps:
                        self._look(backend, state, judged)
            except KeyboardInterrupt:
                backend.save(self.out / CHECKPOINT, state)
                bar.write(f"splat: stopped at step {done}; the same command goes on from there")
                raise
        return state, dropped

    def forget_checkpoint(self) -> None:
        """Remove what only an unfinished fit needs."""
        (self.out / CHECKPOINT).unlink(missing_ok=True)

    def _look(self, backend: SplatBackend, state: Any, judged: Crops) -> None:
        backend.save(self.out / CHECKPOINT, state)
        splat = backend.splat(state)
        pairs = [_beside(backend, splat, judged[i]) for i in range(min(PREVIEWED, len(judged)))]
        _write_png(self.out / "preview.png", np.concatenate(pairs, axis=0))


def psnr_db(squared_error: float) -> float:
    """Peak signal to noise ratio of colours in [0, 1]."""
    return float(-10 * np.log10(max(squared_error, 1e-12)))


def score_views(
    backend: SplatBackend, splat: Splat, crops: Crops, names: Sequence[str]
) -> list[ViewScore]:
    """Compare renders with crops, both over white."""
    scores = []
    for i, name in enumerate(names):
        found, alpha = _over_white(backend, splat, crops[i])
        mask = np.asarray(crops.mask[i])
        squared = ((found - _photo(crops[i])) ** 2).mean(-1)
        inside, seen = mask >= HALF, alpha >= HALF
        iou = (inside & seen).sum() / max((inside | seen).sum(), 1)
        psnrs = psnr_db(squared[inside].mean()), psnr_db(squared.mean())
        scores.append(ViewScore(name, *psnrs, float(iou)))
    return scores


def _over_white(backend: SplatBackend, splat: Splat, crop: Crops) -> tuple[np.ndarray, np.ndarray]:
    seen = backend.render(splat, crop.camera)
    rgb, alpha = np.asarray(seen.rgb), np.asarray(seen.alpha)
    return np.clip(rgb + 1 - alpha[..., None], 0, 1), alpha


def _photo(crop: Crops) -> np.ndarray:
    return np.asarray(crop.rgb) + 1 - np.asarray(crop.mask)[..., None]


def _beside(backend: SplatBackend, splat: Splat, crop: Crops) -> np.ndarray:
    """Render and photo side by side."""
    return np.concatenate([_over_white(backend, splat, crop)[0], _photo(crop)], axis=1)


def _write_pictures(folder: Path, backend, splat: Splat, crops: Crops, views) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, view in enumerate(views):
        _write_png(folder / f"{view.name}.png", _beside(backend, splat, crops[i]))


def _write_png(path: Path, rgb: Float[np.ndarray, "h w 3"]) -> None:
    from PIL import Image

    data = BytesIO()
    Image.fromarray((255 * np.clip(rgb, 0, 1)).round().astype(np.uint8)).save(data, "PNG")
    write_atomic(path, data.getvalue())


def _digest(views: Sequence[View], points: np.ndarray) -> str:
    """Of everything that a fit depends on besides its settings."""
    digest = hashlib.sha256(points.tobytes())
    for view in views:
        digest.update(view.K.tobytes() + view.T_camera_world.tobytes())
        for path in (view.image, view.mask):
            digest.update(path.read_bytes() if path else b"")
    return digest.hexdigest()[:16]


def _record(config: SplatConfig, result: SplatResult, views: int, radius: float, dropped: int):
    return {
        "schema": SCHEMA_VERSION,
        "settings": as_record(config),
        "provenance": provenance(),
        "views": views,
        "radius_m": radius,
        "gaussians": len(result.splat.means),
        "held_out": [asdict(score) for score in result.held_out],
        "psnr_db": result.psnr_db,
        "psnr_crop_db": float(np.mean([score.psnr_crop_db for score in result.held_out])),
        "mask_iou": result.mask_iou,
        "dropped_pairs": dropped,
        "seconds": result.seconds,
    }
