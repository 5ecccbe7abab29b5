//! Where in a word characters are changed.

use core_tensor::Random;

/// Where in a word characters are changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Places {
    /// At one place, drawn at random: one candidate.
    #[default]
    Random,
    /// At one place, drawn at random, not at the first or the last character, which readers go by.
    RandomInside,
    /// At every place: a candidate each.
    All,
}

impl Places {
    /// The places of `count`.
    pub(super) fn of(self, count: usize, random: &mut Random) -> Vec<usize> {
        match self {
            Self::All => (0..count).collect(),
            Self::Random if count > 0 => vec![random.below(count as u64) as usize],
            Self::RandomInside if count > 2 => vec![1 + random.below(count as u64 - 2) as usize],
            Self::Random | Self::RandomInside => Vec::new(),
        }
    }
}
