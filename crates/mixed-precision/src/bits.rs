//! Codes of any width up to 16 bits without gaps: eight codes of `w` bits are `w` bytes, the first in the lowest bits.

use rayon::prelude::*;

/// Groups of eight codes of one task.
const GROUPS: usize = 1 << 11;

/// Bytes of `count` codes of `width` bits.
pub(crate) fn length(count: usize, width: u32) -> usize {
    (count * width as usize).div_ceil(8)
}

/// Bytes of the codes that `code` gives for each position.
pub(crate) fn pack(count: usize, width: u32, code: impl Fn(usize) -> u32 + Sync) -> Vec<u8> {
    let mut bytes = vec![0; length(count, width)];
    let step = width as usize;
    bytes.par_chunks_mut(GROUPS * step).enumerate().for_each(|(task, bytes)| {
        for (group, bytes) in bytes.chunks_mut(step).enumerate() {
            let first = 8 * (task * GROUPS + group);
            let mut word = 0u128;
            for i in 0..8.min(count - first) {
                word |= u128::from(code(first + i)) << (i * step);
            }
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        }
    });
    bytes
}

/// What `value` makes of each position and its code.
pub(crate) fn unpack<T: Send + Default + Clone>(
    bytes: &[u8],
    count: usize,
    width: u32,
    value: impl Fn(usize, u32) -> T + Sync,
) -> Vec<T> {
    let mut values = vec![T::default(); count];
    let step = width as usize;
    let tasks = values.par_chunks_mut(8 * GROUPS).zip(bytes.par_chunks(GROUPS * step));
    tasks.enumerate().for_each(|(task, (values, bytes))| {
        for (group, (values, bytes)) in values.chunks_mut(8).zip(bytes.chunks(step)).enumerate() {
            let first = 8 * (task * GROUPS + group);
            let mut word = [0; 16];
            word[..bytes.len()].copy_from_slice(bytes);
            let word = u128::from_le_bytes(word);
            for (i, out) in values.iter_mut().enumerate() {
                let code = (word >> (i * step)) as u32 & ((1 << width) - 1);
                *out = value(first + i, code);
            }
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_and_take_no_more_than_their_bits() {
        for width in 1..=16u32 {
            for count in [0, 1, 7, 8, 9, 8 * GROUPS - 1, 8 * GROUPS + 3] {
                let code = |i: usize| (i as u32).wrapping_mul(0x9e37_79b1) >> (32 - width);
                let bytes = pack(count, width, code);
                assert_eq!(bytes.len(), (count * width as usize).div_ceil(8));
                let back = unpack(&bytes, count, width, |i, found| (i, found));
                assert_eq!(back, (0..count).map(|i| (i, code(i))).collect::<Vec<_>>());
            }
        }
        assert_eq!(pack(3, 4, |i| [1, 2, 3][i]), [0x21, 0x03]);
        assert_eq!(pack(2, 16, |i| [0x1234, 0xabcd][i]), [0x34, 0x12, 0xcd, 0xab]);
    }
}
