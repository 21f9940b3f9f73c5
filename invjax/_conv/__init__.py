"""A convolution whose gradients stay fast inside loops on CPU.

XLA's CPU compiler rewrites a convolution into its fast layout (NHWC images, HWIO kernels) only in the entry computation
of a program. JAX writes the two gradients of a convolution in other layouts, so inside any `scan`, `while`, `map` or
`cond` body they compile to naive loops, 2 to 86 times slower. These modules write the gradients as convolutions in the
fast layout:

    y     = x * w
    dL/dx = dL/dy  *  flip(w)^T          (input and output channels swapped; strides: see `_primitive._by_phase`)
    dL/dw = (x^T * (dL/dy)^T)^T          (batch and channels swapped; strides become dilations of dL/dy)

`conv_general_dilated` replaces `lax.conv_general_dilated` (flax modules accept it as an argument), and `fast_convs`
rewrites the convolutions of any function. Neither does anything on GPU and TPU, where the plain operation is fast.
`experiments/benchmarks/loops.py` measures whether this package is still needed; delete it when it is not.
"""

from invjax._conv._primitive import conv_general_dilated
from invjax._conv._rewrite import fast_convs

__all__ = ["conv_general_dilated", "fast_convs"]
