"""Fits the rational functions behind the CPU's GELU and its derivative, and prints their terms.

    python benchmarks/fit_gelu.py

Each is an odd function f(x) = x P(x²) / Q(x²) on [-limit, limit], fitted by linear least squares
whose weights grow where the error is large (Lawson, 1961), until it is nearly even.
"""

import numpy as np

ROOT = np.sqrt(2 / np.pi)
POINTS, ROUNDS = 4000, 60


def tanh(x):
    return np.tanh(ROOT * (x + 0.044715 * x**3))


def slope(x):
    """GELU'(x) - 1/2."""
    t = tanh(x)
    return 0.5 * t + 0.5 * x * (1 - t * t) * ROOT * (1 + 3 * 0.044715 * x * x)


def fit(f, limit, top, bottom):
    """(largest error, terms of P, terms of Q) with `top` + 1 and `bottom` + 1 terms; Q(0) = 1."""
    x = limit * np.cos(np.pi * (2 * np.arange(POINTS) + 1) / (4 * POINTS))  # Chebyshev, x > 0
    y, s = f(x), (x / limit) ** 2
    up, down = (s[:, None] ** np.arange(n + 1) for n in (top, bottom))
    weight, q = np.ones(POINTS), np.ones(POINTS)
    best = (np.inf, None)
    for _ in range(ROUNDS):
        system = np.hstack([x[:, None] * up, -y[:, None] * down[:, 1:]]) / q[:, None]
        c = np.linalg.lstsq(system * weight[:, None], y / q * weight, rcond=None)[0]
        c = np.insert(c, top + 1, 1.0)
        q = down @ c[top + 1 :]
        error = np.abs(x * (up @ c[: top + 1]) / q - y)
        if error.max() < best[0]:
            best = (error.max(), c)
        weight *= (error / error.max() + 1e-3) ** 0.4
        weight /= weight.mean()
    largest, c = best
    scale = limit ** (-2.0 * np.concatenate([np.arange(top + 1), np.arange(bottom + 1)]))
    return largest, (c * scale)[: top + 1], (c * scale)[top + 1 :]


if __name__ == "__main__":
    for name, f, limit, top, bottom in (("tanh", tanh, 5.0, 5, 4), ("slope", slope, 5.2, 6, 4)):
        largest, p, q = fit(f, limit, top, bottom)
        print(f"{name}: limit {limit}, largest error {largest:.1e}")
        for terms in (p, q):
            print("   ", ", ".join(f"{value:.9g}" for value in terms))
