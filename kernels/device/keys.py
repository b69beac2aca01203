"""Keys that rank the classes of a pixel.

* 16-bit logits, widened to float32, leave 13 mantissa bits empty: a key holds logit and class there, ordered by logit
  and, among equal logits, by lower class. No two classes of a pixel share a key, so selection needs no care for ties:
  ``key >= cut`` is membership. A tagged key is a float, the logit raised by a share of its magnitude that is smaller
  than any step between logits. An int32 key, for more classes, takes four instructions instead of two.
* float32 logits in registers are their own keys, with one instruction a comparison where an int64 takes six. Ties are
  rare there and are broken afterwards (``assignment.drop_ties``), in blocks that have one at the cut.
* float32 logits in tiles take int64 keys, with the class in the lower half.
"""

import triton
import triton.language as tl

MAX_CLASSES = tl.constexpr(8192)
CLASS_BITS = tl.constexpr(0x1FFF)  # complemented in the key, so that the lower class has the larger key
NARROW_MAGNITUDE = tl.constexpr(0x7FFFE000)  # exponent and the mantissa bits that a 16-bit logit can set
MAX_TAGGED = tl.constexpr(32)  # classes that tagged keys distinguish
TAG = tl.constexpr(2.0**-18)  # share of the magnitude by which the keys of two successive classes differ
SMALLEST_NORMAL = tl.constexpr(2.0**-126)
WIDE_MAGNITUDE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def make_key(logits, class_index, KEY: tl.constexpr):
    """Key of float32 ``logits`` (any shape) of class ``class_index`` (number or broadcastable int32 tensor).

    KEY is the kind of key: "tagged" or "int32" for values that a 16-bit type holds, "int64" or "float32" for any.
    """
    if KEY == "float32":
        return logits
    elif KEY == "tagged":
        # At most 2^-13 of the logit, a quarter of the least step of float16. The addition keeps zeros apart.
        return tl.fma(tl.abs(logits) + SMALLEST_NORMAL, (class_index - MAX_TAGGED) * -TAG, logits)
    else:
        bits = (logits + 0.0).to(tl.int32, bitcast=True)  # -0.0 + 0.0 is +0.0: equal logits must have equal bits
        sign = bits >> 31
        if KEY == "int64":  # negative floats order backwards as integers: flip their magnitude
            return ((bits ^ (sign & WIDE_MAGNITUDE)).to(tl.int64) << 32) + CLASS_BITS - class_index
        else:
            tl.static_assert(KEY == "int32")
            return (bits ^ (sign & NARROW_MAGNITUDE)) + CLASS_BITS - class_index


@triton.jit
def key_logit(key, KEY: tl.constexpr):
    """The float32 logit in a key."""
    if KEY == "float32":
        return key
    elif KEY == "tagged":
        bits = key.to(tl.int32, bitcast=True)
        return ((bits + (CLASS_BITS + 1) // 2) & ~CLASS_BITS).to(tl.float32, bitcast=True)  # to the nearest
    else:
        if KEY == "int64":
            ordered = (key >> 32).to(tl.int32)
            bits = ordered ^ ((ordered >> 31) & WIDE_MAGNITUDE)
        else:
            bits = (key ^ ((key >> 31) & NARROW_MAGNITUDE)) & ~CLASS_BITS
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def key_class(key):
    """The class in an integer key, int32."""
    return ((key & CLASS_BITS) ^ CLASS_BITS).to(tl.int32)


@triton.jit
def lowest_key(like):
    """Key below the key of every class, with the shape and type of ``like``."""
    if like.dtype == tl.float32:
        return tl.full(like.shape, float("-inf"), tl.float32)
    elif like.dtype == tl.int64:
        return tl.full(like.shape, -(2**63), tl.int64)
    else:
        return tl.full(like.shape, -(2**31), tl.int32)
