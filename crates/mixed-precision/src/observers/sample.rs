//! The values that an observer keeps: all of them, or an even sample of so many.

use core_tensor::transform::State;

use crate::error::Result;
use crate::rounding::word;

/// At most `capacity` of the values seen; beyond that each has the same chance to be among them (J. S. Vitter, "Random sampling with
/// a reservoir", 1985, algorithm R), drawn by the number of the value, so that the sample does not depend on how values came in batches.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    capacity: usize,
    seen: u64,
    values: Vec<f32>,
}

impl Sample {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, seen: 0, values: Vec::new() }
    }

    pub(super) fn extend(&mut self, values: &[f32]) {
        let room = (self.capacity - self.values.len()).min(values.len());
        self.values.extend_from_slice(&values[..room]);
        self.seen += room as u64;
        for x in &values[room..] {
            self.seen += 1;
            let bits = u64::from(word(0, 2 * self.seen)) << 32 | u64::from(word(0, 2 * self.seen + 1));
            let place = ((u128::from(bits) * u128::from(self.seen)) >> 64) as usize;
            if let Some(kept) = self.values.get_mut(place) {
                *kept = *x;
            }
        }
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(super) fn state(&self) -> State {
        let values: Vec<f64> = self.values.iter().map(|x| f64::from(*x)).collect();
        State::new().with("seen", self.seen).with("values", values)
    }

    pub(super) fn load_state(&mut self, mut state: State) -> Result<()> {
        let (seen, values) = (state.take::<u64>("seen")?, state.take::<Vec<f64>>("values")?);
        state.finish()?;
        // A sample that is larger than this one's is cut: any part of an even sample is one.
        let values = values.into_iter().take(self.capacity).map(|x| x as f32).collect();
        (self.seen, self.values) = (seen, values);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_the_same_chance() {
        let (n, capacity) = (20_000u32, 4000usize);
        let all: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let mut sample = Sample::new(capacity);
        sample.extend(&all);
        let mut parts = Sample::new(capacity);
        all.chunks(777).for_each(|part| parts.extend(part));
        assert_eq!(parts, sample, "batches do not matter");
        assert_eq!((sample.values().len(), sample.seen), (capacity, u64::from(n)));
        // Tenths of the stream: hypergeometric with mean 400, σ < 19.
        for tenth in 0..10 {
            let kept = sample.values().iter().filter(|x| **x as u32 / 2000 == tenth).count();
            assert!((kept as f64 - 400.0).abs() < 5.0 * 19.0, "{tenth}: {kept}");
        }
        let mut distinct = sample.values().to_vec();
        distinct.sort_by(f32::total_cmp);
        assert!(distinct.windows(2).all(|pair| pair[0] < pair[1]), "no value twice");
    }
}
