//! Gives numbers in schemas the form that they have without `serde_json/arbitrary_precision`.
//!
//! If an application enables that feature, a number keeps the text that it was read from, and `1.0`
//! and `1.00` are not equal. An integer and a float, such as `1` and `1.0`, stay different.

use serde_json::{Number, Value};

use crate::{MethodDescription, ServiceDescription};

pub(super) fn normalized(service: &ServiceDescription) -> ServiceDescription {
    let mut service = service.clone();
    service.methods.iter_mut().for_each(normalize_method);
    service.definitions.values_mut().for_each(normalize_value);
    service
}

fn normalize_method(method: &mut MethodDescription) {
    let arguments = method.arguments.iter_mut();
    let arguments = arguments.filter_map(|argument| argument.schema.as_mut());
    arguments
        .chain(&mut method.result_schema)
        .chain(&mut method.error_schema)
        .chain(&mut method.incoming_schema)
        .for_each(normalize_value);
}

fn normalize_value(value: &mut Value) {
    match value {
        Value::Number(number) => normalize_number(number),
        Value::Array(values) => values.iter_mut().for_each(normalize_value),
        Value::Object(fields) => fields.values_mut().for_each(normalize_value),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn normalize_number(number: &mut Number) {
    if let Some(integer) = number.as_u64() {
        *number = integer.into();
    } else if let Some(integer) = number.as_i64() {
        *number = integer.into();
    } else if let Some(float) = number.as_f64().and_then(Number::from_f64) {
        *number = float;
    }
}
