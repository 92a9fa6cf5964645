"""Vectors and small matrices written out in scalars, for XLA.

A vector is a tuple of arrays, a symmetric matrix the tuple of its lower triangle.
Under ``vmap`` every scalar becomes one array over the environments, so the
compiler sees elementwise code; batched ``(n, 6, 6)`` products and factorisations
would be one small call per environment on a CPU, ten times slower.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

Vector = tuple[Array, ...]
Matrix = tuple[Vector, Vector, Vector]
Symmetric = tuple[Array, Array, Array, Array, Array, Array]  # xx, yy, zz, xy, xz, yz
PIVOT_FLOOR = 1e-12  # a factorisation that lost positivity to rounding stays finite


def add(a: Vector, b: Vector) -> Vector:
    """a + b."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


def subtract(a: Vector, b: Vector) -> Vector:
    """a - b."""
    return tuple(x - y for x, y in zip(a, b, strict=True))


def scale(factor: Array | float, a: Vector) -> Vector:
    """factor * a."""
    return tuple(factor * x for x in a)


def dot(a: Vector, b: Vector) -> Array:
    """a . b."""
    first, *rest = (x * y for x, y in zip(a, b, strict=True))
    return sum(rest, first)


def cross(a: Vector, b: Vector) -> Vector:
    """a x b."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def rotation(quaternion: Vector) -> Matrix:
    """Rows of the rotation matrix of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


def turned(quaternion: Vector, angular_velocity: Vector, seconds: float) -> Vector:
    """Quaternion after turning at a constant angular velocity, given in its own axes."""
    speed = jnp.sqrt(dot(angular_velocity, angular_velocity) + 1e-20)
    half = 0.5 * seconds * speed
    c, (x, y, z) = jnp.cos(half), scale(jnp.sin(half) / speed, angular_velocity)
    qw, qx, qy, qz = quaternion
    product = (
        qw * c - qx * x - qy * y - qz * z,
        qw * x + qx * c + qy * z - qz * y,
        qw * y - qx * z + qy * c + qz * x,
        qw * z + qx * y - qy * x + qz * c,
    )
    return scale(jax.lax.rsqrt(dot(product, product)), product)


def rotate(matrix: Matrix, a: Vector) -> Vector:
    """matrix @ a."""
    return tuple(dot(row, a) for row in matrix)


def unrotate(matrix: Matrix, a: Vector) -> Vector:
    """matrix.T @ a."""
    return tuple(dot(column, a) for column in zip(*matrix, strict=True))


def times(matrix: Symmetric, a: Vector) -> Vector:
    """matrix @ a."""
    xx, yy, zz, xy, xz, yz = matrix
    return dot((xx, xy, xz), a), dot((xy, yy, yz), a), dot((xz, yz, zz), a)


def rotated(matrix: Matrix, symmetric: Symmetric) -> Symmetric:
    """matrix @ symmetric @ matrix.T."""
    x, y, z = matrix
    sx, sy, sz = (times(symmetric, row) for row in matrix)
    return dot(x, sx), dot(y, sy), dot(z, sz), dot(x, sy), dot(x, sz), dot(y, sz)


def solve(lower: list[list[Array]], right: Vector) -> Vector:
    """x with A x = right for a positive definite A, by Cholesky's A = L L'.

    Args:
      lower: rows of A's lower triangle, the diagonal included.
      right: right-hand side.
    """
    size = len(right)
    factor: list[list[Array]] = []
    pivots, forward = [], []  # 1 / diagonal of L; solution of L y = right
    for i in range(size):
        row: list[Array] = []
        for j in range(i):
            known = [a * b for a, b in zip(row, factor[j], strict=False)]
            row.append((lower[i][j] - sum(known)) * pivots[j])
        square = lower[i][i] - sum(a * a for a in row)
        pivots.append(jax.lax.rsqrt(jnp.maximum(square, PIVOT_FLOOR)))
        known = [a * b for a, b in zip(row, forward, strict=True)]
        forward.append((right[i] - sum(known)) * pivots[i])
        factor.append(row)
    solution: list[Array] = []  # from the last to the first
    for i in reversed(range(size)):
        known = [factor[size - 1 - k][i] * x for k, x in enumerate(solution)]
        solution.append((forward[i] - sum(known)) * pivots[i])
    return tuple(reversed(solution))


def materialize(always: Array, tree):
    """``tree``, computed before anything that uses it; ``always`` is true, unknown to XLA.

    XLA's CPU backend fuses elementwise code without limit and computes shared terms
    anew for every use: here a Cholesky factor for each contact of each environment.
    A conditional is a border it does not fuse across (it drops optimization
    barriers), which made the step eight times faster. Other backends need none.
    """

    def border(always, tree):
        return jax.lax.cond(always, lambda t: t, lambda t: jax.tree.map(jnp.zeros_like, t), tree)

    return jax.lax.platform_dependent(always, tree, cpu=border, default=lambda _, tree: tree)
