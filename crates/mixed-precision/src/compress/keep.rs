//! How many elements a sparse message has.

use crate::error::{Error, Result, within};

/// The elements that a sparsifier keeps of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// So many, or all where there are fewer; 1 or more.
    Count(usize),
    /// This share of them, above 0 and at most 1, rounded up.
    Share(f64),
}

impl Keep {
    /// The same, if it is within its range.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a count of 0 or a share outside `0 < share <= 1`.
    pub(crate) fn checked(self) -> Result<Self> {
        match self {
            Self::Count(count) => within("count", count, 1..=usize::MAX, "1 <= count").map(|_| self),
            Self::Share(share) if share > 0.0 && share <= 1.0 => Ok(self),
            Self::Share(share) => Err(Error::Parameter { parameter: "share", value: share, bound: "0 < share <= 1" }),
        }
    }

    /// How many that are of `d`.
    pub fn of(self, d: usize) -> usize {
        match self {
            Self::Count(count) => count.min(d),
            Self::Share(share) => ((share * d as f64).ceil() as usize).min(d),
        }
    }
}

/// Bits of a position among `d`.
pub(crate) fn index_bits(d: usize) -> f64 {
    f64::from(usize::BITS - d.saturating_sub(1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        assert_eq!([Keep::Count(3).of(10), Keep::Count(3).of(2), Keep::Share(0.25).of(10)], [3, 2, 3]);
        assert_eq!([Keep::Share(1e-9).of(10), Keep::Share(1.0).of(10), Keep::Share(0.5).of(0)], [1, 10, 0]);
        for bad in [Keep::Count(0), Keep::Share(0.0), Keep::Share(1.1), Keep::Share(f64::NAN)] {
            assert!(matches!(bad.checked(), Err(Error::Parameter { .. })));
        }
        assert_eq!([1, 2, 3, 1024, 1025].map(index_bits), [0.0, 1.0, 2.0, 10.0, 11.0]);
    }
}
