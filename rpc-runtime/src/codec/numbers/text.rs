//! Classifies numbers by their text, and reads integers of 128 bits in each of their forms.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Error, Unexpected, Visitor};

/// A JSON number.
#[derive(Debug, PartialEq)]
pub(super) enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    /// Any other text: a number that changes if it is read as an `f64` and written again, or no
    /// number. Only the text is exact. Notation does not count: `1.10` is a float.
    Precise,
}

impl Number {
    /// Parses the text of a number, with the same result as `serde_json` without its feature
    /// `arbitrary_precision`, except for [`Precise`](Self::Precise).
    pub(super) fn new(text: &str) -> Self {
        // `-0` is a float, because no integer is a negative zero.
        let is_integer = text != "-0" && !text.contains(['.', 'e', 'E']);
        if is_integer {
            if let Ok(unsigned) = text.parse() {
                return Self::Unsigned(unsigned);
            }
            if let Ok(signed) = text.parse() {
                return Self::Signed(signed);
            }
        }
        match text.parse() {
            Ok(float) if is_written_as(float, text) => Self::Float(float),
            _ => Self::Precise,
        }
    }
}

/// The number of decimal digits that suffice to identify any `f64`.
const FLOAT_DIGITS: usize = 17;

/// Whether the float is written as the number in this text again, in its shortest form or with as
/// many digits as the text has. The latter is needed because some floats have two shortest forms,
/// and writers differ in which one they use.
fn is_written_as(float: f64, text: &str) -> bool {
    let Some(number) = Digits::new(text) else {
        return false;
    };
    let count = number.digits.len().clamp(1, FLOAT_DIGITS);
    [format!("{float:e}"), format!("{float:.*e}", count - 1)]
        .iter()
        .any(|written| Digits::new(written).as_ref() == Some(&number))
}

/// A decimal number in a canonical form: `0.DIGITS * 10^exponent`, without a sign, and without
/// zeros at either end of the digits.
#[derive(Debug, PartialEq)]
struct Digits {
    digits: String,
    exponent: i64,
}

impl Digits {
    /// Parses a number and ignores its sign. `None` if the text is not a finite number, or its
    /// exponent is too large.
    fn new(text: &str) -> Option<Self> {
        let text = text.trim_start_matches('-');
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all_digits = [whole, fraction].concat();
        if all_digits.is_empty() || !all_digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let significant = all_digits.trim_start_matches('0');
        let leading_zeros = i64::try_from(all_digits.len() - significant.len()).ok()?;
        let whole_digits = i64::try_from(whole.len()).ok()?;
        let shift = whole_digits - leading_zeros;
        let exponent = exponent.parse::<i64>().ok()?.checked_add(shift)?;
        let digits = significant.trim_end_matches('0').to_owned();
        let is_zero = digits.is_empty();
        let exponent = if is_zero { 0 } else { exponent };
        Some(Self { digits, exponent })
    }
}

/// Accepts an integer of 128 bits as a number of up to 64 bits, as text, or as 16 bytes, and passes
/// it on to a visitor.
pub(super) struct IntegerVisitor<V, N> {
    visitor: V,
    number: PhantomData<N>,
}

impl<V, N> IntegerVisitor<V, N> {
    pub(super) fn new(visitor: V) -> Self {
        Self {
            visitor,
            number: PhantomData,
        }
    }
}

/// An integer of 128 bits.
pub(super) trait Wide: FromStr {
    /// Decodes big-endian bytes, as `rmp-serde` writes them.
    fn from_bytes(bytes: [u8; 16]) -> Self;

    fn visit<'de, V: Visitor<'de>, E: Error>(self, visitor: V) -> Result<V::Value, E>;
}

impl Wide for i128 {
    fn from_bytes(bytes: [u8; 16]) -> Self {
        Self::from_be_bytes(bytes)
    }

    fn visit<'de, V: Visitor<'de>, E: Error>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_i128(self)
    }
}

impl Wide for u128 {
    fn from_bytes(bytes: [u8; 16]) -> Self {
        Self::from_be_bytes(bytes)
    }

    fn visit<'de, V: Visitor<'de>, E: Error>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_u128(self)
    }
}

impl<'de, V: Visitor<'de>, N: Wide> Visitor<'de> for IntegerVisitor<V, N> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<V::Value, E> {
        self.visitor.visit_u64(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<V::Value, E> {
        self.visitor.visit_i64(value)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        match text.parse::<N>() {
            Ok(value) => value.visit(self.visitor),
            Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    /// Reads an integer in the form in which `rmp-serde` writes it.
    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<V::Value, E> {
        match bytes.try_into() {
            Ok(bytes) => N::from_bytes(bytes).visit(self.visitor),
            Err(_) => Err(E::invalid_length(bytes.len(), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_like_without_arbitrary_precision() {
        for (text, number) in [
            ("0", Number::Unsigned(0)),
            ("18446744073709551615", Number::Unsigned(u64::MAX)),
            ("-9223372036854775808", Number::Signed(i64::MIN)),
            ("-0", Number::Float(-0.0)),
            ("1.0", Number::Float(1.0)),
            ("1.10", Number::Float(1.1)),
            ("1e2", Number::Float(100.0)),
            ("1E+2", Number::Float(100.0)),
            ("0.00", Number::Float(0.0)),
            ("-12.50e-3", Number::Float(-0.0125)),
            // The float is halfway between these two numbers.
            ("1209533460767050.2", Number::Float(4838133843068201.0 / 4.0)),
            ("1209533460767050.3", Number::Float(4838133843068201.0 / 4.0)),
            ("100000000000000000000", Number::Float(1e20)),
        ] {
            assert_eq!(Number::new(text), number, "{text}");
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_precise() {
        for text in [
            "18446744073709551616",
            "-9223372036854775809",
            "0.1000000000000000055511151231257827",
            "123456789.123456789123456789",
            "1e999",
            "1e-999",
            "1e99999999999999999999",
            "",
            "-",
            "NaN",
            "inf",
        ] {
            assert_eq!(Number::new(text), Number::Precise, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_float_is_read_unchanged(float in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL) {
            prop_assert_eq!(Number::new(&format!("{float:e}")), Number::Float(float));
            prop_assert_eq!(Number::new(&format!("{float:?}")), Number::Float(float));
        }
    }
}
