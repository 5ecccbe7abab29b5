//! How a number between two representable ones is rounded, and what becomes of one beyond them all.

/// Which of the two neighbours a number becomes.
///
/// | rounding | takes |
/// |---|---|
/// | `NearestEven` | the nearer; halfway the one with the even code (IEEE's default) |
/// | `NearestAway` | the nearer; halfway the one farther from zero |
/// | `TowardZero` | the one nearer to zero |
/// | `TowardPositive`, `TowardNegative` | the upper, the lower |
/// | `Stochastic(seed)` | either, with the probability of its nearness, so that the mean is the number |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To nearest, ties to even.
    #[default]
    NearestEven,
    /// To nearest, ties away from zero.
    NearestAway,
    /// Toward zero.
    TowardZero,
    /// Toward positive infinity.
    TowardPositive,
    /// Toward negative infinity.
    TowardNegative,
    /// Proportionally at random, from the stream of a seed ([`word`] says which bits).
    Stochastic(u64),
}

impl Rounding {
    /// The seed of the stream; 0 for a rounding that draws nothing.
    pub(crate) fn seed(self) -> u64 {
        match self {
            Self::Stochastic(seed) => seed,
            _ => 0,
        }
    }

    /// The rounding of a step: itself, with a stream of its own if it is stochastic.
    pub(crate) fn at(self, step: u64) -> Self {
        match self {
            Self::Stochastic(seed) => Self::Stochastic(derive(seed, step)),
            _ => self,
        }
    }
}

/// What becomes of a number that rounds beyond the largest one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// Infinity, or NaN in a format without infinities, or the largest number in one with neither. A finite number
    /// rounded toward zero (or toward the infinity of the other sign) becomes the largest number, as IEEE 754 says.
    #[default]
    Ieee,
    /// The largest number of its sign; infinities too. NaN stays NaN.
    Saturate,
}

/// The 32 bits with which stochastic rounding treats the element at `index` (row-major) of a tensor.
///
/// A hash of seed and position, so that tensors are rounded in parallel with one result whatever the number of threads.
/// Two rounds of a 32-bit finaliser keyed by the two halves of the mixed seed.
#[inline(always)]
pub fn word(seed: u64, index: u64) -> u32 {
    Words::new(seed, (index >> 32) as u32).get(index as u32)
}

/// A seed for another tensor or step of the same stream.
pub(crate) fn derive(seed: u64, index: u64) -> u64 {
    mix64(seed ^ mix64(index.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

/// The words of positions with one upper half.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    pub(crate) low: u32,
    pub(crate) high: u32,
}

impl Words {
    #[inline(always)]
    pub(crate) fn new(seed: u64, upper: u32) -> Self {
        let key = mix64(seed ^ (u64::from(upper) << 32)).wrapping_add(u64::from(upper));
        Self { low: key as u32, high: (key >> 32) as u32 }
    }

    #[inline(always)]
    pub(crate) fn get(self, index: u32) -> u32 {
        mix32(mix32(index ^ self.low).wrapping_add(self.high))
    }
}

/// The words of the positions from any first one, of which there are fewer than 2³².
#[derive(Clone, Copy)]
pub(crate) struct WideWords {
    first: u32,
    /// Before and after the lower half of the position begins anew.
    words: [Words; 2],
}

impl WideWords {
    #[inline(always)]
    pub(crate) fn new(seed: u64, first: u64) -> Self {
        let upper = (first >> 32) as u32;
        Self { first: first as u32, words: [Words::new(seed, upper), Words::new(seed, upper.wrapping_add(1))] }
    }

    #[inline(always)]
    pub(crate) fn get(self, index: u32) -> u32 {
        let (index, anew) = self.first.overflowing_add(index);
        let [now, next] = self.words;
        let (low, high) = if anew { (next.low, next.high) } else { (now.low, now.high) };
        Words { low, high }.get(index)
    }
}

/// D. Stafford's finaliser "Mix13", 2011, as in SplitMix64.
#[inline(always)]
fn mix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// C. Wellons' "lowbias32", 2018.
#[inline(always)]
fn mix32(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_even_and_independent() {
        // 32 counts of one bit each, and of agreement between neighbours: binomial with n = 2^16, σ = 128.
        let n = 1 << 16;
        for seed in [0, 1, u64::MAX] {
            let words: Vec<u32> = (0..n).map(|i| word(seed, i)).collect();
            let other: Vec<u32> = (0..n).map(|i| word(derive(seed, 1), i)).collect();
            for bit in 0..32 {
                let ones = |x: &mut dyn Iterator<Item = u32>| x.filter(|x| x >> bit & 1 == 1).count() as i64;
                let set = ones(&mut words.iter().copied());
                let next = ones(&mut words.windows(2).map(|w| w[0] ^ w[1]));
                let streams = ones(&mut words.iter().zip(&other).map(|(a, b)| a ^ b));
                for count in [set, next, streams] {
                    assert!((count - n as i64 / 2).abs() < 5 * 128, "bit {bit} of seed {seed}: {count}");
                }
            }
        }
        assert_ne!(word(3, 1 << 32), word(3, 0));
        let first = (5 << 32) - 2;
        let wide = WideWords::new(3, first);
        assert!((0..5).all(|i| wide.get(i) == word(3, first + u64::from(i))));
    }
}
