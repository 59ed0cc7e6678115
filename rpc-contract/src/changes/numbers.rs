//! The range of integers that a JSON Schema allows.

use std::fmt;

use serde_json::{Map, Value};

/// A range of integers. Both ends are included; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    least: Option<Limit>,
    most: Option<Limit>,
}

/// An integer that is the limit of a range: any `i128` or `u128`. The derived order is that of the
/// integers, because negative ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    Negative(i128),
    /// Zero or more.
    Positive(u128),
}

impl Limit {
    const fn of(integer: i128) -> Self {
        if integer < 0 {
            Self::Negative(integer)
        } else {
            Self::Positive(integer.unsigned_abs())
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Negative(integer) => integer.fmt(f),
            Self::Positive(integer) => integer.fmt(f),
        }
    }
}

impl Range {
    /// Whether the other range begins and ends within this one. Where it has no limit, this one may
    /// have none either.
    pub(super) fn contains(&self, other: &Self) -> bool {
        let begins_within = self
            .least
            .is_none_or(|least| other.least.is_some_and(|other| other >= least));
        let ends_within = self
            .most
            .is_none_or(|most| other.most.is_some_and(|other| other <= most));
        begins_within && ends_within
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.least, self.most) {
            (Some(least), Some(most)) => write!(f, "from {least} to {most}"),
            (Some(least), None) => write!(f, "from {least}"),
            (None, Some(most)) => write!(f, "up to {most}"),
            (None, None) => f.write_str("of any size"),
        }
    }
}

/// Returns the range of a schema of integers: that of its `format`, which is schemars' name of a
/// Rust type, narrowed by the schema's limits. Ignores unknown formats, limits that are not
/// integers, and floats that are too large to be exact.
pub(super) fn range(schema: &Map<String, Value>) -> Range {
    let format = schema.get("format").and_then(Value::as_str);
    let (least, most) = format.and_then(range_of_format).unzip();
    let limit = |keyword: &str| schema.get(keyword).and_then(integer);
    let above = limit("exclusiveMinimum").map(|limit| limit.saturating_add(1));
    let below = limit("exclusiveMaximum").map(|limit| limit.saturating_sub(1));
    let lower_limits = [least, limit("minimum").map(Limit::of), above.map(Limit::of)];
    let upper_limits = [most, limit("maximum").map(Limit::of), below.map(Limit::of)];
    Range {
        least: lower_limits.into_iter().flatten().max(),
        most: upper_limits.into_iter().flatten().min(),
    }
}

/// Returns the range that holds only this value. `None` if it is no integer, or a float too large
/// to be exact.
pub(super) fn range_of_value(value: &Value) -> Option<Range> {
    let value = Limit::of(integer(value)?);
    Some(Range {
        least: Some(value),
        most: Some(value),
    })
}

/// Returns the range of a Rust type. `int` and `uint`, which are `isize` and `usize`, are taken to
/// have 64 bits. `None` if the format is not that of an integer type.
fn range_of_format(format: &str) -> Option<(Limit, Limit)> {
    let signed = |least, most| (Limit::of(least), Limit::of(most));
    let unsigned = |most| (Limit::Positive(0), Limit::Positive(most));
    Some(match format {
        "int8" => signed(i8::MIN.into(), i8::MAX.into()),
        "int16" => signed(i16::MIN.into(), i16::MAX.into()),
        "int32" => signed(i32::MIN.into(), i32::MAX.into()),
        "int64" | "int" => signed(i64::MIN.into(), i64::MAX.into()),
        "int128" => signed(i128::MIN, i128::MAX),
        "uint8" => unsigned(u8::MAX.into()),
        "uint16" => unsigned(u16::MAX.into()),
        "uint32" => unsigned(u32::MAX.into()),
        "uint64" | "uint" => unsigned(u64::MAX.into()),
        "uint128" => unsigned(u128::MAX),
        _ => return None,
    })
}

fn integer(value: &Value) -> Option<i128> {
    let whole = value.as_i64().map(i128::from).or(value.as_u64().map(i128::from));
    // An integer may be written as `255.0`. Fractions are no limits of Rust types, and larger
    // floats may have been rounded.
    whole.or_else(|| {
        value
            .as_f64()
            .filter(|float| float.fract() == 0.0 && float.abs() < 1e15)
            .map(|float| float as i128)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(schema: Value) -> Range {
        range(schema.as_object().unwrap())
    }

    #[test]
    fn formats_and_limits_narrow_each_other() {
        assert_eq!(of(json!({"format": "uint8"})).to_string(), "from 0 to 255");
        assert_eq!(
            of(json!({"format": "int64", "minimum": 0})).to_string(),
            "from 0 to 9223372036854775807"
        );
        assert_eq!(
            of(json!({"minimum": -1.0, "exclusiveMaximum": 7})).to_string(),
            "from -1 to 6"
        );
        assert_eq!(of(json!({"exclusiveMinimum": 0})).to_string(), "from 1");
        assert_eq!(
            of(json!({"maximum": 7, "minimum": 0.5, "format": "of mine"})).to_string(),
            "up to 7"
        );
        assert_eq!(of(json!({"minimum": "none"})).to_string(), "of any size");
    }

    #[test]
    fn a_range_contains_narrower_ones() {
        let contains =
            |one: &str, other: &str| of(json!({"format": one})).contains(&of(json!({"format": other})));
        assert!(contains("int128", "int64") && contains("uint128", "uint64"));
        assert!(!contains("int128", "uint128") && !contains("uint128", "int8"));
        assert!(contains("", "uint128") && !contains("uint128", ""));
        assert!(contains("uint64", "uint8") && contains("int64", "uint32") && contains("int", "int64"));
        assert!(!contains("uint8", "uint64") && !contains("int64", "uint64") && !contains("uint64", "int8"));
        assert!(contains("", "uint8") && !contains("uint8", ""));
    }
}
