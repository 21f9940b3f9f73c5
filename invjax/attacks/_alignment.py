"""Moving images onto another image: Levenberg-Marquardt steps on the five numbers of an affine transform."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from invjax._warps import unwarp, warp

_UNITS = np.array([7, 1, 1, 0.12, 0.12], np.float32)  # each unit moves the pixels of a digit by about one pixel


@jax.jit
def improved(x, images, starts, low, high, norm, steps, min_brightness):
    """Move each image onto x, by the best of the transforms that a descent of the l2 distance visits.

    Args:
        x: `[H, W, C]`, the image that stays in place.
        images: `[N, H, W, C]`, the images to move.
        starts: `[N, 5]`, the transforms to start from.
        low: `[5]`, the smallest numbers of a transform.
        high: `[5]`, the largest numbers of a transform.
        norm: the index in `NORMS` of the norm that measures distance.
        steps: the number of steps.
        min_brightness: the smallest fraction of its brightness that an image may keep.

    Returns:
        The moved images `[N, H, W, C]`, their distances `[N]` and their transforms `[N, 5]`.
    """
    free = (high > low).astype(x.dtype)

    def distance(moved):
        # `norm` and `steps` are traced, because compiling takes longer than aligning a hundred images
        gap, pixels = jnp.abs(moved - x), ((moved > 0.5) != (x > 0.5)).sum().astype(x.dtype)
        return jnp.stack([pixels, jnp.sqrt((gap**2).sum()), gap.max()])[norm]  # in the order of NORMS

    def one(image, start):
        def look(u):
            """The squared l2 distance, and the distance in `norm`: infinite where the image left the frame."""
            moved = unwarp(image, u * _UNITS)
            inside = warp(moved, u * _UNITS).sum() >= min_brightness * image.sum()
            return ((moved - x) ** 2).sum(), jnp.where(inside, distance(moved), jnp.inf)

        def step(_, carry):
            u, squared, damping, best, least = carry

            def residual(u):
                moved = (unwarp(image, u * _UNITS) - x).ravel()
                return moved, moved

            jacobian, rest = jax.jacfwd(residual, has_aux=True)(u)
            jacobian = jacobian * free[None]
            hessian = jacobian.T @ jacobian
            ridge = damping * jnp.trace(hessian) / 5 + 1e-6
            new = jnp.clip(
                u - jnp.linalg.solve(hessian + ridge * jnp.eye(5, dtype=x.dtype), jacobian.T @ rest), bottom, top
            )
            new_squared, new_least = look(new)
            down = new_squared < squared
            best, least = jax.tree.map(partial(jnp.where, new_least < least), (new, new_least), (best, least))
            u, squared = jax.tree.map(partial(jnp.where, down), (new, new_squared), (u, squared))
            return u, squared, jnp.where(down, damping / 4, damping * 4), best, least

        bottom, top, u = low / _UNITS, high / _UNITS, start / _UNITS
        squared, least = look(u)
        *_, best, least = jax.lax.fori_loop(0, steps, step, (u, squared, jnp.float32(0.01), u, least))
        moved = unwarp(image, best * _UNITS)
        return jnp.where(norm == 0, (moved > 0.5).astype(x.dtype), moved), least, best * _UNITS

    return jax.vmap(one)(images, starts)
