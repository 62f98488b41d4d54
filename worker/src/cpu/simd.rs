//! Vectors of f32 lanes, so that one kernel source serves every instruction set.
//!
//! Each method is one IEEE operation on each lane, or an exact rearrangement; none of them reorders anything. A method
//! is safe to call where the processor has the instruction set of the implementing type, and where pointers are valid
//! for `LANES` elements, of any alignment.

use half::f16;

#[allow(clippy::missing_safety_doc)] // one contract for all, above
pub trait Simd: Copy {
    const LANES: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Widens halves, which must be finite.
    unsafe fn load_half(from: *const f16) -> Self;
    /// Narrows to halves.
    unsafe fn store_half(self, to: *mut f16);

    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn neg(self) -> Self;
    /// a * b + c, rounded once.
    unsafe fn fma(a: Self, b: Self, c: Self) -> Self;
    /// The same where a * b is exact, as a product of two halves is.
    #[inline(always)]
    unsafe fn fma_exact(a: Self, b: Self, c: Self) -> Self {
        // SAFETY: the caller's contract is that of `fma`.
        unsafe { Self::fma(a, b, c) }
    }
    /// To the nearest integer, ties to even.
    unsafe fn rint(self) -> Self;
    /// Adds the integer `n` to the exponent.
    unsafe fn scale(self, n: Self) -> Self;
    /// The lane where `x >= limit`, +0 elsewhere.
    unsafe fn keep_at_least(self, x: Self, limit: Self) -> Self;
    /// Rounds through f16; what is not finite becomes +0, and the answer is then false.
    unsafe fn round_half(self) -> (Self, bool);
    #[inline(always)]
    unsafe fn prefetch(_from: *const f16) {}

    /// A dword a lane.
    type Dwords: Copy;
    unsafe fn load_dwords(from: *const u8) -> Self::Dwords;
    /// The number in bits 4 i to 4 i + 3 of each dword, two's complement or not.
    unsafe fn nibble(dwords: Self::Dwords, i: usize, signed: bool) -> Self;
    /// A signed byte a lane.
    unsafe fn load_bytes(from: *const u8) -> Self;
}

/// Greatest finite half.
const HALF_MAX: f32 = 65_504.0;

/// Eight lanes in plain Rust, for processors without a kernel of their own.
#[derive(Clone, Copy)]
pub struct Lanes([f32; 8]);

impl Lanes {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Simd for Lanes {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's pointer is valid for eight elements.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's pointer is valid for eight elements.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_half(from: *const f16) -> Self {
        // SAFETY: the caller's pointer is valid for eight elements.
        let halves = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        // The half's bits in an f32's place are 2^-112 of its value, subnormals included.
        const SCALE: f32 = f32::from_bits((112 + 127) << 23);
        Self(halves.map(|h| {
            let magnitude = f32::from_bits(u32::from(h & 0x7fff) << 13) * SCALE;
            f32::from_bits(magnitude.to_bits() | u32::from(h & 0x8000) << 16)
        }))
    }
    #[inline(always)]
    unsafe fn store_half(self, to: *mut f16) {
        // SAFETY: the caller's pointer is valid for eight elements.
        unsafe { to.cast::<[f16; 8]>().write_unaligned(self.0.map(f16::from_f32)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn neg(self) -> Self {
        Self(self.0.map(|x| -x))
    }
    #[inline(always)]
    unsafe fn fma(a: Self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| a.0[i].mul_add(b.0[i], c.0[i])))
    }
    #[inline(always)]
    unsafe fn fma_exact(a: Self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| a.0[i] * b.0[i] + c.0[i]))
    }
    #[inline(always)]
    unsafe fn rint(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }
    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        self.zip(n, |x, n| f32::from_bits(x.to_bits().wrapping_add(((n as i32) << 23) as u32)))
    }
    #[inline(always)]
    unsafe fn keep_at_least(self, x: Self, limit: Self) -> Self {
        Self(std::array::from_fn(|i| if x.0[i] >= limit.0[i] { self.0[i] } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn round_half(self) -> (Self, bool) {
        let rounded = self.0.map(|x| f16::from_f32(x).to_f32());
        let kept = rounded.map(|x| if x.abs() <= HALF_MAX { x } else { 0.0 });
        (Self(kept), rounded.iter().all(|x| x.abs() <= HALF_MAX))
    }

    type Dwords = [u32; 8];
    #[inline(always)]
    unsafe fn load_dwords(from: *const u8) -> Self::Dwords {
        // SAFETY: the caller's pointer is valid for eight dwords.
        unsafe { from.cast::<[u32; 8]>().read_unaligned() }.map(u32::from_le)
    }
    #[inline(always)]
    unsafe fn nibble(dwords: Self::Dwords, i: usize, signed: bool) -> Self {
        let top = dwords.map(|dword| dword << (28 - 4 * i));
        Self(top.map(|top| if signed { (top as i32 >> 28) as f32 } else { (top >> 28) as f32 }))
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self {
        // SAFETY: the caller's pointer is valid for eight bytes.
        Self(unsafe { from.cast::<[i8; 8]>().read_unaligned() }.map(f32::from))
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    /// Eight lanes of AVX2, FMA and F16C.
    pub type Avx2 = __m256;
    /// Sixteen lanes of AVX-512 F, BW, DQ and VL.
    pub type Avx512 = __m512;

    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

    /// The methods that differ between the two widths in the intrinsic's name alone.
    macro_rules! plain {
        ($splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $min:ident,
         $max:ident, $fma:ident) => {
            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                // SAFETY: the caller has the instruction set.
                unsafe { $splat(x) }
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the caller has the instruction set and a valid pointer.
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the caller has the instruction set and a valid pointer.
                unsafe { $store(to, self) }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                unsafe { $add(self, other) }
            }
            #[inline(always)]
            unsafe fn sub(self, other: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                unsafe { $sub(self, other) }
            }
            #[inline(always)]
            unsafe fn mul(self, other: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                unsafe { $mul(self, other) }
            }
            #[inline(always)]
            unsafe fn div(self, other: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                unsafe { $div(self, other) }
            }
            #[inline(always)]
            unsafe fn min(self, other: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                unsafe { $min(self, other) }
            }
            #[inline(always)]
            unsafe fn max(self, other: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                unsafe { $max(self, other) }
            }
            #[inline(always)]
            unsafe fn fma(a: Self, b: Self, c: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                unsafe { $fma(a, b, c) }
            }
            #[inline(always)]
            unsafe fn prefetch(from: *const f16) {
                // SAFETY: a prefetch may name any address.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
            }
        };
    }

    impl Simd for Avx2 {
        const LANES: usize = 8;
        plain! { _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps,
        _mm256_div_ps, _mm256_min_ps, _mm256_max_ps, _mm256_fmadd_ps }

        #[inline(always)]
        unsafe fn load_half(from: *const f16) -> Self {
            // SAFETY: the caller has the instruction set and a valid pointer.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        }
        #[inline(always)]
        unsafe fn store_half(self, to: *mut f16) {
            // SAFETY: the caller has the instruction set and a valid pointer.
            unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self)) }
        }
        #[inline(always)]
        unsafe fn neg(self) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe { _mm256_xor_ps(self, _mm256_set1_ps(-0.0)) }
        }
        #[inline(always)]
        unsafe fn rint(self) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe { _mm256_round_ps::<NEAREST>(self) }
        }
        #[inline(always)]
        unsafe fn scale(self, n: Self) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe {
                let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self), exponent))
            }
        }
        #[inline(always)]
        unsafe fn keep_at_least(self, x: Self, limit: Self) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe { _mm256_and_ps(self, _mm256_cmp_ps::<_CMP_GE_OQ>(x, limit)) }
        }
        #[inline(always)]
        unsafe fn round_half(self) -> (Self, bool) {
            // SAFETY: the caller has the instruction set.
            unsafe {
                let rounded = _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self));
                let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), rounded);
                let finite = _mm256_cmp_ps::<_CMP_LE_OQ>(magnitude, _mm256_set1_ps(HALF_MAX));
                (_mm256_and_ps(rounded, finite), _mm256_movemask_ps(finite) == 0xff)
            }
        }

        type Dwords = __m256i;
        #[inline(always)]
        unsafe fn load_dwords(from: *const u8) -> Self::Dwords {
            // SAFETY: the caller has the instruction set and a valid pointer.
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn nibble(dwords: Self::Dwords, i: usize, signed: bool) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe {
                let code = if signed {
                    let top = _mm256_sllv_epi32(dwords, _mm256_set1_epi32(28 - 4 * i as i32));
                    _mm256_srai_epi32::<28>(top)
                } else {
                    let low = _mm256_srlv_epi32(dwords, _mm256_set1_epi32(4 * i as i32));
                    _mm256_and_si256(low, _mm256_set1_epi32(15))
                };
                _mm256_cvtepi32_ps(code)
            }
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8) -> Self {
            // SAFETY: the caller has the instruction set and a valid pointer.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
        }
    }

    impl Simd for Avx512 {
        const LANES: usize = 16;
        plain! { _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps,
        _mm512_div_ps, _mm512_min_ps, _mm512_max_ps, _mm512_fmadd_ps }

        #[inline(always)]
        unsafe fn load_half(from: *const f16) -> Self {
            // SAFETY: the caller has the instruction set and a valid pointer.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        }
        #[inline(always)]
        unsafe fn store_half(self, to: *mut f16) {
            // SAFETY: the caller has the instruction set and a valid pointer.
            unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<NEAREST>(self)) }
        }
        #[inline(always)]
        unsafe fn neg(self) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe { _mm512_xor_ps(self, _mm512_set1_ps(-0.0)) }
        }
        #[inline(always)]
        unsafe fn rint(self) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe { _mm512_roundscale_ps::<NEAREST>(self) }
        }
        #[inline(always)]
        unsafe fn scale(self, n: Self) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe {
                let exponent = _mm512_slli_epi32::<23>(_mm512_cvtps_epi32(n));
                _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self), exponent))
            }
        }
        #[inline(always)]
        unsafe fn keep_at_least(self, x: Self, limit: Self) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, limit), self) }
        }
        #[inline(always)]
        unsafe fn round_half(self) -> (Self, bool) {
            // SAFETY: the caller has the instruction set.
            unsafe {
                let rounded = _mm512_cvtph_ps(_mm512_cvtps_ph::<NEAREST>(self));
                let finite =
                    _mm512_cmp_ps_mask::<_CMP_LE_OQ>(_mm512_abs_ps(rounded), _mm512_set1_ps(HALF_MAX));
                (_mm512_maskz_mov_ps(finite, rounded), finite == 0xffff)
            }
        }

        type Dwords = __m512i;
        #[inline(always)]
        unsafe fn load_dwords(from: *const u8) -> Self::Dwords {
            // SAFETY: the caller has the instruction set and a valid pointer.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn nibble(dwords: Self::Dwords, i: usize, signed: bool) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe {
                let low = _mm512_srlv_epi32(dwords, _mm512_set1_epi32(4 * i as i32));
                // A table is cheaper than a conversion, and looks at the low 4 bits of an index alone.
                let high = if signed { -8.0 } else { 8.0 };
                let table: [f32; 16] =
                    std::array::from_fn(|q| if q < 8 { q as f32 } else { high + (q - 8) as f32 });
                _mm512_permutexvar_ps(low, _mm512_loadu_ps(table.as_ptr()))
            }
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8) -> Self {
            // SAFETY: the caller has the instruction set and a valid pointer.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub use neon::Neon;

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::*;

    /// Eight lanes in two registers of NEON, for eight halves are one load. To convert halves is part of every ARMv8;
    /// to compute with them is not, and is not done. Rounding is as FPCR has it, which `pool` looks after.
    #[derive(Clone, Copy)]
    pub struct Neon([float32x4_t; 2]);

    impl Neon {
        #[inline(always)]
        unsafe fn from_halves(halves: float16x8_t) -> Self {
            // SAFETY: every aarch64 has NEON.
            unsafe { Self([vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)]) }
        }
        #[inline(always)]
        unsafe fn to_halves(self) -> float16x8_t {
            // SAFETY: every aarch64 has NEON.
            unsafe { vcvt_high_f16_f32(vcvt_f16_f32(self.0[0]), self.0[1]) }
        }
        /// The lanes whose mask is all ones, +0 elsewhere.
        #[inline(always)]
        unsafe fn keep(self, mask: [uint32x4_t; 2]) -> Self {
            // SAFETY: every aarch64 has NEON.
            let and = |i: usize| unsafe { vandq_u32(vreinterpretq_u32_f32(self.0[i]), mask[i]) };
            // SAFETY: every aarch64 has NEON.
            Self([and(0), and(1)].map(|x| unsafe { vreinterpretq_f32_u32(x) }))
        }
    }

    /// The methods that are one instruction on each register.
    macro_rules! each {
        ($($method:ident($($other:ident)?) = $instruction:ident;)*) => {$(
            #[inline(always)]
            unsafe fn $method(self $(, $other: Self)?) -> Self {
                // SAFETY: every aarch64 has NEON.
                unsafe {
                    Self([$instruction(self.0[0] $(, $other.0[0])?), $instruction(self.0[1] $(, $other.0[1])?)])
                }
            }
        )*};
    }

    impl Simd for Neon {
        const LANES: usize = 8;

        each! {
            add(other) = vaddq_f32;
            sub(other) = vsubq_f32;
            mul(other) = vmulq_f32;
            div(other) = vdivq_f32;
            min(other) = vminq_f32;
            max(other) = vmaxq_f32;
            neg() = vnegq_f32;
            rint() = vrndnq_f32;
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: every aarch64 has NEON.
            Self([unsafe { vdupq_n_f32(x) }; 2])
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller has a valid pointer.
            unsafe { Self([vld1q_f32(from), vld1q_f32(from.add(4))]) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller has a valid pointer.
            unsafe {
                vst1q_f32(to, self.0[0]);
                vst1q_f32(to.add(4), self.0[1]);
            }
        }
        #[inline(always)]
        unsafe fn load_half(from: *const f16) -> Self {
            // SAFETY: the caller has a valid pointer.
            unsafe { Self::from_halves(vreinterpretq_f16_u16(vld1q_u16(from.cast()))) }
        }
        #[inline(always)]
        unsafe fn store_half(self, to: *mut f16) {
            // SAFETY: the caller has a valid pointer.
            unsafe { vst1q_u16(to.cast(), vreinterpretq_u16_f16(self.to_halves())) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self, b: Self, c: Self) -> Self {
            // SAFETY: every aarch64 has NEON.
            unsafe { Self([vfmaq_f32(c.0[0], a.0[0], b.0[0]), vfmaq_f32(c.0[1], a.0[1], b.0[1])]) }
        }
        #[inline(always)]
        unsafe fn scale(self, n: Self) -> Self {
            // SAFETY: every aarch64 has NEON.
            Self(std::array::from_fn(|i| unsafe {
                let exponent = vshlq_n_s32::<23>(vcvtq_s32_f32(n.0[i]));
                vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(self.0[i]), exponent))
            }))
        }
        #[inline(always)]
        unsafe fn keep_at_least(self, x: Self, limit: Self) -> Self {
            // SAFETY: every aarch64 has NEON.
            unsafe { self.keep(std::array::from_fn(|i| vcgeq_f32(x.0[i], limit.0[i]))) }
        }
        #[inline(always)]
        unsafe fn round_half(self) -> (Self, bool) {
            // SAFETY: every aarch64 has NEON.
            unsafe {
                let rounded = Self::from_halves(self.to_halves());
                let finite = rounded.0.map(|x| vcleq_f32(vabsq_f32(x), vdupq_n_f32(HALF_MAX)));
                (rounded.keep(finite), vminvq_u32(vandq_u32(finite[0], finite[1])) == u32::MAX)
            }
        }

        type Dwords = [uint32x4_t; 2];
        #[inline(always)]
        unsafe fn load_dwords(from: *const u8) -> Self::Dwords {
            // SAFETY: the caller has a valid pointer.
            unsafe { [vld1q_u8(from), vld1q_u8(from.add(16))].map(|bytes| vreinterpretq_u32_u8(bytes)) }
        }
        #[inline(always)]
        unsafe fn nibble(dwords: Self::Dwords, i: usize, signed: bool) -> Self {
            // SAFETY: every aarch64 has NEON.
            Self(dwords.map(|dwords| unsafe {
                let top = vshlq_u32(dwords, vdupq_n_s32(28 - 4 * i as i32));
                if signed {
                    vcvtq_f32_s32(vshrq_n_s32::<28>(vreinterpretq_s32_u32(top)))
                } else {
                    vcvtq_f32_u32(vshrq_n_u32::<28>(top))
                }
            }))
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8) -> Self {
            // SAFETY: the caller has a valid pointer.
            unsafe {
                let words = vmovl_s8(vld1_s8(from.cast()));
                Self([vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_high_s16(words))])
            }
        }
    }
}
