//! What every format and rounding has to keep.

use core_tensor::testing::property;
use proptest::prelude::*;

use crate::{Format, Overflow, Rounding};

const ROUNDINGS: [Rounding; 5] = [
    Rounding::NearestEven,
    Rounding::NearestAway,
    Rounding::TowardZero,
    Rounding::TowardPositive,
    Rounding::TowardNegative,
];

/// All finite values, ascending, without a second zero.
fn values(format: Format) -> Vec<f32> {
    let mut values: Vec<f32> = (0..1u32 << format.bits())
        .map(|code| format.decode(code as u16))
        .filter(|x| x.is_finite() && (*x != 0.0 || x.is_sign_positive()))
        .collect();
    values.sort_by(f32::total_cmp);
    values
}

/// Numbers between the smallest and beyond the largest of the format, and any bits at all.
fn number(format: Format) -> impl Strategy<Value = f32> {
    let (low, high) = (format.min_positive().log2() - 3.0, (format.max().log2() + 1.5).min(127.9));
    let sized = (low..high, any::<bool>()).prop_map(|(e, negative)| if negative { -e.exp2() } else { e.exp2() });
    prop_oneof![3 => sized, 1 => any::<u32>().prop_map(f32::from_bits)]
}

fn same(x: f32, y: f32) -> bool {
    x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan())
}

#[test]
fn every_code_comes_back() {
    for &format in Format::ALL {
        for code in 0..1u32 << format.bits() {
            let (code, x) = (code as u16, format.decode(code as u16));
            for rounding in ROUNDINGS.into_iter().chain([Rounding::Stochastic(1)]) {
                let saturated = format.quantize(x, rounding, Overflow::Saturate);
                if x.is_nan() {
                    assert!(format.decode(format.encode(x, rounding, Overflow::Ieee)).is_nan() && saturated.is_nan());
                    continue;
                }
                assert_eq!(format.encode(x, rounding, Overflow::Ieee), code, "{format} {x:e} {rounding:?}");
                if x.is_finite() {
                    assert!(same(saturated, x), "idempotent");
                } else {
                    assert_eq!(saturated.abs(), format.max());
                }
            }
        }
    }
}

#[test]
fn finite_values_ascend_with_their_codes() {
    for &format in Format::ALL {
        let values = values(format);
        assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "{format}: two codes of one value");
        let nans = (0..1u32 << format.bits()).filter(|code| format.decode(*code as u16).is_nan()).count();
        assert_eq!(nans > 0, format.has_nan());
        let expected = (1usize << format.bits()) - nans - 2 * usize::from(format.has_infinities());
        assert_eq!(values.len(), expected - usize::from(format.has_negative_zero()), "{format}");
    }
}

/// What the neighbours of a number in a table of all values say its rounding is; `None` beyond the ends.
fn by_table(values: &[f32], x: f32, rounding: Rounding, even: impl Fn(f32) -> bool) -> Option<f32> {
    let above = values.partition_point(|v| *v < x);
    let upper = *values.get(above)?;
    if upper == x {
        return Some(x);
    }
    let lower = *values.get(above.checked_sub(1)?)?;
    let (below, beyond) = (f64::from(x) - f64::from(lower), f64::from(upper) - f64::from(x));
    let outer = if x > 0.0 { upper } else { lower };
    let inner = if x > 0.0 { lower } else { upper };
    Some(match rounding {
        Rounding::TowardPositive => upper,
        Rounding::TowardNegative => lower,
        Rounding::TowardZero => inner,
        _ if below < beyond => lower,
        _ if beyond < below => upper,
        Rounding::NearestAway => outer,
        _ if even(lower) => lower,
        _ => upper,
    })
}

fn check_table(format: Format, values: &[f32], x: f32) {
    // A power of two has no even code; its ties go up, as tested with the format.
    let even = |v: f32| format != Format::E8M0 && format.encode(v, Rounding::TowardZero, Overflow::Ieee) & 1 == 0;
    for rounding in ROUNDINGS {
        if let Some(expected) = by_table(values, x, rounding, even) {
            let got = format.quantize(x, rounding, Overflow::Ieee);
            assert!(got == expected, "{format} {rounding:?} of {x:e} is {got:e}, expected {expected:e}");
            if format.has_negative_zero() {
                assert_eq!(got.is_sign_negative(), x.is_sign_negative());
            }
        }
    }
}

#[test]
fn rounding_is_that_of_a_table_of_all_values() {
    for &format in Format::ALL {
        let values = values(format);
        // At, just below and just above every value and every midpoint.
        let step = if format.bits() > 8 { 97 } else { 1 };
        for pair in values.windows(2).step_by(step) {
            let middle = ((f64::from(pair[0]) + f64::from(pair[1])) / 2.0) as f32;
            for x in [pair[0], middle] {
                for x in [x.next_down(), x, x.next_up()] {
                    check_table(format, &values, x);
                }
            }
        }
        property(500, number(format), |x| {
            if x.is_finite() {
                check_table(format, &values, x);
            }
        });
    }
}

#[test]
fn rounding_is_monotone_and_odd() {
    for &format in Format::ALL {
        property(200, (number(format), number(format)), |(x, y)| {
            if x.is_nan() || y.is_nan() {
                return;
            }
            for rounding in ROUNDINGS.into_iter().chain([Rounding::Stochastic(5)]) {
                let q = |x: f32| format.quantize(x, rounding, Overflow::Saturate);
                let (low, high) = (q(x.min(y)), q(x.max(y)));
                assert!(low <= high || low.is_nan(), "{format} {rounding:?}: {x:e} {y:e} become {low:e} {high:e}");
                if !format.is_signed() {
                    continue;
                }
                let mirrored = match rounding {
                    Rounding::TowardPositive => Rounding::TowardNegative,
                    Rounding::TowardNegative => Rounding::TowardPositive,
                    other => other,
                };
                let other = format.quantize(-x, mirrored, Overflow::Saturate);
                assert!(-q(x) == other, "{format} {rounding:?}: {x:e}");
            }
        });
    }
}

#[test]
fn stochastic_rounding_takes_neighbours_with_the_right_mean() {
    const DRAWS: u32 = 4000;
    for &format in Format::ALL {
        property(20, number(format), |x| {
            let down = format.quantize(x, Rounding::TowardNegative, Overflow::Ieee);
            let up = format.quantize(x, Rounding::TowardPositive, Overflow::Ieee);
            // Below its smallest number e8m0 has but one neighbour.
            if !down.is_finite() || !up.is_finite() || down > x || up == down {
                return;
            }
            let (low, gap) = (f64::from(down), f64::from(up) - f64::from(down));
            let share = (f64::from(x) - low) / gap;
            let mut ups = 0u32;
            for draw in 0..DRAWS {
                let bits = crate::rounding::word(11, u64::from(draw));
                let y = format.decode(format.encode_with_bits(x, bits, Overflow::Ieee));
                assert!(y == down || y == up, "{format}: {x:e} became {y:e}");
                ups += u32::from(y == up);
            }
            // One draw of slack where the variance is next to nothing.
            let n = f64::from(DRAWS);
            let allowed = 4.0 * (n * share * (1.0 - share)).sqrt() + 1.0;
            assert!((f64::from(ups) - n * share).abs() <= allowed, "{format}: {x:e} {ups} of {n}, share {share}");
        });
    }
}

#[test]
fn packing_and_unpacking_is_fake_quantisation() {
    use burn::tensor::{Tensor, TensorData};
    for device in core_tensor::testing::host_devices() {
        for &format in Format::ALL {
            let strategy = proptest::collection::vec(number(format), 0..40);
            property(12, strategy, |values| {
                let shape = [values.len()];
                let x = Tensor::<1>::from_data(TensorData::new(values, shape), &device);
                for rounding in ROUNDINGS.into_iter().chain([Rounding::Stochastic(9)]) {
                    for overflow in [Overflow::Ieee, Overflow::Saturate] {
                        let q = crate::Quantizer::new(format).rounding(rounding).overflow(overflow);
                        let fake = q.fake_quantize(x.clone()).unwrap().into_data();
                        let back: Tensor<1> = q.pack(&x).unwrap().unpack(&device).unwrap();
                        let pairs = fake.iter::<f32>().zip(back.into_data().iter::<f32>().collect::<Vec<_>>());
                        assert!(pairs.into_iter().all(|(a, b)| same(a, b)), "{format}");
                    }
                }
            });
        }
    }
}
