"""``report.html``: what every step of a reconstruction made, and how good it is.

One file without links to anything: pictures are embedded. It is written from what lies in
the folder, so it also tells how far an unfinished reconstruction came.
"""

import json
from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from p2r_jax.files import write_atomic
from p2r_jax.real2sim.report_html import (
    Fact,
    bars,
    cards,
    fact,
    group,
    image,
    mean_min,
    mm,
    notes,
)
from p2r_jax.real2sim.report_pictures import (
    PAIR_PX,
    SHEET_PX,
    embedded,
    embedded_jpeg,
    frusta_plot,
    mesh_over_photo,
    mesh_turntable,
    sharpness_plot,
    splat_turntable,
)
from p2r_jax.real2sim.views import View, read_views, split_views

PAGE = "report.html"
MOST_PICTURES = 12  # of held-out views
STEP_FILES = {
    "frames": "frames/frames.json",
    "masks": "masks/masks.json",
    "cameras": "cameras/cameras.json",
    "splat": "splat/splat.json",
    "mesh": "mesh/mesh.json",
    "asset": "asset/reconstruction.json",
}
NEXT = "not done yet"
LEFT_BY_ERRORS = "contact_sheet.jpg", "trouble.jpg", "asymmetry.png"


class Folder(NamedTuple):
    """A reconstruction's folder and the records of the steps that are done.

    Attributes:
      path: the folder.
      records: JSON by step.
      settings: ``config.json`` of the whole, if there is one.
      seconds: by step, as the pipeline measured them.
    """

    path: Path
    records: dict[str, dict]
    settings: dict | None
    seconds: dict[str, float]


def write_report(folder: Path, stopped: str | None = None) -> Path:
    """Write ``report.html`` from whatever steps are finished.

    Args:
      folder: output folder of a reconstruction.
      stopped: why it went no further, if it did not finish.

    Returns:
      The file.
    """
    found = _read(folder)
    parts = [_header(found), _banner(stopped), _summary(found)]
    for step, draw in SECTIONS.items():
        parts.append(_section(step, draw, found))
    parts.append(_settings(found))
    style = (resources.files("p2r_jax.real2sim") / "report.css").read_text()
    title = escape(f"{folder.resolve().name}: reconstruction")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body>'
        f"{''.join(parts)}</body></html>\n"
    )
    file = folder / PAGE
    write_atomic(file, page.encode())
    return file


def _read(folder: Path) -> Folder:
    records = {step: _json(folder / name) for step, name in STEP_FILES.items()}
    ledger = (_json(folder / "steps.json") or {}).get("steps")
    done = {
        step: record
        for step, record in records.items()
        if record is not None and (ledger is None or step in ledger)  # not of an earlier run
    }
    ledger = ledger or {}
    seconds = {step: record["seconds"] for step, record in done.items() if "seconds" in record}
    measured = {step: entry["seconds"] for step, entry in ledger.items() if step in done}
    return Folder(folder, done, _json(folder / "config.json"), seconds | measured)


def _json(path: Path) -> dict | None:
    """The record, or None where there is none that can be read."""
    try:
        record = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None


def pick(record: dict | None, path: str) -> Any:
    """The value under a dotted path; None if any of it is missing."""
    for key in path.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _section(step: str, draw: Callable[[Folder], str], found: Folder) -> str:
    if step not in found.records:
        body = f'<p class="soft">{NEXT}</p>' + _trouble(step, found)
    else:
        try:
            body = draw(found)
        except Exception as error:  # a report must not hide the error that a run ends with
            body = f'<p class="bad">could not be shown: {escape(str(error) or repr(error))}</p>'
    return f'<section id="{step}"><h2>{step.capitalize()}</h2>{body}</section>'


def _header(found: Folder) -> str:
    chips = "".join(
        f'<a href="#{step}" class="{"done" if step in found.records else "open"}">{step}</a>'
        for step in STEP_FILES
    )
    capture = pick(found.records.get("frames"), "capture") or ""
    total = sum(found.seconds.values())
    took = f"{total:.0f} s in all" if total else ""
    return (
        f"<header><h1>{escape(found.path.resolve().name)}</h1>"
        f'<p class="soft">{escape(capture)}</p><nav>{chips}</nav>{bars(found.seconds)}'
        f'<p class="soft">{took}</p></header>'
    )


def _banner(stopped: str | None) -> str:
    return f'<p class="banner" role="alert">{escape(stopped)}</p>' if stopped else ""


def _summary(found: Folder) -> str:
    mesh, asset = found.records.get("mesh"), found.records.get("asset")
    facts = [
        fact("held-out PSNR", pick(found.records.get("splat"), "psnr_db"), "{:.1f} dB".format),
        fact("held-out silhouettes of the mesh, IoU", _silhouettes(mesh), "{:.3f}".format),
        _watertight(mesh),
        fact("volume", pick(mesh, "volume_m3"), lambda v: f"{1e6 * v:.1f} cm³"),
        fact("size", pick(mesh, "bounds_m"), lambda b: mm(np.ptp(np.array(b), axis=0))),
        fact("mass", pick(asset, "mass_kg"), lambda m: f"{1e3 * m:.0f} g"),
    ]
    return cards(facts)


def _silhouettes(mesh: dict | None) -> float | None:
    held_out = pick(mesh, "silhouette_iou.held_out.mean")
    return pick(mesh, "silhouette_iou.shaping.mean") if held_out is None else held_out


def _watertight(mesh: dict | None) -> Fact | None:
    value = pick(mesh, "watertight")
    return fact("watertight", value, lambda v: "yes" if v else "no", value)


def _frames(found: Folder) -> str:
    record = found.records["frames"]
    kind = "film" if record["kind"] == "film" else "photos"
    facts = [
        Fact(f"taken, of {record['seen']} {'frames' if kind == 'film' else 'photos'}",
             str(record["chosen"])),
        Fact("size", f"{record['width']} × {record['height']} px"),
        *(Fact(f"left out: {why}", str(count)) for why, count in record["left_out"].items()),
    ]  # fmt: skip
    return cards(facts) + image(sharpness_plot(record["frames"]), "plain")


def _masks(found: Folder) -> str:
    record, folder = found.records["masks"], found.path / "masks"
    agreement = record["agreement_with_given"]
    facts = [
        Fact("segmenter", record["segmenter"]),
        Fact("kept", str(record["kept"])),
        Fact("left out", str(len(record["dropped"])), None if not record["dropped"] else False),
        fact("IoU with the masks that came with it", agreement,
              lambda a: f"{a['mean_iou']:.3f}, least {a['least_iou']:.3f}"),
    ]  # fmt: skip
    lines = [record["assumed"], *(f"{name}: {why}" for name, why in record["dropped"].items())]
    return cards(facts) + notes(lines) + image(_sheet(folder), "sheet")


def _trouble(step: str, found: Folder) -> str:
    """Pictures that a step which gave up has left."""
    left = [found.path / step / name for name in LEFT_BY_ERRORS]
    return "".join(image(embedded_jpeg(_pixels(f), SHEET_PX), "sheet") for f in left if f.is_file())


def _sheet(folder: Path) -> str:
    return embedded_jpeg(_pixels(folder / "contact_sheet.jpg"), SHEET_PX)


def _pixels(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def _cameras(found: Folder) -> str:
    import trimesh

    record = found.records["cameras"]
    views, _ = read_views(found.path / "cameras" / "cameras.json")
    cloud = found.path / "cameras" / "points.ply"
    mesh = found.path / "mesh" / "mesh.ply"
    points, colours = np.zeros((0, 3)), np.zeros((0, 3))
    for file in (cloud, mesh):
        if file.is_file():
            shape = trimesh.load(file, process=False)
            rgba = shape.visual.vertex_colors if hasattr(shape, "faces") else shape.colors
            points = np.concatenate([points, shape.vertices])
            some = (
                np.asarray(rgba)[:, :3] / 255 if len(rgba) else np.full(shape.vertices.shape, 0.5)
            )
            colours = np.concatenate([colours, some])
    facts = [
        Fact("posed, of " + str(record["frames"]), str(len(views))),
        Fact("poses", str(record["source"])),
        fact("reprojection", pick(record, "poses.reprojection_px"), "{:.2f} px".format),
        fact("metres from", pick(record, "scale.source"), str),
        fact("table from", pick(record, "table.source"), str),
        fact("camera distance", pick(record, "object.camera_distance_m"), "{:.2f} m".format),
    ]
    held_out = [score["view"] for score in pick(found.records.get("splat"), "held_out") or ()]
    without = record["without_pose"]
    lines = [f"without a pose: {', '.join(without)}"] if without else []
    return cards(facts) + notes(lines) + image(
        frusta_plot(views, points, colours, held_out), "plain",
        "in red: views that only judge the splat" if held_out else "",
    )  # fmt: skip


def _splat(found: Folder) -> str:
    record, folder = found.records["splat"], found.path / "splat"
    facts = [
        Fact("Gaussians", f"{record['gaussians']}"),
        fact("held-out PSNR, object", record["psnr_db"], "{:.2f} dB".format),
        fact("held-out PSNR, whole crop", pick(record, "psnr_crop_db"), "{:.2f} dB".format),
        fact("held-out mask IoU", record["mask_iou"], "{:.4f}".format),
        fact("backend", pick(record, "settings.backend"), str),
        Fact("dropped pairs", str(record["dropped_pairs"]), record["dropped_pairs"] == 0),
    ]
    pairs = "".join(
        image(
            embedded_jpeg(_pixels(folder / "heldout" / f"{score['view']}.png"), PAIR_PX),
            "pair",
            f"{score['view']}: {score['psnr_db']:.1f} dB, IoU {score['mask_iou']:.3f}",
        )
        for score in record["held_out"][:MOST_PICTURES]
        if (folder / "heldout" / f"{score['view']}.png").is_file()
    )
    turning = image(splat_turntable(folder / "splat.ply"), "turntable")
    return cards(facts) + turning + group("Held-out views: render, photo", pairs)


def _mesh(found: Folder) -> str:
    import trimesh

    record, folder = found.records["mesh"], found.path / "mesh"
    mesh = trimesh.load(folder / record["mesh"], force="mesh", process=False)
    symmetric = pick(record, "symmetry.symmetric")
    facts = [
        _watertight(record),
        Fact("volume", f"{1e6 * record['volume_m3']:.2f} cm³"),
        fact("size", record["bounds_m"], lambda b: mm(np.ptp(np.array(b), axis=0))),
        fact("centre of mass if uniform", record["uniform_com_m"], mm),
        fact("asymmetry", pick(record, "symmetry.score"), lambda s: f"{s:.4f} of its size"),
        fact("counts as symmetric", symmetric, lambda s: "yes" if s else "no"),
        fact("mirrored", pick(record, "symmetry.mirrored"), lambda m: "yes" if m else "no"),
        fact("silhouettes that shaped it, IoU", pick(record, "silhouette_iou.shaping"), mean_min),
        fact("held-out silhouettes, IoU", pick(record, "silhouette_iou.held_out"), mean_min),
        Fact("triangles", str(record["faces"])),
    ]
    turning = image(mesh_turntable(folder / record["mesh"], mesh), "turntable")
    picture = folder / "asymmetry.png"
    odd = "where the mirror image differs"
    return (
        cards(facts)
        + notes(pick(record, "notes") or [])
        + turning
        + (image(embedded(picture), "plain", odd) if picture.is_file() else "")
        + group("Outline over photos that did not shape it", _overlays(found, mesh))
    )


def _overlays(found: Folder, mesh) -> str:
    """Outlines over the held-out views, the worst first."""
    by_view = pick(found.records["mesh"], "silhouette_iou.by_view") or {}
    views = {view.name: view for view in _judging(found)}
    worst = sorted((name for name in by_view if name in views), key=by_view.get)
    return "".join(
        image(mesh_over_photo(mesh, views[name]), "overlay", f"{name}: IoU {by_view[name]:.3f}")
        for name in worst[:MOST_PICTURES]
    )


def _judging(found: Folder) -> Sequence[View]:
    file = found.path / "cameras" / "cameras.json"
    every = pick(found.records["mesh"], "settings.held_out")
    return split_views(read_views(file)[0], every)[1] if every and file.is_file() else ()


def _asset(found: Folder) -> str:
    record = found.records["asset"]
    asset = _json(found.path / "asset" / "asset.json")
    facts = [
        Fact("mass", f"{1e3 * record['mass_kg']:.1f} g"),
        fact("density", pick(record, "density_kg_m3"), "{:.0f} kg/m³".format),
        fact("centre of mass, object frame", pick(asset, "com_m"), mm),
        fact("convex parts", pick(record, "hulls"), str),
        fact("their volume off by", pick(record, "hull_volume_error"), "{:+.1%}".format),
        *(
            Fact(
                f"{spec['name']} may be", f"{100 * spec['low']:.1f} to {100 * spec['high']:.1f} cm"
            )
            for spec in pick(record, "theta") or ()
        ),
    ]
    train = f"p2r train {found.path} privileged --out runs/mine"
    return cards(facts) + notes(record["notes"]) + f"<pre>{escape(train)}</pre>"


def _settings(found: Folder) -> str:
    if found.settings is None:
        return ""
    text = escape(json.dumps(found.settings, indent=2))
    return f"<section><details><summary>Settings</summary><pre>{text}</pre></details></section>"


SECTIONS: dict[str, Callable[[Folder], str]] = {
    "frames": _frames,
    "masks": _masks,
    "cameras": _cameras,
    "splat": _splat,
    "mesh": _mesh,
    "asset": _asset,
}
