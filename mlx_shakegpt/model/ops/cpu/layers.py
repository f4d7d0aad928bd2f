"""GELU, LayerNorm and linear layers over rows, (N, in) to (N, out)."""

from __future__ import annotations

import mlx.core as mx

from .formulas import barrier, custom, gelu_backward, gelu_forward


@custom
def gelu(x):
    return gelu_forward(x)


@gelu.vjp
def _gelu_vjp(primals, cotangent, _):
    return gelu_backward(primals, cotangent)


@custom
def linear(x, weight):
    return x @ weight.T


@linear.vjp
def _linear_vjp(primals, cotangent, _):
    """The weight's gradient as (out, in) in memory; MLX's own is a transposed view, on which the
    optimiser runs at a tenth of its speed on a CPU, and by strided kernels on a GPU."""
    x, weight = primals
    return cotangent @ weight, cotangent.T @ x


@custom
def affine(x, weight, bias):
    return mx.addmm(bias, x, weight.T)


@affine.vjp
def _affine_vjp(primals, cotangent, _):
    x, weight, _ = primals
    return cotangent @ weight, cotangent.T @ x, cotangent.sum(0)


@custom
def gelu_affine(x, weight, bias):
    """affine(gelu(x), weight, bias), which keeps x for the gradient and computes gelu(x) anew: a
    third of what a block would keep, for a hundredth of a step's time."""
    return mx.addmm(bias, gelu_forward(x), weight.T)


@gelu_affine.vjp
def _gelu_affine_vjp(primals, cotangent, _):
    x, weight, _ = primals
    # Else mx.compile would find that the forward pass has it already, and keep that.
    (later,) = mx.depends([x], [cotangent])
    dx = gelu_backward(x, cotangent @ weight)
    return dx, cotangent.T @ gelu_forward(later), cotangent.sum(0)


@custom
def layer_norm(x, scale, shift, eps):
    """(N, C); sums, here and in the gradient, are products with vectors: BLAS uses all cores."""
    normal, rstd = _normalise(x, eps)
    return normal * scale + shift, normal, rstd


@layer_norm.vjp
def _layer_norm_vjp(primals, cotangents, outputs):
    _, scale, _, eps = primals
    return *_normalise_vjp(cotangents[0], scale, *outputs[1:]), mx.zeros_like(eps)


@custom
def norm_affine(x, scale, shift, eps, weight, bias):
    """affine(layer_norm(x, scale, shift, eps), weight, bias); the gradient scales and shifts the
    normalised rows anew, so that only these are kept."""
    normal, rstd = _normalise(x, eps)
    return mx.addmm(bias, normal * scale + shift, weight.T), normal, rstd


@norm_affine.vjp
def _norm_affine_vjp(primals, cotangents, outputs):
    _, scale, shift, eps, weight, _ = primals
    g, normal, rstd = cotangents[0], outputs[1], outputs[2]
    # Else mx.compile would find that the forward pass has them already, and keep those.
    (later,) = mx.depends([normal], [g])
    dweight = g.T @ (later * scale + shift)
    dx, dscale, dshift = _normalise_vjp(g @ weight, scale, normal, rstd)
    return dx, dscale, dshift, mx.zeros_like(eps), dweight, g.sum(0)


def _normalise(x: mx.array, eps: mx.array) -> tuple[mx.array, mx.array]:
    mean = mx.full((x.shape[-1], 1), 1 / x.shape[-1])
    centred = x - x @ mean
    rstd = mx.rsqrt(barrier(centred * centred).reshape(x.shape) @ mean + eps)
    return centred * rstd, rstd


def _normalise_vjp(
    g: mx.array, scale: mx.array, normal: mx.array, rstd: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """The gradients of x, scale and shift from that of normal * scale + shift."""
    ones, mean = mx.ones((1, g.shape[0])), (scale / g.shape[-1])[:, None]
    product = g * normal
    dx = (g * scale - g @ mean - normal * (product @ mean)) * rstd
    return dx, (ones @ product).squeeze(0), (ones @ g).squeeze(0)
