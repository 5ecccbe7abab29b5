//! How optimizer state is stored: codes of 8 or 4 bits and a scale for each block.

use core_tensor::host::vectorised;

use super::dynamic8::{self, Codebook};
use crate::error::{Error, Result};
use crate::format::{Format, mode};
use crate::rounding::{Rounding, Words};

/// A format for optimizer state: what codes mean, and how many elements share a scale.
///
/// | format | code of a first moment | of a second moment | block | bytes an element |
/// |---|---|---|---|---|
/// | [`F32`](Self::F32) | the number | the number | | 4 |
/// | [`DYNAMIC8`](Self::DYNAMIC8) | signed dynamic map | unsigned dynamic map | 256 | 1.016 |
/// | [`LINEAR8`](Self::LINEAR8) | `k/127` | `(k + 1)/256` | 256 | 1.016 |
/// | [`FP8`](Self::FP8) | `e4m3fn`, 448 for the largest | the same | 256 | 1.016 |
/// | [`DYNAMIC4`](Self::DYNAMIC4) | signed dynamic map of 4 bits | `(k + 1)/16` | 128 | 0.531 |
/// | [`LINEAR4`](Self::LINEAR4) | `k/7` | `(k + 1)/16` | 128 | 0.531 |
///
/// The scale of a block is its largest magnitude as an `f32`. An element is divided by it (exactly rounded) and becomes the
/// code of the nearest entry, halfway the lower one (`e4m3fn`: the even one); or of either neighbour at random, in proportion.
/// A block of zeros stays zeros. A block with a number that is not finite becomes NaN altogether: nothing is hidden.
///
/// Guarantees, tested as `blocks_keep_their_error_bound`: with `a` the largest magnitude of the block, the error of an element
/// is at most half the widest gap of the map times `a`, and on the 8-bit dynamic maps at most 15 % of the element where it is above
/// `a/100`.
///
/// References: Dettmers et al. (see [`dynamic_map`](super::dynamic_map)); B. Li, J. Chen, J. Zhu, "Memory Efficient Optimizers
/// with 4-bit States", NeurIPS 2023, arXiv:2309.01507, for [`DYNAMIC4`](Self::DYNAMIC4), as in torchao, and for why there is no
/// zero in an evenly spaced second moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateFormat {
    codes: Codes,
    block: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Codes {
    F32,
    Dynamic8,
    Linear8,
    E4M3,
    Dynamic4,
    Linear4,
}

/// Elements that are decoded, updated and encoded together where no block says so.
const UNBLOCKED: usize = 1 << 10;
/// The largest block.
const LARGEST: usize = 1 << 16;

impl StateFormat {
    /// `f32`, as Burn stores it.
    pub const F32: Self = Self { codes: Codes::F32, block: UNBLOCKED };
    /// Block-wise dynamic 8-bit quantisation, as in bitsandbytes.
    pub const DYNAMIC8: Self = Self { codes: Codes::Dynamic8, block: 256 };
    /// Evenly spaced codes of 8 bits.
    pub const LINEAR8: Self = Self { codes: Codes::Linear8, block: 256 };
    /// `e4m3fn`.
    pub const FP8: Self = Self { codes: Codes::E4M3, block: 256 };
    /// 4 bits: dynamic first moments, evenly spaced second moments.
    pub const DYNAMIC4: Self = Self { codes: Codes::Dynamic4, block: 128 };
    /// Evenly spaced codes of 4 bits.
    pub const LINEAR4: Self = Self { codes: Codes::Linear4, block: 128 };
    /// All formats, with their default blocks.
    pub const ALL: &'static [Self] =
        &[Self::F32, Self::DYNAMIC8, Self::LINEAR8, Self::FP8, Self::DYNAMIC4, Self::LINEAR4];

    /// With so many elements a block.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a block that is odd or outside 2 to 65536.
    pub fn with_block(self, block: usize) -> Result<Self> {
        match (2..=LARGEST).contains(&block) && block.is_multiple_of(2) {
            true => Ok(Self { block, ..self }),
            false => {
                Err(Error::Parameter { parameter: "block", value: block as f64, bound: "an even number, 2 to 65536" })
            }
        }
    }

    /// Elements of a block.
    pub const fn block(&self) -> usize {
        self.block
    }

    /// Bits of a code.
    pub const fn bits(&self) -> usize {
        match self.codes {
            Codes::F32 => 32,
            Codes::Dynamic8 | Codes::Linear8 | Codes::E4M3 => 8,
            Codes::Dynamic4 | Codes::Linear4 => 4,
        }
    }

    /// A name: `f32`, `dynamic8`, `linear8`, `fp8`, `dynamic4`, `linear4`.
    pub const fn name(&self) -> &'static str {
        match self.codes {
            Codes::F32 => "f32",
            Codes::Dynamic8 => "dynamic8",
            Codes::Linear8 => "linear8",
            Codes::E4M3 => "fp8",
            Codes::Dynamic4 => "dynamic4",
            Codes::Linear4 => "linear4",
        }
    }

    /// The format of a name, with its default block.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.name() == name)
    }

    /// Whether codes stand for numbers, and not the numbers themselves.
    pub(crate) fn is_coded(&self) -> bool {
        self.codes != Codes::F32
    }

    fn coder(self, signed: bool) -> Coder {
        let table = |book| Coder::Table { book, packed: self.bits() == 4 };
        match (self.codes, signed) {
            (Codes::F32 | Codes::E4M3, _) => Coder::E4M3,
            (Codes::Dynamic8, true) => table(&dynamic8::DYNAMIC8_SIGNED),
            (Codes::Dynamic8, false) => table(&dynamic8::DYNAMIC8_UNSIGNED),
            (Codes::Linear8, true) => table(&dynamic8::LINEAR8_SIGNED),
            (Codes::Linear8, false) => table(&dynamic8::LINEAR8_UNSIGNED),
            (Codes::Dynamic4, true) => table(&dynamic8::DYNAMIC4_SIGNED),
            (Codes::Linear4, true) => table(&dynamic8::LINEAR4_SIGNED),
            (Codes::Dynamic4 | Codes::Linear4, false) => table(&dynamic8::LINEAR4_UNSIGNED),
        }
    }

    /// Bytes of the codes of so many elements.
    fn code_bytes(&self, length: usize) -> usize {
        (length * self.bits()).div_ceil(8)
    }

    fn blocks(&self, length: usize) -> usize {
        length.div_ceil(self.block)
    }
}

/// A tensor of optimizer state in the memory of the host, in row-major order.
///
/// ```
/// use mixed_precision::Rounding;
/// use mixed_precision::optim::{BlockState, StateFormat};
///
/// let moment: Vec<f32> = (0..1024).map(|i| (i as f32).sin()).collect();
/// let stored = BlockState::encode(StateFormat::DYNAMIC8, true, &moment, Rounding::NearestEven);
/// assert_eq!(stored.bytes(), 1024 + 4 * 4);
/// assert!((stored.decode()[1] - moment[1]).abs() < 0.01);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BlockState {
    pub(crate) format: StateFormat,
    pub(crate) signed: bool,
    pub(crate) length: usize,
    pub(crate) data: Data,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    Numbers(Vec<f32>),
    Codes { codes: Vec<u8>, scales: Vec<f32> },
}

impl BlockState {
    /// Zeros; `signed` unless no element is ever negative.
    pub fn zeros(format: StateFormat, signed: bool, length: usize) -> Self {
        let data = match format.is_coded() {
            false => Data::Numbers(vec![0.0; length]),
            true => Data::Codes { codes: vec![0; format.code_bytes(length)], scales: vec![0.0; format.blocks(length)] },
        };
        Self { format, signed, length, data }
    }

    /// The state of these values; a stochastic rounding draws by position, any other one is to the nearest entry.
    pub fn encode(format: StateFormat, signed: bool, values: &[f32], rounding: Rounding) -> Self {
        let mut state = Self::zeros(format, signed, values.len());
        let mut part = state.parts(values.len().max(1)).next();
        if let Some(part) = &mut part {
            for (i, x) in values.chunks(format.block).enumerate() {
                part.put(i, x, Noise::new(rounding, i * format.block));
            }
        }
        state
    }

    /// The values.
    pub fn decode(&self) -> Vec<f32> {
        let mut state = self.clone();
        let mut values = vec![0.0; self.length];
        if let Some(part) = state.parts(self.length.max(1)).next() {
            for (i, x) in values.chunks_mut(self.format.block).enumerate() {
                part.get(i, x);
            }
        }
        values
    }

    /// The format.
    pub fn format(&self) -> StateFormat {
        self.format
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes held: codes and scales.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::Numbers(x) => 4 * x.len(),
            Data::Codes { codes, scales } => codes.len() + 4 * scales.len(),
        }
    }

    /// In another format; the same if it is already in this one.
    pub(crate) fn into_format(self, format: StateFormat) -> Self {
        match self.format == format {
            true => self,
            false => Self::encode(format, self.signed, &self.decode(), Rounding::NearestEven),
        }
    }

    /// Disjoint parts of so many elements, a multiple of the block unless there is only one part.
    pub(crate) fn parts(&mut self, elements: usize) -> impl Iterator<Item = Part<'_>> {
        let (format, signed) = (self.format, self.signed);
        let (numbers, codes, scales): (&mut [f32], &mut [u8], &mut [f32]) = match &mut self.data {
            Data::Numbers(x) => (x, &mut [], &mut []),
            Data::Codes { codes, scales } => (&mut [], codes, scales),
        };
        let coder = format.coder(signed);
        let coded = format.is_coded();
        let mut numbers = numbers.chunks_mut(elements);
        let mut codes = codes.chunks_mut(format.code_bytes(elements));
        let mut scales = scales.chunks_mut(format.blocks(elements));
        std::iter::from_fn(move || {
            let data = match coded {
                false => PartData::Numbers(numbers.next()?),
                true => PartData::Codes { coder, codes: codes.next()?, scales: scales.next()? },
            };
            Some(Part { block: format.block, data })
        })
    }
}

/// Some blocks of a state.
pub(crate) struct Part<'a> {
    block: usize,
    data: PartData<'a>,
}

enum PartData<'a> {
    Numbers(&'a mut [f32]),
    Codes { coder: Coder, codes: &'a mut [u8], scales: &'a mut [f32] },
}

impl Part<'_> {
    /// The values of a block.
    pub(crate) fn get(&self, block: usize, out: &mut [f32]) {
        let first = block * self.block;
        match &self.data {
            PartData::Numbers(x) => out.copy_from_slice(&x[first..first + out.len()]),
            PartData::Codes { coder, codes, scales } => {
                let (codes, scale) = (&codes[coder.bytes(first)..][..coder.bytes(out.len())], scales[block]);
                match coder.entries() {
                    // A block of zeros is zeros on a map without one, too.
                    _ if scale == 0.0 => out.fill(0.0),
                    (entries, false) => vectorised(
                        #[inline(always)]
                        || {
                            for (x, code) in out.iter_mut().zip(codes) {
                                *x = entries[usize::from(*code)] * scale;
                            }
                        },
                    ),
                    (entries, true) => {
                        for (x, code) in out.chunks_mut(2).zip(codes) {
                            x[0] = entries[usize::from(code & 15)] * scale;
                            if let Some(x) = x.get_mut(1) {
                                *x = entries[usize::from(code >> 4)] * scale;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Replaces the values of a block.
    pub(crate) fn put(&mut self, block: usize, values: &[f32], noise: Option<Noise>) {
        let first = block * self.block;
        match &mut self.data {
            PartData::Numbers(x) => x[first..first + values.len()].copy_from_slice(values),
            PartData::Codes { coder, codes, scales } => {
                let codes = &mut codes[coder.bytes(first)..][..coder.bytes(values.len())];
                scales[block] = coder.encode(values, codes, noise);
            }
        }
    }
}

/// The random bits of the elements from some position on.
#[derive(Clone, Copy)]
pub(crate) struct Noise {
    words: Words,
    first: u32,
}

impl Noise {
    /// Of a stochastic rounding; a block never crosses a multiple of 2³² elements.
    pub(crate) fn new(rounding: Rounding, first: usize) -> Option<Self> {
        match rounding {
            Rounding::Stochastic(seed) => {
                Some(Self { words: Words::new(seed, (first as u64 >> 32) as u32), first: first as u32 })
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn get(self, index: usize) -> u32 {
        self.words.get(self.first.wrapping_add(index as u32))
    }
}

#[derive(Clone, Copy)]
enum Coder {
    Table { book: &'static Codebook, packed: bool },
    E4M3,
}

/// The values of `e4m3fn` as fractions of its largest.
static E4M3: std::sync::LazyLock<[f32; 256]> =
    std::sync::LazyLock::new(|| std::array::from_fn(|code| Format::E4M3FN.decode(code as u16) / 448.0));

impl Coder {
    fn bytes(&self, elements: usize) -> usize {
        match self {
            Self::Table { packed: true, .. } => elements.div_ceil(2),
            _ => elements,
        }
    }

    /// What codes stand for, and whether there are two in a byte.
    fn entries(&self) -> (&'static [f32; 256], bool) {
        match self {
            Self::Table { book, packed } => (&book.entries, *packed),
            Self::E4M3 => (&E4M3, false),
        }
    }

    /// Writes codes, returns the scale.
    fn encode(&self, x: &[f32], codes: &mut [u8], noise: Option<Noise>) -> f32 {
        let magnitude = vectorised(
            #[inline(always)]
            || x.iter().fold(0, |most: u32, x| most.max(x.to_bits() & 0x7fff_ffff)),
        );
        let scale = f32::from_bits(magnitude);
        if !scale.is_finite() || scale == 0.0 {
            codes.fill(0);
            return if scale == 0.0 { 0.0 } else { f32::NAN };
        }
        match (self, noise) {
            (Self::Table { book, packed: false }, None) => {
                codes.iter_mut().zip(x).for_each(|(code, x)| *code = book.nearest(x / scale));
            }
            (Self::Table { book, packed: false }, Some(noise)) => {
                let coded = x.iter().enumerate().map(|(i, x)| book.stochastic(x / scale, noise.get(i)));
                codes.iter_mut().zip(coded).for_each(|(code, coded)| *code = coded);
            }
            (Self::Table { book, packed: true }, noise) => {
                let code = |i: usize| match (x.get(i), noise) {
                    (None, _) => 0,
                    (Some(x), None) => book.nearest(x / scale),
                    (Some(x), Some(noise)) => book.stochastic(x / scale, noise.get(i)),
                };
                codes.iter_mut().enumerate().for_each(|(i, byte)| *byte = code(2 * i) | code(2 * i + 1) << 4);
            }
            (Self::E4M3, noise) => {
                let codec = Format::E4M3FN.codec();
                vectorised(
                    #[inline(always)]
                    || match noise {
                        None => codes.iter_mut().zip(x).for_each(|(code, x)| {
                            *code = codec.encode::<{ mode::EVEN }>(x / scale * 448.0, 0, true) as u8;
                        }),
                        Some(noise) => codes.iter_mut().zip(x).enumerate().for_each(|(i, (code, x))| {
                            *code = codec.encode::<{ mode::STOCHASTIC }>(x / scale * 448.0, noise.get(i), true) as u8;
                        }),
                    },
                );
            }
        }
        scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_tensor::testing::property;
    use proptest::prelude::*;

    /// Numbers over ten orders of magnitude.
    fn values(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
        let number =
            (-30.0f32..4.0, any::<bool>()).prop_map(|(e, negative)| if negative { -e.exp2() } else { e.exp2() });
        prop::collection::vec(number, length)
    }

    /// Half the widest gap of the map, and of the part around small elements.
    fn widest(format: StateFormat, signed: bool) -> f32 {
        match (format.name(), signed) {
            ("f32", _) => 0.0,
            ("dynamic8", true) => 0.9 / 128.0,
            ("dynamic8", false) => 0.9 / 256.0,
            ("linear8", true) => 0.5 / 127.0,
            ("linear8", false) => 1.0 / 256.0,
            ("fp8", _) => 16.0 / 448.0,
            ("dynamic4", true) => 0.1125,
            ("linear4", true) => 0.5 / 7.0,
            _ => 1.0 / 16.0,
        }
    }

    #[test]
    fn blocks_keep_their_error_bound() {
        property(300, (values(1..700), any::<bool>()), |(mut x, signed)| {
            if !signed {
                x.iter_mut().for_each(|x| *x = x.abs());
            }
            for format in StateFormat::ALL {
                let stored = BlockState::encode(*format, signed, &x, Rounding::NearestEven);
                assert_eq!((stored.len(), stored.format()), (x.len(), *format));
                let back = stored.decode();
                for (block, back) in x.chunks(format.block()).zip(back.chunks(format.block())) {
                    let most = block.iter().fold(0f32, |most, x| most.max(x.abs()));
                    for (x, y) in block.iter().zip(back) {
                        let (error, bound) = ((x - y).abs(), widest(*format, signed) * most * 1.0001);
                        assert!(error <= bound, "{}: {x} became {y}, largest {most}", format.name());
                        if format.name() == "dynamic8" && x.abs() > most / 100.0 {
                            assert!(error <= 0.15 * x.abs(), "{x} became {y}, largest {most}");
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn the_largest_element_and_zeros_are_exact() {
        property(200, values(2..300), |mut x| {
            x.iter_mut().for_each(|x| *x = x.abs());
            x[0] = 0.0;
            for format in StateFormat::ALL {
                for signed in [true, false] {
                    let back = BlockState::encode(*format, signed, &x, Rounding::NearestEven).decode();
                    for (x, y) in x.chunks(format.block()).zip(back.chunks(format.block())) {
                        let most = |x: &[f32]| x.iter().fold(0f32, |most, x| most.max(*x));
                        assert_eq!(most(x), most(y), "{}", format.name());
                    }
                    if format.name().starts_with("dynamic8") || format.name() == "fp8" {
                        assert_eq!(back[0], 0.0);
                    }
                    let zeros = BlockState::encode(*format, signed, &[0.0; 300], Rounding::NearestEven);
                    assert_eq!(zeros.decode(), [0.0; 300]);
                }
            }
        });
    }

    #[test]
    fn decoding_then_encoding_changes_nothing() {
        property(100, values(1..600), |x| {
            for format in StateFormat::ALL {
                let once = BlockState::encode(*format, true, &x, Rounding::NearestEven).decode();
                let twice = BlockState::encode(*format, true, &once, Rounding::NearestEven).decode();
                // The lowest entry of a dynamic map is above −1: a block whose largest is negative shrinks once more.
                for ((x, once), twice) in
                    x.chunks(format.block()).zip(once.chunks(format.block())).zip(twice.chunks(format.block()))
                {
                    let most = x.iter().fold(0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
                    if most > 0.0 || !format.name().starts_with("dynamic") {
                        let same = once.iter().zip(twice).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs());
                        assert!(same, "{}", format.name());
                    }
                }
            }
        });
    }

    #[test]
    fn stochastic_codes_are_right_in_the_mean() {
        let x: Vec<f32> = (0..256).map(|i| if i == 0 { 1.0 } else { i as f32 / 300.0 }).collect();
        for format in &StateFormat::ALL[1..] {
            let mut sum = vec![0f64; x.len()];
            let trials = 2000;
            for seed in 0..trials {
                let y = BlockState::encode(*format, true, &x, Rounding::Stochastic(seed)).decode();
                sum.iter_mut().zip(y).for_each(|(sum, y)| *sum += f64::from(y));
            }
            let gap = 2.0 * f64::from(widest(*format, true));
            for (sum, x) in sum.iter().zip(&x) {
                // A draw deviates by at most half the gap: five standard errors.
                let error = (sum / trials as f64 - f64::from(*x)).abs();
                assert!(error <= 5.0 * gap / 2.0 / (trials as f64).sqrt(), "{}: {x}, {error}", format.name());
            }
        }
    }

    #[test]
    fn what_is_not_finite_spoils_its_block_only() {
        for format in &StateFormat::ALL[1..] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = vec![0.5; 2 * format.block()];
                x[3] = bad;
                let y = BlockState::encode(*format, true, &x, Rounding::NearestEven).decode();
                assert!(y[..format.block()].iter().all(|y| y.is_nan()));
                assert!(y[format.block()..].iter().all(|y| *y == 0.5));
            }
        }
    }

    #[test]
    fn bytes_names_and_blocks() {
        for (format, bytes) in [("f32", 4000), ("dynamic8", 1016), ("fp8", 1016), ("linear4", 532)] {
            let format = StateFormat::by_name(format).unwrap();
            assert_eq!(BlockState::zeros(format, true, 1000).bytes(), bytes);
        }
        assert_eq!(BlockState::zeros(StateFormat::DYNAMIC4, true, 3).bytes(), 2 + 4);
        assert!(BlockState::encode(StateFormat::LINEAR8, true, &[], Rounding::NearestEven).decode().is_empty());
        assert!(StateFormat::by_name("int3").is_none());
        assert_eq!(StateFormat::DYNAMIC8.with_block(64).unwrap().block(), 64);
        for block in [0, 1, 3, 1 << 17] {
            assert!(StateFormat::FP8.with_block(block).is_err());
        }
    }
}
