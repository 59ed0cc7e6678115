//! Reads types as Rust spells them, if they have no schemas.

use super::super::model::{Field, Int, Key, Shape, Type};
use super::named::Reader;
use super::rust_type::{RustType, is_map, is_transparent};

impl Reader<'_> {
    /// Reads the type of an argument, a result, an error or an item. Only there, a list of `u8` is
    /// bytes.
    pub(super) fn outermost(&mut self, rust: &RustType) -> Type {
        if is_bytes(rust) {
            Type::Bytes
        } else {
            self.nested(rust)
        }
    }

    /// Reads a type like one that is within another: a list of `u8` is a list.
    fn nested(&mut self, rust: &RustType) -> Type {
        match rust {
            RustType::Tuple(types) if types.is_empty() => Type::Unit,
            RustType::Tuple(types) => Type::Tuple(types.iter().map(|ty| self.nested(ty)).collect()),
            RustType::Slice(item) | RustType::Array(item) => self.nested(item).list(),
            RustType::Path(name, parameters) => self.path(name, parameters, rust),
        }
    }

    /// Reads a type with a name, and maybe parameters. `rust` is the whole type.
    fn path(&mut self, name: &str, parameters: &[RustType], rust: &RustType) -> Type {
        if parameters.is_empty()
            && let Some(scalar) = scalar(name)
        {
            return scalar;
        }
        match parameters {
            [inner] if is_transparent(name) => self.nested(inner),
            [inner] if name == "Option" => self.nested(inner).option(),
            [inner, ..] if is_list(name) => self.nested(inner).list(),
            [_] if name == "DateTime" => Type::Text,
            [_] if name == "PhantomData" => Type::Unit,
            [key_type, value, ..] if is_map(name) => {
                // Any other key is text in JSON.
                let key = key(key_type).unwrap_or(Key::Text);
                Type::Map(Box::new(key), Box::new(self.nested(value)))
            }
            [] if name == "Duration" => self.std_time(name, ["secs", "nanos"]),
            [] if name == "SystemTime" => self.std_time(name, ["secs_since_epoch", "nanos_since_epoch"]),
            [] => {
                let definition = self.unambiguous_definition(name);
                let known = definition.and_then(|_| self.definition(name));
                let id = known.or_else(|| self.unknown(rust));
                id.map_or(Type::Any, Type::Named)
            }
            _ => self.unknown(rust).map_or(Type::Any, Type::Named),
        }
    }

    /// Returns the struct as which serde writes `Duration` or `SystemTime`, with the names of its
    /// fields.
    fn std_time(&mut self, name: &str, [seconds, nanoseconds]: [&str; 2]) -> Type {
        let field = |name: &str, bits| Field {
            name: name.to_owned(),
            docs: String::new(),
            ty: Type::Int(Int {
                bits,
                is_signed: false,
            }),
            is_required: true,
        };
        let make = || {
            let fields = vec![field(seconds, 64), field(nanoseconds, 32)];
            (Shape::Struct(fields), format!("`std::time::{name}`, in Rust."))
        };
        self.get_or_add(name, make).map_or(Type::Any, Type::Named)
    }
}

/// Whether the codecs write this type as bytes at the outermost level: some lists of `u8`.
fn is_bytes(rust: &RustType) -> bool {
    match rust {
        RustType::Slice(item) => item.is_u8(),
        RustType::Path(name, parameters) => match parameters.as_slice() {
            [inner] if name == "Vec" => inner.is_u8(),
            [RustType::Slice(item)] if name == "Cow" => item.is_u8(),
            _ => false,
        },
        RustType::Tuple(_) | RustType::Array(_) => false,
    }
}

/// Returns the type of a map's keys, or `None` if it is not text, booleans or integers.
pub(super) fn key(rust: &RustType) -> Option<Key> {
    let (name, parameters) = rust.path()?;
    match (parameters, scalar(name)) {
        ([inner], _) if is_transparent(name) => key(inner),
        ([], Some(Type::Char | Type::Text)) => Some(Key::Text),
        ([], Some(Type::Bool)) => Some(Key::Bool),
        ([], Some(Type::Int(int))) => Some(Key::Int(int)),
        _ => None,
    }
}

/// Whether the codecs write a type with this name as a list of its first parameter.
fn is_list(name: &str) -> bool {
    let names = [
        "BTreeSet",
        "BinaryHeap",
        "HashSet",
        "IndexSet",
        "LinkedList",
        "Vec",
        "VecDeque",
    ];
    names.contains(&name)
}

/// Returns the type that a name without parameters is taken for, even if it is a user's type with
/// the name of a well-known one. `None` for any other name.
fn scalar(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "f32" => Type::F32,
        "f64" => Type::F64,
        "char" => Type::Char,
        "str" | "String" => Type::Text,
        // Their text form: the codecs are human-readable to serde.
        "IpAddr" | "Ipv4Addr" | "Ipv6Addr" | "SocketAddr" | "SocketAddrV4" | "SocketAddrV6" => Type::Text,
        "Uuid" | "Path" | "PathBuf" | "Url" | "NaiveDate" | "NaiveDateTime" | "NaiveTime" => Type::Text,
        "ByteBuf" | "Bytes" | "BytesMut" => Type::Bytes,
        "Value" => Type::Any,
        name => return integer(name).map(Type::Int),
    })
}

fn integer(name: &str) -> Option<Int> {
    let name = match name.strip_prefix("NonZero") {
        // Such as `NonZeroU8`.
        Some(name) => name.to_ascii_lowercase(),
        None => name.to_owned(),
    };
    let is_signed = name.starts_with('i');
    let bits = match name.strip_prefix(['i', 'u'])? {
        "8" => 8,
        "16" => 16,
        "32" => 32,
        "64" | "size" => 64,
        "128" => 128,
        _ => return None,
    };
    Some(Int { bits, is_signed })
}

#[cfg(test)]
mod tests {
    use super::super::super::model::Types;
    use super::*;
    use crate::ServiceDescription;

    fn read(rust: &str) -> (Type, Types) {
        let description = ServiceDescription::default();
        let mut reader = Reader::new(&description);
        let ty = reader.outermost(&RustType::parse(rust).unwrap());
        (ty, reader.finish())
    }

    #[test]
    fn types_of_the_standard_library_are_known() {
        let int = |bits, is_signed| Type::Int(Int { bits, is_signed });
        let map = |key, value| Type::Map(Box::new(key), Box::new(value));
        for (rust, expected) in [
            ("bool", Type::Bool),
            ("usize", int(64, false)),
            ("i128", int(128, true)),
            ("NonZeroU8", int(8, false)),
            ("NonZeroUsize", int(64, false)),
            ("&str", Type::Text),
            ("Cow<'_, str>", Type::Text),
            ("Box<f32>", Type::F32),
            ("()", Type::Unit),
            ("Option<Option<()>>", Type::Unit),
            ("Option<Option<f64>>", Type::F64.option()),
            ("&[u16]", int(16, false).list()),
            ("[char; 3]", Type::Char.list()),
            ("HashMap<char, bool>", map(Key::Text, Type::Bool)),
            ("HashSet<Uuid>", Type::Text.list()),
            (
                "(u8, DateTime<Utc>)",
                Type::Tuple(vec![int(8, false), Type::Text]),
            ),
            ("HashMap<String, serde_json::Value>", map(Key::Text, Type::Any)),
            (
                "BTreeMap<i8, bool>",
                map(
                    Key::Int(Int {
                        bits: 8,
                        is_signed: true,
                    }),
                    Type::Bool,
                ),
            ),
            ("HashMap<bool, Vec<u8>>", map(Key::Bool, int(8, false).list())),
            ("HashMap<Color, u8>", map(Key::Text, int(8, false))),
        ] {
            let (ty, types) = read(rust);
            assert_eq!(ty, expected, "{rust}");
            assert!(types.named().is_empty(), "{rust}");
        }
    }

    #[test]
    fn a_type_whose_name_differs_only_in_case_is_another_one() {
        for rust in ["U64", "I32", "Bool", "USize"] {
            assert!(matches!(read(rust).0, Type::Named(_)), "{rust}");
        }
    }

    #[test]
    fn lists_of_bytes_are_bytes_at_the_outermost_level_only() {
        for rust in ["Vec<u8>", "&[u8]", "Cow<'static, [u8]>", "bytes::Bytes"] {
            assert_eq!(read(rust).0, Type::Bytes, "{rust}");
        }
        assert_eq!(read("Option<Bytes>").0, Type::Bytes.option());
        let numbers = Type::Int(Int {
            bits: 8,
            is_signed: false,
        })
        .list();
        for rust in ["Box<[u8]>", "[u8; 4]", "Cow<'_, Vec<u8>>", "VecDeque<u8>"] {
            assert_eq!(read(rust).0, numbers, "{rust}");
        }
        assert_eq!(read("Option<Vec<u8>>").0, numbers.option());
    }

    #[test]
    fn other_types_are_known_by_their_names_only() {
        let (ty, types) = read("(Page<User>, model::User, Page<User>, User)");
        let named = |index| Type::Named(super::super::super::model::TypeId(index));
        assert_eq!(ty, Type::Tuple(vec![named(0), named(1), named(0), named(1)]));
        assert_eq!(
            (types.named()[0].name.as_str(), types.named()[1].name.as_str()),
            ("PageUser", "User")
        );
        assert!(
            types
                .named()
                .iter()
                .all(|named| matches!(named.shape, Shape::Unknown))
        );
        let (_, types) = read("Duration");
        assert!(matches!(&types.named()[0].shape, Shape::Struct(fields) if fields.len() == 2));
    }
}
