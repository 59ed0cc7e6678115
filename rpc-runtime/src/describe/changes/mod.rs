//! What happens to callers and workers of two versions of a service that meet.
//!
//! While a service is updated, old callers call new workers and new callers call old workers. [`compare`] lists what has changed from one
//! description to the other, and what that does to those who are not updated yet:
//!
//! ```
//! use rpc_runtime::describe::changes::{Rollout, Verdict, compare};
//! use rpc_runtime::{ServiceClient, service};
//!
//! mod old {
//!     #[rpc_runtime::service]
//!     pub trait Search {
//!         async fn find(&self, text: &str) -> Vec<String>;
//!     }
//! }
//! mod new {
//!     #[rpc_runtime::service]
//!     pub trait Search {
//!         async fn find(&self, text: &str, limit: u32) -> Vec<String>;
//!     }
//! }
//!
//! let old = old::SearchClient::SERVICE.description();
//! let new = new::SearchClient::SERVICE.description();
//! let changes = compare(&old, &new);
//! assert_eq!(changes[0].verdict, Verdict::BreaksCallers);
//! assert_eq!(
//!     changes[0].to_string(),
//!     "breaks old callers: find(limit): old callers do not send it, and new workers answer `bad_request`; give it `#[serde(default)]`, or \
//!      make it an `Option`",
//! );
//! assert_eq!(Rollout::of(&changes), Rollout::CallersFirst);
//! ```
//!
//! The rules are those of `docs/protocol.md`. Types are compared by their JSON Schemas, as `#[service(schema)]` makes them; without, there are
//! only their names, which do not tell what has changed within them: [`Comparison::by_name`] has the methods of which that is so. A schema does not tell everything either: not which numbers are keys of a
//! map, and not what a program does with a value.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use self::types::Types;
use super::{MethodDescription, ServiceDescription};
use crate::codec::{ARBITRARY_PRECISION, Codec};

mod arguments;
mod numbers;
mod schemas;
mod shapes;
#[cfg(test)]
mod tests;
mod types;

/// A difference between two versions of a service, and what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// Whom it breaks.
    pub verdict: Verdict,
    /// Where it is.
    pub place: Place,
    /// What happens, and what to do about it.
    pub message: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.verdict, self.place, self.message)
    }
}

/// Whom a change breaks, from the least to the worst.
///
/// What breaks fails for sure, be it at each call or where a certain value is sent. What may break cannot be told from the descriptions, or
/// concerns peers that do not use this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Nobody.
    Safe,
    /// Perhaps new callers that call old workers.
    MayBreakWorkers,
    /// Perhaps old callers that call new workers.
    MayBreakCallers,
    /// New callers that call old workers.
    BreaksWorkers,
    /// Old callers that call new workers.
    BreaksCallers,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safe => "safe",
            Self::MayBreakWorkers => "may break old workers",
            Self::MayBreakCallers => "may break old callers",
            Self::BreaksWorkers => "breaks old workers",
            Self::BreaksCallers => "breaks old callers",
        })
    }
}

/// Where a change is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// The service itself.
    Service,
    /// A method.
    Method(String),
    /// An argument of a method.
    Argument {
        /// The method.
        method: String,
        /// The argument.
        argument: String,
    },
    /// What a method returns where it succeeds.
    Result(String),
    /// The error of a method.
    Error(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service => f.write_str("the service"),
            Self::Method(method) => f.write_str(method),
            Self::Argument { method, argument } => write!(f, "{method}({argument})"),
            Self::Result(method) => write!(f, "the result of {method}"),
            Self::Error(method) => write!(f, "the error of {method}"),
        }
    }
}

/// In what order callers and workers can be updated, so that nothing breaks meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rollout {
    /// In any order.
    AnyOrder,
    /// All workers before the first caller: old callers understand new workers.
    WorkersFirst,
    /// All callers before the first worker: new callers understand old workers.
    CallersFirst,
    /// In no order: the change has to be made in several steps.
    InSteps,
}

impl Rollout {
    /// The order that suits all changes. What may break is taken to break.
    #[must_use]
    pub fn of(changes: &[Change]) -> Self {
        let is_any = |verdicts: [Verdict; 2]| changes.iter().any(|change| verdicts.contains(&change.verdict));
        let callers = is_any([Verdict::BreaksCallers, Verdict::MayBreakCallers]);
        let workers = is_any([Verdict::BreaksWorkers, Verdict::MayBreakWorkers]);
        match (callers, workers) {
            (false, false) => Self::AnyOrder,
            (false, true) => Self::WorkersFirst,
            (true, false) => Self::CallersFirst,
            (true, true) => Self::InSteps,
        }
    }
}

/// Who has not been updated yet, and meets others that have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Old {
    Callers,
    Workers,
}

impl Old {
    fn verdict(self, is_certain: bool) -> Verdict {
        match (self, is_certain) {
            (Self::Callers, true) => Verdict::BreaksCallers,
            (Self::Callers, false) => Verdict::MayBreakCallers,
            (Self::Workers, true) => Verdict::BreaksWorkers,
            (Self::Workers, false) => Verdict::MayBreakWorkers,
        }
    }
}

/// The changes from the old description of a service to the new one, in the order of the old one; of a service to itself, there are none.
///
/// Documentation does not count. Descriptions may come from anywhere: where they are too large to be compared, the changes say so. That there
/// are none does not mean that all was compared: see [`Comparison`].
#[must_use]
pub fn compare(old: &ServiceDescription, new: &ServiceDescription) -> Vec<Change> {
    Comparison::new(old, new).changes
}

/// What has changed, and how far that can be told.
///
/// ```
/// use rpc_runtime::describe::changes::Comparison;
/// # use rpc_runtime::{ServiceClient, service};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # pub struct User {}
///
/// #[service]
/// pub trait Users {
///     async fn get(&self, id: u64) -> User;
///     async fn count(&self) -> u64;
/// }
///
/// // Whether `User` has the same fields in both, its name does not tell.
/// let users = UsersClient::SERVICE.description();
/// let compared = Comparison::new(&users, &users);
/// assert!(compared.changes.is_empty());
/// assert_eq!(compared.by_name, ["get"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// The changes: see [`compare`].
    pub changes: Vec<Change>,
    /// The methods with types that were taken to be alike only because they have the same name, as a side has no schema of them. What has
    /// changed within such a type is not seen. Types of the standard library, such as `Vec<u64>`, do not count: their names tell all.
    pub by_name: Vec<String>,
}

impl Comparison {
    /// Compares the old description of a service with the new one.
    #[must_use]
    pub fn new(old: &ServiceDescription, new: &ServiceDescription) -> Self {
        // With the feature `arbitrary_precision` of `serde_json`, numbers that are written in two ways, such as 1.0 and
        // 1.00, are not equal.
        match ARBITRARY_PRECISION {
            true => Self::of_numbers_in_one_form(&in_one_form(old), &in_one_form(new)),
            false => Self::of_numbers_in_one_form(old, new),
        }
    }

    fn of_numbers_in_one_form(old: &ServiceDescription, new: &ServiceDescription) -> Self {
        let mut changes = Changes::default();
        let mut types = Types::new(old, new);
        let mut compared_by_name = Vec::new();
        compare_services(old, new, &mut changes);
        let (olds, news) = (by_name(old), by_name(new));
        for method in first_of_each_name(old) {
            match news.get(method.name.as_str()) {
                Some(new) => {
                    compare_methods(method, new, &mut types, &mut changes);
                    if types.take_by_name() {
                        compared_by_name.push(method.name.clone());
                    }
                }
                None => removed(method, new, &olds, &mut changes),
            }
        }
        for method in first_of_each_name(new).filter(|method| !olds.contains_key(method.name.as_str())) {
            changes.add(
                Verdict::BreaksWorkers,
                Place::Method(method.name.clone()),
                "it is new, and old workers answer `unknown_method`; update them before it is called",
            );
        }
        Self {
            changes: changes.0,
            by_name: compared_by_name,
        }
    }
}

/// The description, with its numbers as the codec reads them.
fn in_one_form(description: &ServiceDescription) -> Cow<'_, ServiceDescription> {
    let written = Codec::Json.encode(description).ok();
    let read = written.and_then(|written| Codec::Json.decode(&written).ok());
    read.map_or(Cow::Borrowed(description), Cow::Owned)
}

#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn add(&mut self, verdict: Verdict, place: Place, message: impl Into<String>) {
        self.0.push(Change {
            verdict,
            place,
            message: message.into(),
        });
    }
}

type Methods<'a> = BTreeMap<&'a str, &'a MethodDescription>;

/// The methods by their names. Two of one name are none that a trait has: the first counts.
fn by_name(service: &ServiceDescription) -> Methods<'_> {
    let methods = service.methods.iter().rev();
    methods.map(|method| (method.name.as_str(), method)).collect()
}

fn first_of_each_name(service: &ServiceDescription) -> impl Iterator<Item = &MethodDescription> {
    let first = by_name(service);
    let methods = service.methods.iter();
    methods.filter(move |&method| {
        first
            .get(method.name.as_str())
            .is_some_and(|first| std::ptr::eq(*first, method))
    })
}

fn compare_services(old: &ServiceDescription, new: &ServiceDescription, changes: &mut Changes) {
    if old.name != new.name {
        let message = format!("it is called {} now, which is not on the wire", new.name);
        changes.add(Verdict::Safe, Place::Service, message);
    }
    if old.queue != new.queue {
        let (from, to) = (&old.queue, &new.queue);
        let mend = format!(
            "serve both with `Server::serve_on` until everybody is updated, or keep `queue = \"{from}\"`"
        );
        let message =
            format!("old callers send to the queue {from:?}, which new workers do not consume; {mend}");
        changes.add(Verdict::BreaksCallers, Place::Service, message);
        let message =
            format!("new callers send to the queue {to:?}, which old workers do not consume; {mend}");
        changes.add(Verdict::BreaksWorkers, Place::Service, message);
    }
    let default = |service: &ServiceDescription| service.default_method().map(|method| method.name.clone());
    match (default(old), default(new)) {
        (old, new) if old == new => {}
        (Some(old), None) => changes.add(
            Verdict::MayBreakCallers,
            Place::Method(old),
            "it is no longer the default: callers that name no method, as a tutorial's do, get `unknown_method`",
        ),
        (Some(old), Some(new)) => {
            let message = format!("it was the default, which is {new} now: callers that name no method, as a tutorial's do, call another");
            changes.add(Verdict::MayBreakCallers, Place::Method(old.clone()), message);
            let message = format!("it is the default, which is {old} in old workers: callers that name no method call another");
            changes.add(Verdict::MayBreakWorkers, Place::Method(new), message);
        }
        (None, new) => changes.add(
            Verdict::MayBreakWorkers,
            new.map_or(Place::Service, Place::Method),
            "it is the default now: old workers have none, and answer `unknown_method` to callers that name no method",
        ),
    }
}

fn removed(method: &MethodDescription, new: &ServiceDescription, olds: &Methods<'_>, changes: &mut Changes) {
    let mut alike = new.methods.iter().filter(|other| {
        !olds.contains_key(other.name.as_str())
            && other.arguments == method.arguments
            && other.returns == method.returns
    });
    let name = &method.name;
    let mend = match (alike.next(), alike.next()) {
        (Some(other), None) => {
            format!(
                "if it is {} now, let that keep its name on the wire with `#[rpc(name = {name:?})]`",
                other.name
            )
        }
        _ => "keep it until nobody calls it".to_owned(),
    };
    let message = format!("it is gone, and new workers answer `unknown_method`; {mend}");
    changes.add(Verdict::BreaksCallers, Place::Method(name.clone()), message);
}

fn compare_methods(
    old: &MethodDescription,
    new: &MethodDescription,
    types: &mut Types<'_>,
    changes: &mut Changes,
) {
    let place = || Place::Method(old.name.clone());
    match (old.is_idempotent, new.is_idempotent) {
        (true, false) => changes.add(
            Verdict::BreaksCallers,
            place(),
            "it is no longer `idempotent`: old callers still repeat it after a lost connection, and it may run twice; update all callers first",
        ),
        (false, true) => changes.add(
            Verdict::BreaksWorkers,
            place(),
            "it is `idempotent` now: new callers repeat it after a lost connection, and old workers may run it twice; update all workers first",
        ),
        _ => {}
    }
    match (old.is_oneway, new.is_oneway) {
        (false, true) => changes.add(
            Verdict::Safe,
            place(),
            "it is one-way now: old callers get an empty answer, and new callers await none from old workers",
        ),
        (true, false) => changes.add(
            Verdict::Safe,
            place(),
            "it is answered now: old callers await no answer, and new callers get an empty one from old workers",
        ),
        _ => {}
    }
    if old.timeout_ms != new.timeout_ms {
        let shown = |timeout: Option<u64>| {
            timeout.map_or("the client's own time".to_owned(), |ms| format!("{ms} ms"))
        };
        let (before, now) = (shown(old.timeout_ms), shown(new.timeout_ms));
        let message = format!("new callers wait {now}, old ones {before}");
        changes.add(Verdict::Safe, place(), message);
    }
    arguments::compare(old, new, types, changes);
    types.compare_answers(old, new, changes);
}
