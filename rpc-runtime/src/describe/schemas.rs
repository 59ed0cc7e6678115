//! Makes the JSON Schemas of a service with `#[service(schema)]`: generated code names the types,
//! and this module asks schemars for their schemas.
//!
//! Without the cargo feature `schema`, every type is accepted and no schemas are made. The missing
//! feature is then the only compile error of a service with `#[service(schema)]`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use rpc_contract::{MethodDescription, ServiceDescription};

/// Refuses `#[service(schema)]`, because no schemas can be made.
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

/// Accepts `#[service(schema)]`.
#[cfg(feature = "schema")]
#[doc(hidden)]
#[macro_export]
macro_rules! __needs_feature_schema {
    () => {};
}

/// The generated function that adds the schemas of a service's types.
#[derive(Clone, Copy)]
pub(super) struct SchemaSource(pub(super) fn(&mut Schemas));

impl SchemaSource {
    /// Returns the description with its schemas.
    pub(super) fn add_to(self, description: ServiceDescription) -> ServiceDescription {
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

/// All are equal: addresses of functions do not tell whether the functions do the same.
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

/// A type with a JSON Schema.
#[cfg(feature = "schema")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no JSON Schema, and the service is `#[service(schema)]`",
    label = "`{Self}` is not `schemars::JsonSchema`",
    note = "derive or implement `schemars::JsonSchema`, of schemars 1; for a type parameter of the trait, add it to the bounds"
)]
pub trait Describable: schemars::JsonSchema {}

#[cfg(feature = "schema")]
#[diagnostic::do_not_recommend]
impl<T: schemars::JsonSchema + ?Sized> Describable for T {}

/// Any type: without the feature, types with a JSON Schema cannot be told apart from others.
#[cfg(not(feature = "schema"))]
pub trait Describable {}

#[cfg(not(feature = "schema"))]
impl<T: ?Sized> Describable for T {}

/// Adds the schemas to a description.
#[derive(Debug)]
pub struct Schemas {
    description: ServiceDescription,
    generator: Generator,
}

impl Schemas {
    /// Selects the method with this name on the wire, to add its schemas.
    pub fn method(&mut self, name: &str) -> MethodSchemas<'_> {
        let mut methods = self.description.methods.iter_mut();
        MethodSchemas {
            method: methods.find(|method| method.name == name),
            generator: &mut self.generator,
        }
    }
}

/// Adds the schemas of one method.
#[derive(Debug)]
pub struct MethodSchemas<'a> {
    /// `None` if the service has no such method. Then nothing is added.
    method: Option<&'a mut MethodDescription>,
    generator: &'a mut Generator,
}

impl MethodSchemas<'_> {
    /// Adds the schema of the argument with this name on the wire, which is read as `T`.
    pub fn argument<T: Describable + ?Sized>(&mut self, name: &str) {
        let schema = self.generator.schema::<T>();
        self.set_argument(name, schema);
    }

    /// Adds the schema of an argument that is bytes.
    pub fn bytes(&mut self, name: &str) {
        self.set_argument(name, Generator::bytes());
    }

    fn set_argument(&mut self, name: &str, schema: Option<serde_json::Value>) {
        let arguments = self.method.iter_mut().flat_map(|method| &mut method.arguments);
        for argument in arguments.filter(|argument| argument.name == name) {
            argument.schema.clone_from(&schema);
        }
    }

    /// Adds the schema of what the method returns if it succeeds, or of the items that it streams.
    pub fn result<T: Describable + 'static>(&mut self) {
        let schema = self.generator.result::<T>();
        if let Some(method) = &mut self.method {
            method.result_schema = schema;
        }
    }

    /// Adds the schema of the items that the method receives.
    pub fn incoming<T: Describable + 'static>(&mut self) {
        let schema = self.generator.result::<T>();
        if let Some(method) = &mut self.method {
            method.incoming_schema = schema;
        }
    }

    /// Adds the schema of the method's error.
    pub fn error<T: Describable>(&mut self) {
        let schema = self.generator.schema::<T>();
        if let Some(method) = &mut self.method {
            method.error_schema = schema;
        }
    }
}

/// Adds the schema of an argument whose type is written as `Vec<u8>` or `Cow<[u8]>`, but may be a
/// user's type of that name.
///
/// Generated code calls `<SchemaOf<Vec<u8>>>::argument` with [`SchemaOfOther`] in scope. For the
/// types of the standard library, the call means an inherent function below, which adds the schema
/// of bytes. For a user's type, it means the trait's function.
#[derive(Debug)]
pub struct SchemaOf<T>(PhantomData<T>);

impl SchemaOf<Vec<u8>> {
    /// Adds the schema of an argument that is bytes.
    pub fn argument(method: &mut MethodSchemas<'_>, name: &str) {
        method.bytes(name);
    }
}

impl SchemaOf<Cow<'_, [u8]>> {
    /// Adds the schema of an argument that is bytes.
    pub fn argument(method: &mut MethodSchemas<'_>, name: &str) {
        method.bytes(name);
    }
}

/// Adds the schema of an argument whose type only has the same name as a type of bytes.
pub trait SchemaOfOther {
    /// Adds the schema of an argument that is read as `T`.
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
            // All tools understand draft 7, and AsyncAPI requires it.
            Self(SchemaSettings::draft07().into_generator())
        }

        /// Returns the schema of a type. Types that it refers to become
        /// [`definitions`](Self::definitions). Never `None`, which the generator without the
        /// feature returns.
        pub(super) fn schema<T: JsonSchema + ?Sized>(&mut self) -> Option<Value> {
            let mut schema: Schema = self.0.subschema_for::<T>();
            // The generator itself transforms root schemas and definitions only.
            for transform in self.0.transforms_mut() {
                transform.transform(&mut schema);
            }
            Some(schema.to_value())
        }

        /// Returns the schema of a result or an item. It is that of bytes for the two types that
        /// the codecs write as bytes.
        pub(super) fn result<T: JsonSchema + 'static>(&mut self) -> Option<Value> {
            let types_of_bytes = [TypeId::of::<Vec<u8>>(), TypeId::of::<Cow<'static, [u8]>>()];
            if types_of_bytes.contains(&TypeId::of::<T>()) {
                return Self::bytes();
            }
            self.schema::<T>()
        }

        /// Returns the schema of bytes, which are a list of numbers in JSON. MessagePack
        /// distinguishes bytes from a list of numbers, as the `format` does.
        pub(super) fn bytes() -> Option<Value> {
            Some(json!({
                "description": "Bytes: `bin` in MessagePack, numbers in JSON.",
                "type": "array",
                "format": "bytes",
                "items": {"type": "integer", "format": "uint8", "minimum": 0, "maximum": 255},
            }))
        }

        pub(super) fn definitions(mut self) -> impl Iterator<Item = (String, Value)> {
            let apply_transforms = true;
            self.0.take_definitions(apply_transforms).into_iter()
        }
    }
}

#[cfg(not(feature = "schema"))]
use without_feature::Generator;

#[cfg(not(feature = "schema"))]
#[allow(clippy::extra_unused_type_parameters)] // the functions with the feature use them
mod without_feature {
    use serde_json::Value;

    /// Stands in for the generator with the feature. Makes no schemas.
    #[derive(Debug)]
    pub(super) struct Generator;

    impl Generator {
        pub(super) fn new() -> Self {
            Self
        }

        pub(super) fn schema<T: ?Sized>(&mut self) -> Option<Value> {
            None
        }

        pub(super) fn result<T>(&mut self) -> Option<Value> {
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
