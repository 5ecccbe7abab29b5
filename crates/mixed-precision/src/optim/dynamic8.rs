//! Tables of numbers in [−1, 1] that codes stand for: the dynamic map of 8-bit optimizers, and evenly spaced ones.
//!
//! A block of optimizer state is divided by its largest magnitude, and each quotient becomes the code of the nearest entry.
//! The dynamic map spends its bits on a decimal exponent and a linear fraction: `e` leading zeros choose the decade
//! `10^(e−6)`, and what is left of the byte divides it evenly. So quotients from 10⁻⁷ to 1 have small relative errors, the
//! large ones the smallest; that is what moments of gradients need, whose elements differ by orders of magnitude.
//!
//! Reference: T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise Quantization", ICLR 2022,
//! arXiv:2110.02861, section 2.1; entries are those of bitsandbytes' `create_dynamic_map`.

use std::sync::LazyLock;

/// The entries of the dynamic map of `bits` bits, ascending, `2^bits` of them.
///
/// For each exponent `i < bits − 1` the decade (0.1, 1]·10^(i−bits+2) is divided into `2^i` intervals (twice as many without a
/// sign), of which the midpoints are entries; with a sign their negatives too. Added are exactly 0 and exactly 1. There is no
/// −1: with 8 bits the lowest entry is −0.99296875.
///
/// All arithmetic is in `f32`, as in bitsandbytes. Bits outside 2 to 8 are taken for the nearer of the two.
///
/// ```
/// let map = mixed_precision::optim::dynamic_map(true, 8);
/// assert_eq!((map.len(), map[0], map[127], map[255]), (256, -0.99296875, 0.0, 1.0));
/// ```
pub fn dynamic_map(signed: bool, bits: u32) -> Vec<f32> {
    let exponents = bits.clamp(2, 8) as i32 - 1;
    let mut entries = vec![0.0, 1.0];
    for i in 0..exponents {
        let intervals = 1usize << if signed { i } else { i + 1 };
        let decade = 10f64.powi(i + 1 - exponents) as f32;
        for j in 0..intervals {
            let mean = (boundary(j, intervals) + boundary(j + 1, intervals)) / 2.0 * decade;
            entries.push(mean);
            if signed {
                entries.push(-mean);
            }
        }
    }
    entries.sort_by(f32::total_cmp);
    entries
}

/// The `j`-th of `n + 1` evenly spaced numbers from 0.1 to 1, counted from the nearer end.
fn boundary(j: usize, n: usize) -> f32 {
    let step = (1.0 - 0.1f32) / n as f32;
    match 2 * j < n + 1 {
        true => 0.1 + step * j as f32,
        false => 1.0 - step * (n - j) as f32,
    }
}

/// Evenly spaced entries: with a sign `k/(2^(bits−1) − 1)` and no entry below −1, without one `(k + 1)/2^bits`.
///
/// A second moment that became zero while the first did not would make a huge step; so there is no zero without a sign.
pub(crate) fn linear_map(signed: bool, bits: u32) -> Vec<f32> {
    match signed {
        true => {
            let most = (1i32 << (bits - 1)) - 1;
            (-most..=most).map(|k| k as f32 / most as f32).collect()
        }
        false => (1..=1u32 << bits).map(|k| k as f32 / (1u32 << bits) as f32).collect(),
    }
}

/// Entries with what finds the nearest one in two look-ups.
///
/// The upper 16 bits of a number choose a bin; bins are so narrow that at most one midpoint between entries lies in each, so
/// that the code is that of the bin's lowest number or the next.
pub(crate) struct Codebook {
    /// The entries, the last one repeated.
    pub(crate) entries: [f32; 256],
    /// The largest `f32` not above the midpoint of an entry and the next; infinite after the last.
    midpoints: [f32; 256],
    bins: Vec<u8>,
}

impl Codebook {
    pub(crate) fn new(entries: &[f32]) -> Self {
        let last = entries.len() - 1;
        let midpoint = |i: usize| {
            let exact = (f64::from(entries[i]) + f64::from(entries[i + 1])) / 2.0;
            let rounded = exact as f32;
            if f64::from(rounded) > exact { rounded.next_down() } else { rounded }
        };
        let midpoints: [f32; 256] = std::array::from_fn(|i| if i < last { midpoint(i) } else { f32::INFINITY });
        let code = |x: f32| midpoints[..last].partition_point(|m| *m < x) as u8;
        let bins = (0..1u32 << 16).map(|bin| {
            let lowest = if bin >> 15 == 0 { bin << 16 } else { bin << 16 | 0xffff };
            code(f32::from_bits(lowest))
        });
        Self { entries: std::array::from_fn(|i| entries[i.min(last)]), midpoints, bins: bins.collect() }
    }

    /// The code of the nearest entry; halfway the lower one.
    #[inline(always)]
    pub(crate) fn nearest(&self, x: f32) -> u8 {
        let low = self.bins[(x.to_bits() >> 16) as usize];
        low + u8::from(x > self.midpoints[usize::from(low)])
    }

    /// The code of one of the two entries around `x`, the upper one where 24 of the random bits, as a fraction, are below the
    /// position between them.
    #[inline(always)]
    pub(crate) fn stochastic(&self, x: f32, bits: u32) -> u8 {
        let nearest = self.nearest(x);
        let low = nearest.saturating_sub(u8::from(self.entries[usize::from(nearest)] > x));
        let (a, b) = (self.entries[usize::from(low)], self.entries[usize::from(low.saturating_add(1))]);
        let drawn = (bits >> 8) as f32 * (1.0 / (1 << 24) as f32);
        low + u8::from(drawn * (b - a) < x - a)
    }
}

macro_rules! codebooks {
    ($($name:ident = $entries:expr;)*) => {
        $(pub(crate) static $name: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&$entries));)*
    };
}

codebooks! {
    DYNAMIC8_SIGNED = dynamic_map(true, 8);
    DYNAMIC8_UNSIGNED = dynamic_map(false, 8);
    LINEAR8_SIGNED = linear_map(true, 8);
    LINEAR8_UNSIGNED = linear_map(false, 8);
    DYNAMIC4_SIGNED = dynamic_map(true, 4);
    LINEAR4_SIGNED = linear_map(true, 4);
    LINEAR4_UNSIGNED = linear_map(false, 4);
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;
    use proptest::prelude::*;

    fn all() -> [&'static Codebook; 7] {
        [
            &DYNAMIC8_SIGNED,
            &DYNAMIC8_UNSIGNED,
            &LINEAR8_SIGNED,
            &LINEAR8_UNSIGNED,
            &DYNAMIC4_SIGNED,
            &LINEAR4_SIGNED,
            &LINEAR4_UNSIGNED,
        ]
    }

    #[test]
    fn the_dynamic_maps_are_those_of_bitsandbytes() {
        for signed in [true, false] {
            let map = dynamic_map(signed, 8);
            assert_eq!(map.len(), 256);
            assert!(map.windows(2).all(|w| w[0] < w[1]));
            assert!(map.contains(&0.0) && map[255] == 1.0);
        }
        // Printed by bitsandbytes for the signed map: both ends, and the neighbours of zero.
        let signed = dynamic_map(true, 8);
        let close = |a: f32, b: f32| assert!((a - b).abs() <= 2e-7 * b.abs(), "{a} {b}");
        for (code, entry) in [
            (0, -0.992_968_75),
            (1, -0.978_906_2),
            (2, -0.964_843_75),
            (126, -5.5e-7),
            (128, 5.5e-7),
            (129, 3.25e-6),
            (130, 7.75e-6),
            (254, 0.992_968_75),
        ] {
            close(signed[code], entry);
        }
        let unsigned = dynamic_map(false, 8);
        for (code, entry) in [(0, 0.0), (1, 3.25e-7), (2, 7.75e-7), (3, 2.125e-6), (254, 0.996_484_4)] {
            close(unsigned[code], entry);
        }
        // The 4-bit map of lpmm and torchao.
        let four = [
            -0.8875, -0.6625, -0.4375, -0.2125, -0.0775, -0.0325, -0.0055, 0.0, 0.0055, 0.0325, 0.0775, 0.2125, 0.4375,
            0.6625, 0.8875, 1.0,
        ];
        for (a, b) in dynamic_map(true, 4).into_iter().zip(four) {
            close(a, b);
        }
    }

    #[test]
    fn a_bin_holds_at_most_one_midpoint() {
        for book in all() {
            for bin in 0..1u32 << 16 {
                let (low, high) = (f32::from_bits(bin << 16), f32::from_bits(bin << 16 | 0xffff));
                if low.is_nan() || high.is_nan() {
                    continue;
                }
                let (low, high) = (low.min(high), low.max(high));
                let inside = book.midpoints.iter().filter(|m| m.is_finite() && low <= **m && **m < high).count();
                assert!(inside <= 1, "{inside} midpoints between {low} and {high}");
            }
        }
    }

    #[test]
    fn codes_are_those_of_the_nearest_entry() {
        let number = prop_oneof![
            -1.0f32..=1.0,
            (-20.0f32..0.0, any::<bool>()).prop_map(|(e, sign)| if sign { -e.exp2() } else { e.exp2() })
        ];
        property(2000, number, |x| {
            for book in all() {
                let distance = |code: usize| (f64::from(book.entries[code]) - f64::from(x)).abs();
                let best = (0..256).map(distance).fold(f64::INFINITY, f64::min);
                let code = usize::from(book.nearest(x));
                assert_eq!(distance(code), best, "{x}: code {code}");
                for bits in [0, 1 << 31, u32::MAX] {
                    let code = usize::from(book.stochastic(x, bits));
                    let (below, above) = (book.entries[code.saturating_sub(1)], book.entries[(code + 1).min(255)]);
                    let ends = (book.entries[0], book.entries[255]);
                    assert!(below < x && x < above || x <= ends.0 || x >= ends.1 || book.entries[code] == x);
                }
            }
        });
        for book in all() {
            for (code, entry) in book.entries.iter().enumerate() {
                assert_eq!(book.entries[usize::from(book.nearest(*entry))], *entry, "{code}");
            }
        }
        // Halfway between 1/7 and 2/7 the lower code; both have exact midpoints in sixteenths without a sign.
        assert_eq!(LINEAR4_UNSIGNED.nearest(1.5 / 16.0), 0);
        assert_eq!(LINEAR4_UNSIGNED.nearest((1.5f32 / 16.0).next_up()), 1);
    }
}
