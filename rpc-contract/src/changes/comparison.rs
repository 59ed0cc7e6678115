//! Compares services and their methods. Arguments, answers and types have modules of their own.

use std::collections::{BTreeMap, BTreeSet};

use super::change::{Change, Changes, Place, Verdict};
use super::normalize::normalized;
use super::types::TypeComparer;
use super::{answers, arguments, text};
use crate::{ArgumentDescription, MethodDescription, ServiceDescription};

/// Returns the changes from the old description of a service to the new one: those of the service
/// and its default method, those of its old methods in their order, and the methods that are new.
///
/// There are no changes between a description and itself. Documentation and retries do not count.
/// Descriptions may come from anywhere: if types are too large to compare, a change says so. An
/// empty list does not mean that everything was compared: see [`Comparison`].
#[must_use]
pub fn compare(old: &ServiceDescription, new: &ServiceDescription) -> Vec<Change> {
    Comparison::new(old, new).changes
}

/// The changes, and the methods whose types could only be compared by name.
///
/// ```
/// use rpc_contract::changes::Comparison;
/// use rpc_contract::{MethodDescription, ServiceDescription};
///
/// let mut users = ServiceDescription::new("Users", "users");
/// for (name, returns) in [("get", "User"), ("count", "u64")] {
///     let mut method = MethodDescription::new(name);
///     method.returns = returns.to_owned();
///     users.methods.push(method);
/// }
///
/// // The name `User` does not tell whether its fields are the same in both versions.
/// let compared = Comparison::new(&users, &users);
/// assert!(compared.changes.is_empty());
/// assert_eq!(compared.by_name, ["get"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// The changes: see [`compare`].
    pub changes: Vec<Change>,
    /// The methods with types that were taken to fit because their names do, as `User` fits `&User`
    /// and a reader of `Option<User>`.
    ///
    /// At least one of the descriptions has no schema of such a type, so changes within it are not
    /// seen. The common types of the standard library, such as `Vec<u64>`, are the same everywhere
    /// and do not count.
    pub by_name: Vec<String>,
}

impl Comparison {
    /// Compares the old description of a service with the new one.
    #[must_use]
    pub fn new(old: &ServiceDescription, new: &ServiceDescription) -> Self {
        Self::of_normalized(&normalized(old), &normalized(new))
    }

    fn of_normalized(old: &ServiceDescription, new: &ServiceDescription) -> Self {
        let mut changes = Changes::default();
        let mut types = TypeComparer::new(old, new);
        let mut compared_by_name = Vec::new();
        compare_services(old, new, &mut changes);
        let (old_methods, new_methods) = (methods_by_name(old), methods_by_name(new));
        for old_method in distinct_methods(old) {
            match new_methods.get(old_method.name.as_str()) {
                Some(new_method) => {
                    compare_methods(old_method, new_method, &mut types, &mut changes);
                    if types.take_compared_by_name() {
                        compared_by_name.push(old_method.name.clone());
                    }
                }
                None => add_removed_method(old_method, new, &old_methods, &mut changes),
            }
        }
        let added = distinct_methods(new).filter(|method| !old_methods.contains_key(method.name.as_str()));
        for method in added {
            changes.add(
                Verdict::BreaksWorkers,
                Place::Method(method.name.clone()),
                "it is new, and old workers answer `unknown_method`; update them before it is called",
            );
        }
        Self {
            changes: changes.into_vec(),
            by_name: compared_by_name,
        }
    }
}

type MethodsByName<'a> = BTreeMap<&'a str, &'a MethodDescription>;

fn methods_by_name(service: &ServiceDescription) -> MethodsByName<'_> {
    let methods = distinct_methods(service);
    methods.map(|method| (method.name.as_str(), method)).collect()
}

/// Returns the first method of each name, in the order of the description. A description that no
/// trait made may have several.
fn distinct_methods(service: &ServiceDescription) -> impl Iterator<Item = &MethodDescription> {
    let mut names = BTreeSet::new();
    let methods = service.methods.iter();
    methods.filter(move |method| names.insert(method.name.as_str()))
}

/// Compares the names, the queues and the default methods.
fn compare_services(old: &ServiceDescription, new: &ServiceDescription, changes: &mut Changes) {
    if old.name != new.name {
        let message = format!(
            "it is called {} now; calls do not carry the service's name",
            new.name
        );
        changes.add(Verdict::Safe, Place::Service, message);
    }
    if old.queue != new.queue {
        let (from, to) = (&old.queue, &new.queue);
        let advice = format!(
            "serve both with `Server::serve_on` until everybody is updated, or keep `queue = \"{from}\"`"
        );
        let message =
            format!("old callers send to the queue {from:?}, which new workers do not consume; {advice}");
        changes.add(Verdict::BreaksCallers, Place::Service, message);
        let message =
            format!("new callers send to the queue {to:?}, which old workers do not consume; {advice}");
        changes.add(Verdict::BreaksWorkers, Place::Service, message);
    }
    compare_defaults(old, new, changes);
}

/// Compares the methods that serve requests without a `type`.
fn compare_defaults(old: &ServiceDescription, new: &ServiceDescription, changes: &mut Changes) {
    let default = |service: &ServiceDescription| service.default_method().map(|method| method.name.clone());
    match (default(old), default(new)) {
        (Some(before), None) => changes.add(
            Verdict::MayBreakCallers,
            Place::Method(before),
            "it is no longer the default method: callers that name no method, such as clients from RabbitMQ's tutorial, get `unknown_method`",
        ),
        (Some(before), Some(now)) if before != now => {
            let message = format!(
                "it was the default method, which is {now} now: callers that name no method, such as clients from RabbitMQ's tutorial, call {now} instead"
            );
            changes.add(Verdict::MayBreakCallers, Place::Method(before.clone()), message);
            let message = format!(
                "it is the default method now: callers that name no method still call {before} on old workers"
            );
            changes.add(Verdict::MayBreakWorkers, Place::Method(now), message);
        }
        (None, Some(now)) => changes.add(
            Verdict::MayBreakWorkers,
            Place::Method(now),
            "it is the default method now: old workers have none, and answer `unknown_method` to callers that name no method",
        ),
        _ => {}
    }
}

/// Adds the change for a method that is gone. If exactly one added method has the same arguments
/// and returns the same type, the advice is for a method that was renamed.
fn add_removed_method(
    method: &MethodDescription,
    new: &ServiceDescription,
    old_methods: &MethodsByName<'_>,
    changes: &mut Changes,
) {
    let mut alike = new.methods.iter().filter(|other| {
        !old_methods.contains_key(other.name.as_str())
            && other.arguments == method.arguments
            && other.returns == method.returns
    });
    let name = &method.name;
    let advice = match (alike.next(), alike.next()) {
        (Some(other), None) => format!(
            "if it is now called {}, keep its name on the wire with `#[rpc(name = {name:?})]`",
            other.name
        ),
        _ => "keep it until nobody calls it".to_owned(),
    };
    let message = format!("it is gone, and new workers answer `unknown_method`; {advice}");
    changes.add(Verdict::BreaksCallers, Place::Method(name.clone()), message);
}

fn compare_methods(
    old: &MethodDescription,
    new: &MethodDescription,
    types: &mut TypeComparer<'_>,
    changes: &mut Changes,
) {
    compare_idempotency(old, new, changes);
    compare_cancellation(old, new, changes);
    compare_kinds(old, new, changes);
    compare_resumption(old, new, changes);
    compare_oneway(old, new, changes);
    compare_timeouts(old, new, changes);
    arguments::compare(old, new, types, changes);
    text::compare(old, new, types.definitions(), changes);
    arguments::compare_incoming(old, new, types, changes);
    answers::compare(old, new, types, changes);
}

fn compare_idempotency(old: &MethodDescription, new: &MethodDescription, changes: &mut Changes) {
    let place = Place::Method(old.name.clone());
    match (old.is_idempotent, new.is_idempotent) {
        (true, false) => changes.add(
            Verdict::BreaksCallers,
            place,
            "it is no longer `idempotent`: old callers still repeat it after a lost connection, and it may run twice; update all callers first",
        ),
        (false, true) => changes.add(
            Verdict::BreaksWorkers,
            place,
            "it is `idempotent` now: new callers repeat it after a lost connection, and old workers may run it twice; update all workers first",
        ),
        _ => {}
    }
}

fn compare_cancellation(old: &MethodDescription, new: &MethodDescription, changes: &mut Changes) {
    let has_changed = can_be_cancelled(old) != can_be_cancelled(new);
    // If the option is the same, another change is the cause, which is reported for itself.
    if has_changed && old.is_cancellable != new.is_cancellable {
        let now = if new.is_cancellable {
            "new workers stop it once its caller no longer waits"
        } else {
            "new workers no longer stop it when its caller stops waiting"
        };
        changes.add(Verdict::Safe, Place::Method(old.name.clone()), now);
    }
}

/// Whether workers stop the method once its caller no longer waits: also without the option
/// `cancel` if it is idempotent or has a stream, but never if it is one-way or a broadcast.
fn can_be_cancelled(method: &MethodDescription) -> bool {
    let is_stopped =
        method.is_cancellable || method.is_idempotent || method.is_streaming || method.incoming.is_some();
    is_stopped && !method.is_oneway && !method.is_broadcast
}

/// Compares whether a method is a broadcast, and whether it returns or receives a stream. Peers of
/// different versions cannot call each other if this changes.
fn compare_kinds(old: &MethodDescription, new: &MethodDescription, changes: &mut Changes) {
    let mut add_to_both = |now: &str, for_old_callers: &str, for_old_workers: &str| {
        for (verdict, consequence) in [
            (Verdict::BreaksCallers, for_old_callers),
            (Verdict::BreaksWorkers, for_old_workers),
        ] {
            let message = format!("{now}: {consequence}; give it another name instead");
            changes.add(verdict, Place::Method(old.name.clone()), message);
        }
    };
    if old.is_broadcast != new.is_broadcast {
        add_to_both(
            if new.is_broadcast {
                "it is a broadcast now"
            } else {
                "it is no longer a broadcast"
            },
            "new workers refuse the requests of old callers",
            "old workers refuse the requests of new callers",
        );
    }
    if old.is_streaming != new.is_streaming {
        add_to_both(
            if new.is_streaming {
                "it returns a stream now"
            } else {
                "it no longer returns a stream"
            },
            "old callers cannot read the replies of new workers",
            "new callers cannot read the replies of old workers",
        );
    }
    if old.incoming.is_some() != new.incoming.is_some() {
        add_to_both(
            if new.incoming.is_some() {
                "it receives a stream now"
            } else {
                "it no longer receives a stream"
            },
            "new workers and old callers do not agree on who sends what",
            "old workers and new callers do not agree on who sends what",
        );
    }
}

/// Compares the arguments with which callers resume a stream. Old callers resume one with the
/// argument of the old version, also at new workers, and new callers with that of the new version.
fn compare_resumption(old: &MethodDescription, new: &MethodDescription, changes: &mut Changes) {
    if old.resumed_by == new.resumed_by {
        return;
    }
    let place = || Place::Method(old.name.clone());
    let is_resumed_by = |method: &MethodDescription, argument: &ArgumentDescription| {
        method.resumed_by.as_ref() == Some(&argument.name)
    };
    if let Some(before) = old.resumed_by.as_deref() {
        match arguments::find_accepting(new, before) {
            Some(argument) if is_resumed_by(new, argument) => {}
            Some(_) => changes.add(
                Verdict::MayBreakCallers,
                place(),
                format!("old callers resume its stream with {before}: it has to have the same effect"),
            ),
            None => changes.add(
                Verdict::BreaksCallers,
                place(),
                format!(
                    "old callers resume its stream with {before}, which new workers do not read: they begin it anew; keep that argument"
                ),
            ),
        }
    }
    if let Some(now) = new.resumed_by.as_deref() {
        let argument = arguments::find_accepting(old, now);
        if !argument.is_some_and(|argument| is_resumed_by(old, argument)) {
            let message = format!(
                "callers resume its stream with {now}, which old workers do not heed: they begin it anew; update them before callers"
            );
            changes.add(Verdict::BreaksWorkers, place(), message);
        }
    }
}

fn compare_oneway(old: &MethodDescription, new: &MethodDescription, changes: &mut Changes) {
    let place = Place::Method(old.name.clone());
    match (old.is_oneway, new.is_oneway) {
        (false, true) => changes.add(
            Verdict::Safe,
            place,
            "it is one-way now: old callers get an empty answer, and new callers do not wait for the answer of old workers",
        ),
        (true, false) => changes.add(
            Verdict::Safe,
            place,
            "it is answered now: old callers do not wait for the answer, and new callers get an empty one from old workers",
        ),
        _ => {}
    }
}

fn compare_timeouts(old: &MethodDescription, new: &MethodDescription, changes: &mut Changes) {
    if old.timeout_ms == new.timeout_ms {
        return;
    }
    let shown = |timeout: Option<u64>| {
        timeout.map_or("as long as the client says".to_owned(), |ms| format!("{ms} ms"))
    };
    let (before, now) = (shown(old.timeout_ms), shown(new.timeout_ms));
    let message = format!("new callers wait {now}, old ones {before}");
    changes.add(Verdict::Safe, Place::Method(old.name.clone()), message);
}
