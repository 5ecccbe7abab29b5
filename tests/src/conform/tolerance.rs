//! How far a number may be from the expected one.

use super::json::{Field, Malformed};

/// `|got − want| ≤ abs + rel·|want|`. With `bits` the `f32` bit patterns have to be equal instead;
/// any NaN equals any NaN, and an infinity equals only itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance {
    /// Absolute part, 0 where the file gives none.
    pub abs: f64,
    /// Part relative to the expected number, 0 where the file gives none.
    pub rel: f64,
    /// Compare bit patterns.
    pub bits: bool,
}

/// One comparison: the distance, and whether it is within the tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// `|got − want|`, 0 for two equal non-finite numbers, infinite where just one is finite.
    pub error: f64,
    /// Whether the tolerance allows it.
    pub within: bool,
}

impl Tolerance {
    /// Reads `{"abs", "rel"}` or `{"bits": 0}`.
    pub fn parse(field: &Field<'_>) -> Result<Self, Malformed> {
        field.only(&["abs", "rel", "bits"])?;
        let part = |key: &str| match field.find(key)? {
            None => Ok(0.0),
            Some(part) => match part.number()? {
                number if number >= 0.0 && number.is_finite() => Ok(number),
                number => Err(part.malformed(format!("{number}, expected a finite number, 0 or more"))),
            },
        };
        let bits = match field.find("bits")? {
            None => false,
            Some(part) if part.count()? == 0 => true,
            Some(part) => return Err(part.malformed("only 0 is known")),
        };
        Ok(Self { abs: part("abs")?, rel: part("rel")?, bits })
    }

    /// Compares a computed number with the expected one.
    pub fn compare(&self, got: f64, want: f64) -> Distance {
        if self.bits {
            let same = (got as f32).to_bits() == (want as f32).to_bits() || got.is_nan() && want.is_nan();
            let error = if same { 0.0 } else { self.gap(got, want) };
            return Distance { error, within: same };
        }
        let error = self.gap(got, want);
        let within = if want.is_finite() { error <= self.abs + self.rel * want.abs() } else { error == 0.0 };
        Distance { error, within }
    }

    fn gap(&self, got: f64, want: f64) -> f64 {
        if got == want || got.is_nan() && want.is_nan() {
            0.0
        } else if got.is_finite() && want.is_finite() {
            (got - want).abs()
        } else {
            f64::INFINITY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::Json;
    use super::*;

    fn parse(text: &str) -> Result<Tolerance, Malformed> {
        let json: Json = serde_json::from_str(text).unwrap();
        Tolerance::parse(&Field::root("f", &json))
    }

    #[test]
    fn both_parts_count_and_the_edge_is_inside() {
        let tolerance = Tolerance { abs: 0.5, rel: 0.25, bits: false };
        assert!(tolerance.compare(3.5, 2.0).error == 1.5);
        assert!(tolerance.compare(3.0, 2.0).within);
        assert!(!tolerance.compare(3.0 + 1e-12, 2.0).within);
        assert!(tolerance.compare(-3.0, -2.0).within);
        assert!(!tolerance.compare(2.0, -2.0).within);
    }

    #[test]
    fn non_finite_numbers_equal_only_their_kind() {
        let wide = Tolerance { abs: 1e300, rel: 1e300, bits: false };
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(wide.compare(value, value), Distance { error: 0.0, within: true });
            assert!(!wide.compare(value, 1.0).within);
            assert!(!wide.compare(1.0, value).within);
        }
        assert!(!wide.compare(f64::INFINITY, f64::NEG_INFINITY).within);
    }

    #[test]
    fn bits_tell_the_zeros_apart() {
        let bits = parse(r#"{"bits": 0}"#).unwrap();
        assert!(bits.bits);
        assert!(bits.compare(1.5, 1.5).within);
        assert!(bits.compare(f64::NAN, -f64::NAN).within);
        assert!(!bits.compare(0.0, -0.0).within);
        assert!(!bits.compare(1.0, 1.0 + f64::from(f32::EPSILON)).within);
    }

    #[test]
    fn parts_are_optional_and_checked() {
        assert_eq!(parse("{}").unwrap(), Tolerance::default());
        assert_eq!(parse(r#"{"abs": 1e-3}"#).unwrap().abs, 1e-3);
        for text in [r#"{"abs": -1}"#, r#"{"rel": "nan"}"#, r#"{"rel": "inf"}"#, r#"{"bits": 1}"#, r#"{"ulp": 1}"#] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
