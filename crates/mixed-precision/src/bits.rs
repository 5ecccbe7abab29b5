//! Codes of any width up to 16 bits without gaps: eight codes of `w` bits are `w` bytes, the first in the lowest bits.

use core_tensor::host::vectorised;
use rayon::prelude::*;

/// Codes of one task.
const TASK: usize = 1 << 14;
/// Codes held as words at a time: they stay in the first cache.
const BLOCK: usize = 512;

/// Bytes of `count` codes of `width` bits.
pub(crate) fn length(count: usize, width: u32) -> usize {
    (count * width as usize).div_ceil(8)
}

/// Bytes of the codes that `codes(first position, words)` writes: whole runs of [`BLOCK`] positions but for the last.
pub(crate) fn pack(count: usize, width: u32, codes: impl Fn(usize, &mut [u32]) + Sync) -> Vec<u8> {
    let mut bytes = vec![0; length(count, width)];
    let block = length(BLOCK, width);
    bytes.par_chunks_mut(length(TASK, width)).enumerate().for_each(|(task, bytes)| {
        let mut words = [0; BLOCK];
        for (i, bytes) in bytes.chunks_mut(block).enumerate() {
            let first = task * TASK + i * BLOCK;
            let words = &mut words[..BLOCK.min(count - first)];
            codes(first, words);
            store(words, width as usize, bytes);
        }
    });
    bytes
}

/// What `values(first position, codes, values)` makes of the codes, in runs as those of [`pack`].
pub(crate) fn unpack<T: Send + Default + Clone>(
    bytes: &[u8],
    count: usize,
    width: u32,
    values: impl Fn(usize, &[u32], &mut [T]) + Sync,
) -> Vec<T> {
    let mut out = vec![T::default(); count];
    let tasks = out.par_chunks_mut(TASK).zip(bytes.par_chunks(length(TASK, width)));
    tasks.enumerate().for_each(|(task, (out, bytes))| {
        let mut words = [0; BLOCK];
        for (i, (out, bytes)) in out.chunks_mut(BLOCK).zip(bytes.chunks(length(BLOCK, width))).enumerate() {
            let words = &mut words[..out.len()];
            load(bytes, width as usize, words);
            values(task * TASK + i * BLOCK, words, out);
        }
    });
    out
}

/// The bytes of one run of codes.
fn store(codes: &[u32], width: usize, bytes: &mut [u8]) {
    vectorised(
        #[inline(always)]
        || match width {
            8 => bytes.iter_mut().zip(codes).for_each(|(byte, code)| *byte = *code as u8),
            16 => {
                let pairs = bytes.as_chunks_mut::<2>().0;
                pairs.iter_mut().zip(codes).for_each(|(pair, code)| *pair = (*code as u16).to_le_bytes());
            }
            4 => {
                let (pairs, rest) = codes.as_chunks::<2>();
                bytes.iter_mut().zip(pairs).for_each(|(byte, [low, high])| *byte = (low | high << 4) as u8);
                if let ([code], Some(byte)) = (rest, bytes.last_mut()) {
                    *byte = *code as u8;
                }
            }
            _ => {
                for (codes, bytes) in codes.chunks(8).zip(bytes.chunks_mut(width)) {
                    let join = |word, (i, code): (usize, &u32)| word | u128::from(*code) << (i * width);
                    let word = codes.iter().enumerate().fold(0u128, join);
                    bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
                }
            }
        },
    );
}

/// The codes of one run of bytes.
fn load(bytes: &[u8], width: usize, codes: &mut [u32]) {
    vectorised(
        #[inline(always)]
        || match width {
            8 => codes.iter_mut().zip(bytes).for_each(|(code, byte)| *code = u32::from(*byte)),
            16 => {
                let pairs = bytes.as_chunks::<2>().0;
                codes.iter_mut().zip(pairs).for_each(|(code, pair)| *code = u32::from(u16::from_le_bytes(*pair)));
            }
            4 => {
                let (pairs, rest) = codes.as_chunks_mut::<2>();
                pairs.iter_mut().zip(bytes).for_each(|(pair, byte)| *pair = [byte & 15, byte >> 4].map(u32::from));
                if let ([code], Some(byte)) = (rest, bytes.last()) {
                    *code = u32::from(byte & 15);
                }
            }
            _ => {
                for (codes, bytes) in codes.chunks_mut(8).zip(bytes.chunks(width)) {
                    let mut word = [0; 16];
                    word[..bytes.len()].copy_from_slice(bytes);
                    let word = u128::from_le_bytes(word);
                    let split =
                        |(i, code): (usize, &mut u32)| *code = (word >> (i * width)) as u32 & ((1 << width) - 1);
                    codes.iter_mut().enumerate().for_each(split);
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_and_take_no_more_than_their_bits() {
        for width in 1..=16u32 {
            for count in [0, 1, 7, 8, 9, BLOCK - 1, BLOCK + 1, TASK - 1, TASK + BLOCK + 3] {
                let code = |i: usize| (i as u32).wrapping_mul(0x9e37_79b1) >> (32 - width);
                let bytes = pack(count, width, |first, codes| {
                    assert_eq!(first % BLOCK, 0);
                    codes.iter_mut().zip(first..).for_each(|(out, i)| *out = code(i));
                });
                assert_eq!(bytes.len(), (count * width as usize).div_ceil(8));
                let back = unpack(&bytes, count, width, |first, codes, values| {
                    values.iter_mut().zip(codes).zip(first..).for_each(|((value, code), i)| *value = (i, *code));
                });
                assert_eq!(back, (0..count).map(|i| (i, code(i))).collect::<Vec<_>>());
                let word = bytes.iter().take(16).rev().fold(0u128, |word, byte| word << 8 | u128::from(*byte));
                for i in 0..count.min(8) {
                    assert_eq!((word >> (i * width as usize)) as u32 & ((1 << width) - 1), code(i), "{width} bits");
                }
            }
        }
        assert_eq!(pack(3, 4, |_, codes| codes.copy_from_slice(&[1, 2, 3])), [0x21, 0x03]);
        assert_eq!(pack(2, 16, |_, codes| codes.copy_from_slice(&[0x1234, 0xabcd])), [0x34, 0x12, 0xcd, 0xab]);
    }
}
