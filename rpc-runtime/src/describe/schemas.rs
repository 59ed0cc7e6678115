//! The JSON Schemas of a service with `#[service(schema)]`: generated code tells the types, this module asks `schemars`.
//!
//! Without the cargo feature `schema` it knows nothing and asks nothing, so that the one thing the compiler says of such a service is that
//! the feature is missing.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use super::{MethodDescription, ServiceDescription};

/// Refuses `#[service(schema)]` where nobody can make schemas.
#[cfg(not(feature = "schema"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __needs_feature_schema {
    () => {
        ::core::compile_error!(
            "`#[service(schema)]` needs the cargo feature `schema` of rpc-runtime; write `rpc-runtime = { version = \"..\", features = [\"schema\"] }` in Cargo.toml"
        );
    };
}

/// Has nothing to refuse.
#[cfg(feature = "schema")]
#[doc(hidden)]
#[macro_export]
macro_rules! __needs_feature_schema {
    () => {};
}

/// The function that tells the types of a service.
#[derive(Clone, Copy)]
pub(super) struct SchemaSource(pub(super) fn(&mut Schemas));

impl SchemaSource {
    /// The description, with schemas.
    pub(super) fn complete(self, description: ServiceDescription) -> ServiceDescription {
        let mut schemas = Schemas {
            description,
            generator: Generator::new(),
        };
        (self.0)(&mut schemas);
        schemas
            .description
            .definitions
            .extend(schemas.generator.definitions());
        schemas.description
    }
}

/// Where a function is says nothing about what it does: sources are alike.
impl PartialEq for SchemaSource {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for SchemaSource {}

impl fmt::Debug for SchemaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// A type that is described by a JSON Schema.
#[cfg(feature = "schema")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no JSON Schema, and the service is `#[service(schema)]`",
    label = "`{Self}` is not `schemars::JsonSchema`",
    note = "derive or implement `schemars::JsonSchema`, of schemars 1; a parameter of the trait has it among its bounds"
)]
pub trait Describable: schemars::JsonSchema {}

#[cfg(feature = "schema")]
#[diagnostic::do_not_recommend]
impl<T: schemars::JsonSchema + ?Sized> Describable for T {}

/// Any type, where nobody can tell those with a JSON Schema.
#[cfg(not(feature = "schema"))]
pub trait Describable {}

#[cfg(not(feature = "schema"))]
impl<T: ?Sized> Describable for T {}

/// A description that is given its schemas.
#[derive(Debug)]
pub struct Schemas {
    description: ServiceDescription,
    generator: Generator,
}

impl Schemas {
    /// The schemas of the method of that name.
    pub fn method(&mut self, name: &str) -> MethodSchemas<'_> {
        let mut methods = self.description.methods.iter_mut();
        MethodSchemas {
            method: methods.find(|method| method.name == name),
            generator: &mut self.generator,
        }
    }
}

/// A method that is given its schemas.
#[derive(Debug)]
pub struct MethodSchemas<'a> {
    method: Option<&'a mut MethodDescription>,
    generator: &'a mut Generator,
}

impl MethodSchemas<'_> {
    /// An argument, and the type that it is read as.
    pub fn argument<T: Describable + ?Sized>(&mut self, name: &str) {
        let schema = self.generator.schema::<T>();
        self.set_argument(name, schema);
    }

    /// An argument that is bytes.
    pub fn bytes(&mut self, name: &str) {
        self.set_argument(name, Generator::bytes());
    }

    fn set_argument(&mut self, name: &str, schema: Option<serde_json::Value>) {
        let arguments = self.method.iter_mut().flat_map(|method| &mut method.arguments);
        for argument in arguments.filter(|argument| argument.name == name) {
            argument.schema.clone_from(&schema);
        }
    }

    /// What the method returns where it succeeds.
    pub fn result<T: Describable + 'static>(&mut self) {
        let schema = self.generator.answer::<T>();
        if let Some(method) = &mut self.method {
            method.result_schema = schema;
        }
    }

    /// The method's own error.
    pub fn error<T: Describable>(&mut self) {
        let schema = self.generator.schema::<T>();
        if let Some(method) = &mut self.method {
            method.error_schema = schema;
        }
    }
}

/// The schema of an argument whose type is named like one that is bytes: `<SchemaOf<Vec<u8>>>::argument`, with [`SchemaOfOther`] in
/// scope. The functions below are found first, and only for the type that is meant.
#[derive(Debug)]
pub struct SchemaOf<T>(PhantomData<T>);

impl SchemaOf<Vec<u8>> {
    /// An argument that is bytes.
    pub fn argument(method: &mut MethodSchemas<'_>, name: &str) {
        method.bytes(name);
    }
}

impl SchemaOf<Cow<'_, [u8]>> {
    /// An argument that is bytes.
    pub fn argument(method: &mut MethodSchemas<'_>, name: &str) {
        method.bytes(name);
    }
}

/// The schema of types that are the user's and only go by the name.
pub trait SchemaOfOther {
    /// An argument, and the type that it is read as.
    fn argument(method: &mut MethodSchemas<'_>, name: &str);
}

impl<T: Describable> SchemaOfOther for SchemaOf<T> {
    fn argument(method: &mut MethodSchemas<'_>, name: &str) {
        method.argument::<T>(name);
    }
}

#[cfg(feature = "schema")]
use with_feature::Generator;

#[cfg(feature = "schema")]
mod with_feature {
    use std::any::TypeId;
    use std::borrow::Cow;

    use schemars::generate::SchemaSettings;
    use schemars::{JsonSchema, Schema, SchemaGenerator};
    use serde_json::{Value, json};

    /// Makes the schemas of one service, with their shared definitions.
    #[derive(Debug)]
    pub(super) struct Generator(SchemaGenerator);

    impl Generator {
        pub(super) fn new() -> Self {
            // Draft 7 is understood everywhere, AsyncAPI included.
            Self(SchemaSettings::draft07().into_generator())
        }

        pub(super) fn schema<T: JsonSchema + ?Sized>(&mut self) -> Option<Value> {
            let mut schema: Schema = self.0.subschema_for::<T>();
            for transform in self.0.transforms_mut() {
                transform.transform(&mut schema);
            }
            Some(schema.to_value())
        }

        /// The schema of an answer; which types of answers are bytes, the codec decides.
        pub(super) fn answer<T: JsonSchema + 'static>(&mut self) -> Option<Value> {
            let bytes = [TypeId::of::<Vec<u8>>(), TypeId::of::<Cow<'static, [u8]>>()];
            if bytes.contains(&TypeId::of::<T>()) {
                return Self::bytes();
            }
            self.schema::<T>()
        }

        /// Bytes, as JSON has them. The `format` tells them from a list of small numbers, which MessagePack does too.
        pub(super) fn bytes() -> Option<Value> {
            Some(json!({
                "description": "Bytes: `bin` in MessagePack, numbers in JSON.",
                "type": "array",
                "format": "bytes",
                "items": {"type": "integer", "format": "uint8", "minimum": 0, "maximum": 255},
            }))
        }

        pub(super) fn definitions(mut self) -> impl Iterator<Item = (String, Value)> {
            self.0.take_definitions(true).into_iter()
        }
    }
}

#[cfg(not(feature = "schema"))]
use without_feature::Generator;

#[cfg(not(feature = "schema"))]
#[allow(clippy::extra_unused_type_parameters)] // of the functions of the same name, which use them
mod without_feature {
    use serde_json::Value;

    /// Makes none.
    #[derive(Debug)]
    pub(super) struct Generator;

    impl Generator {
        pub(super) fn new() -> Self {
            Self
        }

        pub(super) fn schema<T: ?Sized>(&mut self) -> Option<Value> {
            None
        }

        pub(super) fn answer<T>(&mut self) -> Option<Value> {
            None
        }

        pub(super) fn bytes() -> Option<Value> {
            None
        }

        pub(super) fn definitions(self) -> impl Iterator<Item = (String, Value)> {
            std::iter::empty()
        }
    }
}
