//! The kernels that encoders have besides those of decoders.

use super::super::kernels::{block_sums, entry, exp, squares, vectors};
use super::super::simd::{Lanes, Simd};
use super::super::Isa;
use crate::canon::constants::{ERFC, ERFC_P, SQRT_HALF};
use crate::canon::ops;

/// Gain and bias of a layernorm, widened and padded with zeros.
pub struct Norm {
    pub gain: Vec<f32>,
    pub bias: Vec<f32>,
}

/// Those of one instruction set. All lengths are padded to whole panels; a kernel answers whether all halves that it
/// stored were finite, and what was not is +0.
#[allow(clippy::type_complexity)] // a table of plain functions, each spelled out once
pub struct Kernels {
    /// x = f16(layernorm(x + (y + bias))) of the first `width` elements.
    pub layernorm: fn(x: &mut [f32], y: &[f32], bias: &[f32], norm: &Norm, width: usize, eps: f32) -> bool,
    /// y = f16(y + bias).
    pub add: fn(y: &mut [f32], bias: &[f32]) -> bool,
    /// y = f16(gelu(y + bias)).
    pub gelu: fn(y: &mut [f32], bias: &[f32]) -> bool,
}

impl Kernels {
    /// The kernels of an instruction set that this processor has.
    pub fn of(isa: Isa) -> &'static Self {
        assert!(isa.is_available(), "this processor has no {isa:?}");
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &AVX2,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &NEON,
            _ => &PORTABLE,
        }
    }
}

#[inline(always)]
unsafe fn layernorm<S: Simd>(
    x: &mut [f32],
    y: &[f32],
    bias: &[f32],
    norm: &Norm,
    width: usize,
    eps: f32,
) -> bool {
    let len = x.len();
    assert!([y.len(), bias.len(), norm.gain.len(), norm.bias.len()] == [len; 4] && width <= len);
    let (h, y, bias) = (x.as_mut_ptr(), y.as_ptr(), bias.as_ptr());
    // SAFETY: every vector lies within x, and the other slices are as long.
    vectors::<S>(len, |i| unsafe {
        S::load(h.add(i)).add(S::load(y.add(i)).add(S::load(bias.add(i)))).store(h.add(i))
    });
    let mean = block_sums(&x[..width], |x, acc| acc + x) / width as f32;
    let d = x.as_mut_ptr();
    // SAFETY: every vector lies within x.
    vectors::<S>(len, |i| unsafe { S::load(d.add(i)).sub(S::splat(mean)).store(d.add(i)) });
    let rstd = ops::rstd(squares(&x[..width]), width, eps);
    let (d, gain, bias) = (x.as_mut_ptr(), norm.gain.as_ptr(), norm.bias.as_ptr());
    let mut finite = true;
    // SAFETY: every vector lies within x, and gain and bias are as long.
    vectors::<S>(len, |i| unsafe {
        let scaled = S::load(d.add(i)).mul(S::splat(rstd)).mul(S::load(gain.add(i)));
        let (x, ok) = scaled.add(S::load(bias.add(i))).round_half();
        finite &= ok;
        x.store(d.add(i));
    });
    finite
}

/// y = f16(f(y + bias)).
#[inline(always)]
unsafe fn stored<S: Simd>(y: &mut [f32], bias: &[f32], f: impl Fn(S) -> S) -> bool {
    assert_eq!(y.len(), bias.len());
    let (to, bias, mut finite) = (y.as_mut_ptr(), bias.as_ptr(), true);
    // SAFETY: every vector lies within y, and bias is as long.
    vectors::<S>(y.len(), |i| unsafe {
        let (x, ok) = f(S::load(to.add(i)).add(S::load(bias.add(i)))).round_half();
        finite &= ok;
        x.store(to.add(i));
    });
    finite
}

#[inline(always)]
unsafe fn add<S: Simd>(y: &mut [f32], bias: &[f32]) -> bool {
    // SAFETY: the caller's contract.
    unsafe { stored::<S>(y, bias, |y| y) }
}

#[inline(always)]
unsafe fn gelu<S: Simd>(y: &mut [f32], bias: &[f32]) -> bool {
    // SAFETY: the caller's contract; the wrapper has the instruction set of S.
    unsafe {
        stored::<S>(y, bias, |x| {
            let (zero, one) = (S::splat(0.0), S::splat(1.0));
            let z = x.mul(S::splat(SQRT_HALF));
            let z = z.max(z.neg());
            let t = one.div(S::fma(z, S::splat(ERFC_P), one));
            let mut p = S::splat(ERFC[0]);
            for c in &ERFC[1..] {
                p = S::fma(p, t, S::splat(*c));
            }
            let c = p.mul(t).mul(exp(z.mul(z).neg()));
            // One of the two is zero, whose sign is lost in the sum.
            let positive = x.max(zero).mul(S::splat(2.0).sub(c));
            positive.add(x.min(zero).mul(c)).mul(S::splat(0.5))
        })
    }
}

macro_rules! table {
    ($name:ident, $simd:ty, $feature:tt) => {
        static $name: Kernels = Kernels {
            layernorm: entry!($feature fn(x: &mut [f32], y: &[f32], bias: &[f32], norm: &Norm, width: usize, eps: f32)
                -> bool = layernorm::<$simd>),
            add: entry!($feature fn(y: &mut [f32], bias: &[f32]) -> bool = add::<$simd>),
            gelu: entry!($feature fn(y: &mut [f32], bias: &[f32]) -> bool = gelu::<$simd>),
        };
    };
}

table!(PORTABLE, Lanes, []);
#[cfg(target_arch = "x86_64")]
table!(AVX2, super::super::simd::Avx2, ["avx2,fma,f16c"]);
#[cfg(target_arch = "x86_64")]
table!(AVX512, super::super::simd::Avx512, ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"]);
#[cfg(target_arch = "aarch64")]
table!(NEON, super::super::simd::Neon, ["neon"]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_equals_the_definition() {
        let x: Vec<f32> = (0..64 * 4000).map(|i| -16.0 + i as f32 * 0.000_125).chain([-0.0, 1e30]).collect();
        let mut padded = x.clone();
        padded.resize(x.len().next_multiple_of(64), 0.0);
        let zeros = vec![0.0; padded.len()];
        for isa in Isa::available() {
            let mut y = padded.clone();
            assert!(!(Kernels::of(isa).gelu)(&mut y, &zeros), "1e30 is beyond the halves");
            for (x, y) in x.iter().zip(y) {
                let mut finite = true;
                let expected = ops::store(ops::gelu(*x), &mut finite).to_f32();
                // Of a zero the sign is nobody's business.
                let bits = |x: f32| if x == 0.0 { 0 } else { x.to_bits() };
                assert_eq!(bits(y), bits(expected), "{isa:?} gelu({x})");
            }
        }
    }
}
