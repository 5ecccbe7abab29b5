//! Poisson sampling: every example takes part by a coin of its own.

use core_tensor::transform::State;
use core_tensor::{Random, Result};

use crate::limit::share;

/// Draws batches in which each of `examples` takes part with probability `q`, independently: what the accountants assume.
///
/// Batches differ in size and may be empty. Shuffled batches of one size are something else, and what is spent with them is
/// not what the accountants say. Cost: expected `q·examples + 1` random numbers a batch, by skipping along the examples with
/// geometric steps.
///
/// ```
/// use clipping::PoissonSampler;
///
/// let mut sampler = PoissonSampler::new(1000, 0.05, 7)?;
/// let batch = sampler.sample();
/// assert!(batch.len() < 200 && batch.is_sorted());
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PoissonSampler {
    examples: usize,
    rate: f64,
    random: Random,
}

impl PoissonSampler {
    /// Number of examples, sample rate `q`, seed.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] unless `0 <= rate <= 1`.
    pub fn new(examples: usize, rate: f64, seed: u64) -> Result<Self> {
        Ok(Self { examples, rate: share("rate", rate)?, random: Random::new(seed).fork("poisson sampler") })
    }

    /// The positions of the next batch, in ascending order.
    pub fn sample(&mut self) -> Vec<usize> {
        if self.rate == 0.0 {
            return Vec::new();
        }
        if self.rate == 1.0 {
            return (0..self.examples).collect();
        }
        let mut batch = Vec::new();
        let log_miss = (-self.rate).ln_1p();
        let mut position = 0.0;
        loop {
            // The number of misses before the next hit.
            let u = 1.0 - self.random.next_f64();
            position += (u.ln() / log_miss).floor();
            if !(position < self.examples as f64) {
                return batch;
            }
            batch.push(position as usize);
            position += 1.0;
        }
    }

    /// `q`
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Number of examples.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The state, to go on from later.
    pub fn state(&self) -> State {
        self.random.state()
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// [`core_tensor::Error::State`] for another state.
    pub fn load_state(&mut self, state: State) -> Result<()> {
        self.random.load_state(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_has_its_own_coin() {
        let (examples, rate, rounds) = (50, 0.2, 4000);
        let mut sampler = PoissonSampler::new(examples, rate, 3).unwrap();
        let (mut alone, mut sizes, mut pairs) = (vec![0.0; examples], Vec::new(), 0.0);
        for _ in 0..rounds {
            let batch = sampler.sample();
            assert!(batch.windows(2).all(|w| w[0] < w[1]) && batch.iter().all(|i| *i < examples));
            batch.iter().for_each(|i| alone[*i] += 1.0);
            if batch.contains(&3) && batch.contains(&4) {
                pairs += 1.0;
            }
            sizes.push(batch.len() as f64);
        }
        let n = f64::from(rounds);
        // Five deviations of a binomial share.
        let within = |count: f64, p: f64| (count / n - p).abs() < 5.0 * (p * (1.0 - p) / n).sqrt();
        assert!(alone.iter().all(|count| within(*count, rate)), "{alone:?}");
        assert!(within(pairs, rate * rate), "{pairs}");
        let mean = sizes.iter().sum::<f64>() / n;
        let variance = sizes.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        assert!((variance / 8.0 - 1.0).abs() < 0.15, "binomial of variance 50·0.2·0.8: {variance}");
    }

    #[test]
    fn ends_of_the_range_and_resuming() {
        assert_eq!(PoissonSampler::new(3, 1.0, 0).unwrap().sample(), [0, 1, 2]);
        assert_eq!(PoissonSampler::new(3, 0.0, 0).unwrap().sample(), [0; 0]);
        assert_eq!(PoissonSampler::new(0, 0.5, 0).unwrap().sample(), [0; 0]);
        for bad in [-0.1, 1.1, f64::NAN] {
            assert!(PoissonSampler::new(3, bad, 0).is_err());
        }
        let mut sampler = PoissonSampler::new(1000, 0.01, 9).unwrap();
        sampler.sample();
        let mut other = PoissonSampler::new(1000, 0.01, 10).unwrap();
        other.load_state(sampler.state()).unwrap();
        assert_eq!(sampler.sample(), other.sample());
    }
}
