//! The names in a module.

use super::super::model::{Content, Field, Method, Service, Shape, TypeId};
use crate::names::{Scope, pascal, screaming, snake};

/// Python's keywords.
const WORDS: &str = "\
    False None True and as assert async await break class continue def del elif else except finally \
    for from global if import in is lambda nonlocal not or pass raise return try while with yield";

/// Builtin types and imports in lower case. A method or field with such a name would hide them in
/// the annotations and decorators of its class.
const USED_IN_CLASSES: &str = "abc bool bytes dict enum float int list rpc_runtime str tuple wire";

/// What the module imports and a class could be named. The other imports are in lower case.
const IMPORTED: &str = "\
    Annotated Any Argument AsyncIterator Char F32 I128 I16 I32 I64 I8 Method Retry TypeAlias U128 U16 \
    U32 U64 U8 UNSET Unset";

/// Python's builtins that begin with a capital letter.
const BUILTIN: &str = "\
    ArithmeticError AssertionError AttributeError BaseException BaseExceptionGroup BlockingIOError \
    BrokenPipeError BufferError BytesWarning ChildProcessError ConnectionAbortedError \
    ConnectionError ConnectionRefusedError ConnectionResetError DeprecationWarning EOFError \
    Ellipsis EncodingWarning EnvironmentError Exception ExceptionGroup FileExistsError \
    FileNotFoundError FloatingPointError FutureWarning GeneratorExit IOError ImportError \
    ImportWarning IndentationError IndexError InterruptedError IsADirectoryError KeyError \
    KeyboardInterrupt LookupError MemoryError ModuleNotFoundError NameError NotADirectoryError \
    NotImplemented NotImplementedError OSError OverflowError PendingDeprecationWarning \
    PermissionError ProcessLookupError PythonFinalizationError RecursionError ReferenceError \
    ResourceWarning RuntimeError RuntimeWarning StopAsyncIteration StopIteration SyntaxError \
    SyntaxWarning SystemError SystemExit TabError TimeoutError TypeError UnboundLocalError \
    UnicodeDecodeError UnicodeEncodeError UnicodeError UnicodeTranslateError UnicodeWarning \
    UserWarning ValueError Warning ZeroDivisionError";

/// Names of the members that clients inherit.
const OF_BASES: &str = "queue with_options";

/// Names of the members that exceptions inherit.
const OF_EXCEPTIONS: &str = "add_note args executed retryable with_traceback";

/// The names in a module. They are in the order of the [`Service`]'s types, methods and arguments.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) client: String,
    pub(super) worker: String,
    pub(super) types: Vec<String>,
    /// For each type, the classes of its variants or alternatives. A name is empty if the
    /// alternative has no class, and a list is empty if the type has no variants or becomes an
    /// `enum.StrEnum`.
    pub(super) variants: Vec<Vec<String>>,
    pub(super) methods: Vec<MethodNames>,
    /// For each type, whether its class or classes are exceptions.
    pub(super) is_error: Vec<bool>,
}

#[derive(Debug)]
pub(super) struct MethodNames {
    pub(super) function: String,
    pub(super) constant: String,
    pub(super) arguments: Vec<String>,
    /// The parameter for the items that the method receives, if it does.
    pub(super) items: String,
    /// The exception that holds its error, if the type of the error is not an exception itself.
    pub(super) failure: Option<String>,
}

impl Names {
    pub(super) fn new(service: &Service) -> Self {
        let mut classes = Scope::new(&[WORDS, IMPORTED, BUILTIN]);
        let base = pascal(&service.name, "Service");
        let client = classes.add(format!("{base}Client"));
        let worker = classes.add(format!("{base}Worker"));
        let types = service.types.named().iter();
        let types: Vec<_> = types
            .map(|named| classes.add(pascal(&named.name, "Type")))
            .collect();
        let is_error = service.types.only_errors(&service.methods);
        let variants = service.types.ids().map(|id| {
            let names = variant_names(service, id, &types[id.0], is_error[id.0]);
            names
                .into_iter()
                .map(|name| if name.is_empty() { name } else { classes.add(name) })
                .collect()
        });
        let variants = variants.collect();
        let mut functions = Scope::new(&[WORDS, USED_IN_CLASSES, OF_BASES]);
        let mut constants = Scope::new(&["_SERVICE"]);
        let methods = service.methods.iter().map(|method| {
            let failure = method
                .needs_class_for_error(&is_error)
                .then(|| classes.add(format!("{}Failed", pascal(&method.name, "Method"))));
            MethodNames::new(method, &mut functions, &mut constants, failure)
        });
        let methods = methods.collect();
        Self {
            client,
            worker,
            types,
            variants,
            methods,
            is_error,
        }
    }

    pub(super) fn ty(&self, id: TypeId) -> &str {
        &self.types[id.0]
    }
}

impl MethodNames {
    fn new(method: &Method, functions: &mut Scope, constants: &mut Scope, failure: Option<String>) -> Self {
        let mut parameters = Scope::new(&[WORDS, "self"]);
        let arguments = method.arguments.iter();
        let arguments = arguments.map(|argument| parameters.add(snake(&argument.name, "argument")));
        Self {
            arguments: arguments.collect(),
            items: parameters.add("items".to_owned()),
            function: functions.add(snake(&method.name, "method")),
            constant: constants.add(format!("_{}", screaming(&method.name, "METHOD"))),
            failure,
        }
    }
}

/// Returns the names for [`Names::variants`] of a type whose class or alias is `name`. They are not
/// yet unique.
fn variant_names(service: &Service, id: TypeId, name: &str, is_error: bool) -> Vec<String> {
    let class = |variant: &str| format!("{name}{}", pascal(variant, "Variant"));
    match &service.types.get(id).shape {
        Shape::Enum(_, variants) => variants.iter().map(|variant| class(&variant.name)).collect(),
        Shape::Units(units) if is_error => units.iter().map(|unit| class(&unit.name)).collect(),
        Shape::Untagged(alternatives) => {
            let alternatives = alternatives.iter();
            let names = alternatives.map(|alternative| match alternative.content {
                Content::Fields(_) => class(&alternative.name),
                Content::Unit | Content::Value(_) => String::new(),
            });
            names.collect()
        }
        Shape::Struct(_) | Shape::Alias(_) | Shape::Units(_) | Shape::Unknown => Vec::new(),
    }
}

/// Returns the names of fields in their class, which is an exception if `is_error`.
pub(super) fn fields(fields: &[Field], is_error: bool) -> Vec<String> {
    let mut scope = if is_error {
        Scope::new(&[WORDS, USED_IN_CLASSES, OF_EXCEPTIONS])
    } else {
        Scope::new(&[WORDS, USED_IN_CLASSES])
    };
    fields
        .iter()
        .map(|field| scope.add(snake(&field.name, "field")))
        .collect()
}

/// Returns the names of an `enum.StrEnum`'s members.
pub(super) fn members<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut scope = Scope::new(&[WORDS]);
    names.map(|name| scope.add(screaming(name, "EMPTY"))).collect()
}
