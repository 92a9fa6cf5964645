"""gsplat on a CUDA machine: the same fit with its 3DGS or 2DGS kernels (torch)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from p2r_jax.real2sim.splat.backends import Progress
from p2r_jax.real2sim.splat.crops import Crops
from p2r_jax.real2sim.splat.gaussians import Splat
from p2r_jax.real2sim.splat.optimise import OptimiserConfig
from p2r_jax.real2sim.splat.projection import BLUR_PX2, NEAR_M, Camera
from p2r_jax.real2sim.splat.raster import Rendered

FIELDS = ("means", "quats", "log_scales", "opacity_logits", "sh")
NORMALS = 0.05  # weight of "normals follow the depth" (2DGS, Huang et al. 2024, eq. 14)
INSTEAD = "; --splat.backend jax runs anywhere"


@dataclass
class GsplatState:
    """Parameters on the device, one Adam over them, steps done."""

    parameters: dict[str, Any]
    optimizer: Any
    step: int


def load_gsplat() -> Any:
    """The ``gsplat`` module, if it can run here.

    Raises:
      ImportError: without torch or gsplat; names the extra.
      ImportError: without a CUDA device, too, or without the compiler of its kernels.
    """
    try:
        import gsplat
        import torch
    except ImportError as error:
        raise ImportError(
            f"the gsplat backend needs {error.name}: pip install 'p2r_jax[real2sim]' on a machine "
            f"with CUDA{INSTEAD}"
        ) from error
    if not torch.cuda.is_available():
        raise ImportError(
            f"the gsplat backend needs an NVIDIA GPU, and torch {torch.__version__} sees none: "
            f"install a CUDA build of torch, or run on such a machine{INSTEAD}"
        )
    return gsplat


def to_torch(splat: Splat, device: str) -> dict[str, Any]:
    """Parameters as leaf tensors, under the names of the splat's fields."""
    import torch

    return {
        name: torch.tensor(np.asarray(getattr(splat, name)), device=device, requires_grad=True)
        for name in FIELDS
    }


def from_torch(parameters: dict[str, Any]) -> Splat:
    """The splat of such parameters."""
    return Splat(**{name: jnp.asarray(x.detach().cpu().numpy()) for name, x in parameters.items()})


class GsplatBackend:
    """``SplatBackend`` on gsplat's kernels."""

    def __init__(
        self, config: OptimiserConfig, radius_m: float, iterations: int, seed: int, flat: bool,
        antialiased: bool,
    ):  # fmt: skip
        """Check that it can run; ``flat`` takes 2D Gaussians instead of 3D ones."""
        self._gsplat = load_gsplat()
        self._config, self._radius_m, self._iterations = config, radius_m, iterations
        self._seed, self._flat, self._antialiased = seed, flat, antialiased
        self._device = "cuda"

    def start(self, splat: Splat) -> GsplatState:
        """State before the first step."""
        parameters = to_torch(splat, self._device)
        return GsplatState(parameters, self._adam(parameters), 0)

    def advance(self, state: GsplatState, crops: Crops, steps: int) -> tuple[GsplatState, Progress]:
        """Some steps, each on one crop; every crop comes once per epoch, in random order."""
        squared = []
        for step in range(state.step, state.step + steps):
            epoch, nth = divmod(step, len(crops))
            order = np.random.default_rng((self._seed, 0, epoch)).permutation(len(crops))
            background = np.random.default_rng((self._seed, 1, step)).uniform(size=3)
            self._set_rates(state.optimizer, step)
            state.optimizer.zero_grad()
            loss, error = self._loss(state.parameters, crops[int(order[nth])], background)
            loss.backward()
            state.optimizer.step()
            state.step = step + 1
            squared.append(error)
        return state, Progress(float(np.mean([float(error) for error in squared])), 0)

    def steps_done(self, state: GsplatState) -> int:
        """Steps so far."""
        return state.step

    def splat(self, state: GsplatState) -> Splat:
        """The splat so far."""
        return from_torch(state.parameters)

    def render(self, splat: Splat, camera: Camera) -> Rendered:
        """A picture."""
        import torch

        with torch.no_grad():
            rgb, depth, alpha, _ = self.picture(to_torch(splat, self._device), camera)
        rgb, depth, alpha = (jnp.asarray(x.cpu().numpy()) for x in (rgb, depth, alpha))
        return Rendered(rgb, depth, alpha, dropped=jnp.zeros((), jnp.int32))

    def save(self, path: Path, state: GsplatState) -> None:
        """Write parameters, moments and step."""
        import torch

        partial = path.with_name(path.name + ".partial")
        record = {"optimizer": state.optimizer.state_dict(), "step": state.step}
        torch.save(record | {"parameters": state.parameters}, partial)
        partial.replace(path)

    def load(self, path: Path, splat: Splat) -> GsplatState:
        """Read them."""
        import torch

        record = torch.load(path, map_location=self._device, weights_only=True)
        parameters = {k: x.detach().requires_grad_() for k, x in record["parameters"].items()}
        optimizer = self._adam(parameters)
        optimizer.load_state_dict(record["optimizer"])
        return GsplatState(parameters, optimizer, record["step"])

    def _loss(self, parameters, crop: Crops, background: np.ndarray):
        """As ``Optimiser.loss``; 2D Gaussians are flat and get consistent normals instead."""
        import torch

        c = self._config
        photo, mask, behind = (self._tensor(x) for x in (crop.rgb, crop.mask, background))
        rgb, _, alpha, bent = self.picture(parameters, crop.camera)
        error = rgb + (1 - alpha[..., None]) * behind - photo - (1 - mask[..., None]) * behind
        squared = (error**2).mean()
        opacity = torch.sigmoid(parameters["opacity_logits"])
        loss = error.abs().mean() + c.squared * squared + c.mask * ((alpha - mask) ** 2).mean()
        loss = loss + c.binary * (opacity * (1 - opacity)).mean()
        if self._flat:
            return loss + NORMALS * bent, squared.detach()
        thickness = parameters["log_scales"].exp().amin(-1).mean() / self._radius_m
        return loss + c.flat * thickness, squared.detach()

    def picture(self, parameters, camera: Camera):
        """Colour, expected depth and alpha of a camera's picture, and how far normals are off."""
        import torch

        arguments = {
            "means": parameters["means"],
            "quats": torch.nn.functional.normalize(parameters["quats"], dim=-1),
            "scales": parameters["log_scales"].exp(),
            "opacities": torch.sigmoid(parameters["opacity_logits"]),
            "colors": parameters["sh"],
            "sh_degree": 0 if parameters["sh"].shape[1] == 1 else 1,
            "viewmats": self._tensor(camera.T_camera_world)[None],
            "Ks": self._tensor(camera.K)[None],
            "width": camera.width,
            "height": camera.height,
            "near_plane": NEAR_M,
            "eps2d": BLUR_PX2,
            "render_mode": "RGB+ED",
        }
        if not self._flat:
            mode = "antialiased" if self._antialiased else "classic"
            seen, alpha, _ = self._gsplat.rasterization(**arguments, rasterize_mode=mode)
            return seen[0, ..., :3], seen[0, ..., 3], alpha[0, ..., 0], 0.0
        seen, alpha, normals, of_depth, *_ = self._gsplat.rasterization_2dgs(**arguments)
        agree = (normals * of_depth.reshape(normals.shape)).sum(-1)
        bent = (alpha.detach()[..., 0] - agree * alpha.detach()[..., 0]).mean()
        return seen[0, ..., :3], seen[0, ..., 3], alpha[0, ..., 0], bent

    def _adam(self, parameters):
        import torch

        return torch.optim.Adam([{"params": [parameters[name]]} for name in FIELDS], eps=1e-15)

    def _set_rates(self, optimizer, step: int) -> None:
        c, share = self._config, step / self._iterations
        means = c.means * self._radius_m * (c.final_means / c.means) ** share
        others = (c.quats, c.scales, c.opacities, c.colours)
        rates = (means, *(rate * c.fall**share for rate in others))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _tensor(self, x):
        import torch

        return torch.tensor(np.asarray(x), dtype=torch.float32, device=self._device)
