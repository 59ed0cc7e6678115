//! The names in a module.

use super::super::model::{Method, Service, TypeId};
use crate::names::{Scope, camel, pascal};

/// Words of the language, and values that a module must not hide.
const WORDS: &str = "\
    any arguments as async await bigint boolean break case catch class const constructor continue \
    debugger default delete do else enum eval export extends false finally for function globalThis \
    if implements import in instanceof interface let never new null number object package private \
    protected public return static string super switch symbol this throw true try typeof undefined \
    unknown var void while with yield";

/// What each module declares or imports under the same name.
const OF_MODULE: &str = "methods rpc t";

/// The parameters of functions that mention the constant of the service.
const BESIDE_SERVICE: &str = "connection options worker";

/// Global names of the language and of Node.js: classes, namespaces, types and numbers.
const BUILTIN: &str = "\
    AggregateError Array ArrayBuffer AsyncIterableIterator AsyncIterator Atomics BigInt \
    BigInt64Array BigUint64Array Boolean Buffer DataView Date Error EvalError FinalizationRegistry \
    Float32Array Float64Array Function Infinity Int16Array Int32Array Int8Array Intl Iterator JSON \
    Map Math NaN Number Object Promise Proxy RangeError Record ReferenceError Reflect RegExp Set \
    SharedArrayBuffer String Symbol SyntaxError TypeError URIError Uint16Array Uint32Array \
    Uint8Array Uint8ClampedArray WeakMap WeakRef WeakSet";

/// Names of members that objects or clients have already, and of methods that the language calls:
/// `JSON.stringify` calls `toJSON`, and `await` calls `then`.
const OF_BASES: &str = "hasOwnProperty then toJSON toString valueOf withOptions";

/// The names in a module. Lists are in the order of the [`Service`]'s types, methods and arguments.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) client: String,
    pub(super) worker: String,
    /// The function that joins a worker and the service.
    pub(super) implement: String,
    /// The constant of the service.
    pub(super) service: String,
    /// The types. That of an error is what its class holds, such as `RefusalValue`.
    pub(super) types: Vec<String>,
    /// For each type, the class of the error if it is one of `Types::only_errors`.
    pub(super) errors: Vec<Option<String>>,
    pub(super) methods: Vec<MethodNames>,
}

#[derive(Debug)]
pub(super) struct MethodNames {
    pub(super) function: String,
    pub(super) arguments: Vec<String>,
    /// The parameter for the items that the method receives.
    pub(super) items: String,
    /// The class that holds its error, if the type of the error has no class of its own.
    pub(super) failure: Option<String>,
}

impl Names {
    pub(super) fn new(service: &Service) -> Self {
        let mut names = Scope::new(&[WORDS, OF_MODULE, BESIDE_SERVICE, BUILTIN]);
        let base = pascal(&service.name, "Service");
        let client = names.add(format!("{base}Client"));
        let worker = names.add(format!("{base}Worker"));
        let implement = names.add(format!("implement{base}"));
        let constant = names.add(camel(&service.name, "service"));
        let is_error = service.types.only_errors(&service.methods);
        let (mut types, mut errors) = (Vec::new(), Vec::new());
        for (named, &is_error) in service.types.named().iter().zip(&is_error) {
            let name = pascal(&named.name, "Type");
            errors.push(is_error.then(|| names.add(name.clone())));
            types.push(names.add(if is_error { format!("{name}Value") } else { name }));
        }
        let mut functions = Scope::new(&[WORDS, OF_BASES]);
        let methods = service.methods.iter().map(|method| {
            let failure = method
                .needs_class_for_error(&is_error)
                .then(|| names.add(format!("{}Failed", pascal(&method.name, "Method"))));
            MethodNames::new(method, &mut functions, failure)
        });
        let methods = methods.collect();
        Self {
            client,
            worker,
            implement,
            service: constant,
            types,
            errors,
            methods,
        }
    }

    pub(super) fn ty(&self, id: TypeId) -> &str {
        &self.types[id.0]
    }
}

impl MethodNames {
    fn new(method: &Method, functions: &mut Scope, failure: Option<String>) -> Self {
        let mut parameters = Scope::new(&[WORDS, OF_MODULE, "context options"]);
        let arguments = method.arguments.iter();
        let arguments = arguments.map(|argument| parameters.add(camel(&argument.name, "argument")));
        Self {
            arguments: arguments.collect(),
            items: parameters.add("items".to_owned()),
            function: functions.add(camel(&method.name, "method")),
            failure,
        }
    }
}
