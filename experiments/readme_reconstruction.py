"""Tables about objects made of pictures."""

from readme_layout import grid, machine

STEPS = ("frames", "masks", "cameras", "splat", "mesh", "asset")
NAMES = {
    "tblock": "T-block, filmed",
    "hammer": "hammer, filmed",
    "head": "head, given masks and poses",
    "head-masks": "head, own masks",
    "head-poses": "head, own poses",
}


def reconstruction(record: dict) -> str:
    """How good the meshes are, and how long the steps took."""
    cases = record["cases"]
    truth = [_against_truth(NAMES[n], r) for n, r in cases.items() if "mesh" in r]
    head = ("capture", "CoM in plane mm", "volume %", "Chamfer mm", "footprint IoU", "cameras mm")
    quality = [_of_itself(NAMES[n], r) for n, r in cases.items()]
    own = ("capture", "held-out PSNR dB", "held-out silhouette IoU", "watertight", "mirrored")
    times = [
        [NAMES[n], *(f"{r['seconds_by_step'].get(s, 0):.0f}" for s in STEPS), f"{r['seconds']:.0f}"]
        for n, r in cases.items()
    ]
    missed = [f"{NAMES[n]}: {k}" for n, r in cases.items() for k, v in r["met"].items() if not v]
    first = next(iter(cases.values()))
    return (
        f"{machine(first)}\n\nAgainst the truth (the mesh is turned and shifted as the camera "
        f"centres fit, never scaled):\n\n{grid(head, truth)}\nBy views that shaped nothing:\n\n"
        f"{grid(own, quality)}\nSeconds:\n\n{grid(('capture', *STEPS, 'all'), times)}\n"
        f"Marks missed: {'; '.join(missed) or 'none'}.\n"
    )


def _against_truth(name: str, row: dict) -> list[str]:
    mesh = row["mesh"]
    return [
        name, f"{1e3 * mesh['com_plane_m']:.2f}", f"{100 * mesh['volume']:+.1f}",
        f"{1e3 * mesh['chamfer_m']:.2f}", f"{mesh['footprint_iou']:.3f}",
        f"{row['cameras']['center_rms_mm']:.2f}",
    ]  # fmt: skip


def _of_itself(name: str, row: dict) -> list[str]:
    yes = {True: "yes", False: "no"}
    return [
        name, f"{row['psnr_db']:.1f}", f"{row['silhouette_iou']:.3f}", yes[row["watertight"]],
        f"{yes[row['mirrored']]} (score {row['symmetry_score']:.3f})",
    ]  # fmt: skip


def train_on_reconstruction(record: dict) -> str:
    """Success on the hand-written T of policies trained on it and on the filmed one."""
    by_seed, rows = record["success_by_seed"], []
    for where, gap in record["filmed_minus_written"].items():
        cells = [" ".join(f"{100 * row[where]:.0f}" for row in rows_) for rows_ in by_seed.values()]
        low, high = 100 * gap["low"], 100 * gap["high"]
        rows.append([where, *cells, f"{100 * gap['value']:+.1f} [{low:+.1f}, {high:+.1f}]"])
    s = record["settings"]
    verdict = "met" if record["met"] else "not met"
    return (
        f"Success in percent of every training seed; {record['steps'] / 1e6:g} M control steps "
        f"each, {s['trials']} trials a cell in reality-dev. Intervals: Student's, over "
        f"{len(s['seeds'])} seeds.\n\n{grid(('weight', *by_seed, 'difference, points'), rows)}\n"
        f"Mark, a mean difference within {record['mark_points']:g} points: {verdict}.\n"
    )


def real_clip(record: dict) -> str:
    """How far masks of two blocks of a film are from where they were seen."""
    rows = []
    for block in record["blocks"]:
        away = [place["distance_sides"] for place in block["places"]]
        told = ["no mask" if d is None else f"{d:.1f}" for d in away]
        rows.append([block["block"], f"{block['kept']} of {record['frames']}", *told])
    seconds = [f"after {p['second']:g} s" for p in record["blocks"][0]["places"]]
    return (
        f"{grid(('block', 'frames with a mask', *seconds), rows)}\n"
        "Distances in sides of the block.\n"
    )


def rasteriser(record: dict) -> str:
    """Milliseconds of a picture and of its gradient."""
    rows = [
        [
            r["renderer"], f"{r['gaussians']}", f"{r['size']}", f"{r['forward']['ms']:.1f}",
            f"{r['forward_and_gradient']['ms']:.1f}",
            f"{r['forward']['compile_s'] + r['forward_and_gradient']['compile_s']:.1f}",
        ]
        for r in record["rows"]
    ]  # fmt: skip
    head = ("renderer", "Gaussians", "px", "forward ms", "forward + gradient ms", "compile s")
    why = f"gsplat: {record['skipped'][0]['why']}.\n" if record["skipped"] else ""
    return f"{machine(record)}\n\n{grid(head, rows)}\n{why}"


def tblock_from_splat(record: dict) -> str:
    """The outline of the T that was made of 498 Gaussians alone."""
    outline, mesh = record["outline_of_mesh_against_splats"], record["mesh"]
    fitted, seen = record["t_fitted_to_mesh_outline"], record["t_of_the_silhouettes"]
    gaps = record["mesh_minus_silhouettes"]
    rows = [
        [
            name.replace("_", " "), f"{1e3 * fitted[name]:.0f}", f"{1e3 * seen[name]:.0f}",
            f"{gaps[f'{name}_mm']:+.0f}",
        ]
        for name in seen
    ]  # fmt: skip
    closed = "watertight" if mesh["watertight"] else "open"
    return (
        f"{record['gaussians']} Gaussians, mesh {closed}; its outline against the splat's own: "
        f"IoU {outline['iou']:.3f}, at most {outline['largest_distance_mm']:.1f} mm apart.\n\n"
        f"{grid(('T fitted to', 'mesh mm', 'silhouettes mm', 'difference mm'), rows)}"
    )
