"""``p2r identify LOG``: from a log of pushes to theta +- sigma, a JSON file and a picture."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from jaxtyping import Float

from p2r_jax.estimator.sysid import Posterior, Sysid, SysidConfig
from p2r_jax.estimator.sysid_pushes import SegmentConfig, segments_of
from p2r_jax.files import as_record, new_folder, provenance, write_json
from p2r_jax.pushlog import PushLog, read_log
from p2r_jax.sim.asset import Asset, load_asset

QUANTITIES = {
    "com_object_x": ("mm", 1000.0, lambda p: p.com[:, 0]),
    "com_object_y": ("mm", 1000.0, lambda p: p.com[:, 1]),
    "friction_radius": ("mm", 1000.0, lambda p: p.radius),
    "friction_pusher": ("", 1.0, lambda p: p.friction_pusher),
    "friction_table": ("", 1.0, lambda p: p.friction_table),
    "mass": ("kg", 1.0, lambda p: p.mass),
}


@dataclass(frozen=True)
class IdentifyConfig:
    """One identification.

    Attributes:
      log: ``.npz``, ``.parquet`` or ``.csv``, see ``p2r_jax.pushlog.files``.
      out: folder for ``identified.json`` and ``posterior.png``.
      asset: name or folder; otherwise what the log says.
      on_bad: ``raise`` at the first bad push, or ``exclude`` bad ones and say so.
      sysid: how to identify.
      segment: how the log is cut.
      overwrite: allow a folder that is not empty.
    """

    log: tyro.conf.Positional[Path]
    out: Path
    asset: str | None = None
    on_bad: Literal["raise", "exclude"] = "raise"
    sysid: SysidConfig = field(default_factory=SysidConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    overwrite: bool = False


def identify(config: IdentifyConfig) -> Posterior:
    """Identify, print, write ``identified.json`` and ``posterior.png``.

    Raises:
      LogError, FileNotFoundError: what is wrong with the log, or with the asset's name.
      ValueError: if neither the log nor the configuration names an asset.
    """
    name = config.asset or read_log(config.log, on_bad=config.on_bad).asset
    if name is None:
        raise ValueError(f"{config.log} does not name its asset; pass --asset NAME_OR_FOLDER")
    asset = load_asset(name)
    log = read_log(config.log, asset, config.on_bad)
    out = new_folder(config.out, config.overwrite)
    segments = segments_of(log, asset, config.segment)
    sysid = Sysid(asset, log.tool_radius_m, config.sysid)
    evidence = sysid.evidence_in(segments)
    posterior = sysid(segments)
    theta = summary(posterior)
    print(f"{log.name}: {len(segments.used)} segments of {len(log.pushes)} pushes, from {evidence}")
    unfelt = _without_force(log)
    if evidence == "motion" and unfelt:
        print(
            f"  force (force_x, force_y) has gaps in pushes {', '.join(map(str, unfelt))}: not used"
        )
    for excluded in log.excluded:
        print(f"  left out push {excluded.push}: {excluded.reason}")
    for key, row in theta.items():
        unit, scale, _ = QUANTITIES[key]
        print(
            f"  {key:16} {scale * row['mean']:8.3f} +- {scale * row['sigma']:.3f} {unit}".rstrip()
        )
    record = {
        "schema": 1,
        "evidence": evidence,
        "pushes": len(log.pushes),
        "pushes_with_gaps_in_force": unfelt,
        "excluded": [{"push": e.push, "reason": e.reason} for e in log.excluded],
        "theta": theta,
        "com_covariance_m2": np.asarray(posterior.com_cov).tolist(),
        "config": as_record(config),
    }
    write_json(out / "identified.json", record | provenance())
    plot_posterior(posterior, asset, out / "posterior.png")
    return posterior


def _without_force(log: PushLog) -> list[int]:
    """Pushes with gaps in their force; none if the log has no force at all."""
    if log.force_xy is None:
        return []
    gaps = ~np.isfinite(log.force_xy).all(axis=1)
    return [int(push) for push in log.pushes if gaps[log.rows(push)].any()]


def summary(posterior: Posterior) -> dict[str, dict[str, float]]:
    """Mean and standard deviation per quantity, SI units, object frame."""
    return {
        name: {"mean": float(np.mean(values)), "sigma": float(np.std(values))}
        for name, values in (
            (n, np.asarray(get(posterior))) for n, (_, _, get) in QUANTITIES.items()
        )
    }


def plot_posterior(posterior: Posterior, asset: Asset, path: Path) -> None:
    """Samples of the centre of mass and their 95 % ellipse over the outline, millimetres."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for part in asset.parts:
        axes.fill(*(1000 * part.corners.T), facecolor="0.9", edgecolor="0.4")
    axes.plot(*(1000 * np.asarray(posterior.com).T), ".", ms=2, alpha=0.3, color="tab:blue")
    axes.plot(*_ellipse(posterior), color="tab:blue", label="95 %")
    axes.plot(*(1000 * np.asarray(posterior.com_mean)), "+", ms=12, color="tab:blue", label="mean")
    lower, upper = (1000 * bound for bound in asset.footprint_bounds)
    margin = 0.1 * (upper - lower).max()
    axes.set(
        xlim=(lower[0] - margin, upper[0] + margin), ylim=(lower[1] - margin, upper[1] + margin)
    )
    axes.set(xlabel="x, mm (object frame)", ylabel="y, mm", aspect="equal", title=asset.name)
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=120)


def _ellipse(posterior: Posterior) -> Float[np.ndarray, "2 n"]:
    """Outline of the 95 % region, mm."""
    from p2r_jax.estimator.sysid import CHI2_95

    angle = np.linspace(0, 2 * np.pi, 100)
    root = np.linalg.cholesky(np.asarray(posterior.com_cov, float))
    circle = np.sqrt(CHI2_95) * np.stack([np.cos(angle), np.sin(angle)])
    return 1000 * (np.asarray(posterior.com_mean)[:, None] + root @ circle)
