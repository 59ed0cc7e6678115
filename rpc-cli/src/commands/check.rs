//! `rpc check`.

use std::path::Path;

use clap::{Args, ValueEnum};
use rpc_contract::ServiceDescription;
use rpc_contract::changes::{Change, Comparison, Rollout, Verdict};
use serde_json::{Value, json};

use crate::connection::{close, connect};
use crate::description_file;
use crate::failure::{Failure, Outcome};
use crate::lookup::{self, Search};
use crate::options::Options;
use crate::output::Output;
use crate::text::join_lines;
use crate::units;

/// Reports what a new version of a service breaks.
///
/// While a service is updated, old callers call new workers, and new callers call old workers. Each
/// change is listed with whom it breaks. The exit code is 1 if a change breaks callers or workers;
/// see also --order and --strict. Changes within a type are only seen if both versions have
/// `#[service(schema)]`. Methods whose types were compared by name only are listed.
#[derive(Debug, Args)]
#[command(after_help = "\
OLD and NEW are each a file that `rpc describe --json` wrote, `-` for standard input, service:NAME for a running service, or queue:NAME for the
services of a worker on this queue.

Examples:
  rpc check old.json new.json
  rpc check service:UserDirectory new.json --order workers-first
  rpc check --strict --json old.json new.json")]
pub(crate) struct Check {
    /// The old version: a file, `-`, service:NAME or queue:NAME.
    old: String,

    /// The new version: a file, `-`, service:NAME or queue:NAME.
    new: String,

    /// What you update first. A change that only breaks in another order is then no failure.
    #[arg(long, value_enum, default_value_t)]
    order: Order,

    /// Also fail for changes that may break, and for types that were compared by name only.
    #[arg(long)]
    strict: bool,

    #[command(flatten)]
    search: Search,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Any order.
    #[default]
    Any,
    /// All workers before the first caller: no new caller calls an old worker.
    WorkersFirst,
    /// All callers before the first worker: no old caller calls a new worker.
    CallersFirst,
}

impl Check {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        if self.old == "-" && self.new == "-" {
            return Err(Failure::usage(
                "standard input can only be read once",
                "use a file for one of the two",
            ));
        }
        let old = self.descriptions(&self.old, options, output).await?;
        let new = self.descriptions(&self.new, options, output).await?;
        let compared = compare_all(&old, &new);
        let breaks = compared.iter().any(|service| self.fails_for(service));
        if output.json {
            output.value(&json_of(&compared, breaks))?;
        } else {
            output.text(&text(&compared))?;
        }
        Ok(if breaks { Outcome::Negative } else { Outcome::Done })
    }

    /// Reads the descriptions of `service:NAME` or `queue:NAME`. Any other `source` is a path, or
    /// `-` for standard input.
    async fn descriptions(
        &self,
        source: &str,
        options: &Options,
        output: &Output,
    ) -> Result<Vec<ServiceDescription>, Failure> {
        let Some((kind @ ("service" | "queue"), name)) = source.split_once(':') else {
            return description_file::read(Path::new(source));
        };
        let broker = connect(options).await?;
        let found = match kind {
            "service" => lookup::versions(&broker, self.search, name, output).await,
            _ => lookup::on_queue(&broker, name).await,
        };
        close(&broker).await;
        found
    }

    /// Whether the command fails for this service.
    fn fails_for(&self, service: &ComparedService) -> bool {
        let mut changes = service.changes.iter();
        let has_breaking_change = changes.any(|change| self.counts_as_breaking(change.verdict));
        has_breaking_change || (self.strict && !service.by_name.is_empty())
    }

    /// Whether a change with this verdict makes the command fail, in view of its options.
    fn counts_as_breaking(&self, verdict: Verdict) -> bool {
        let old_callers_call_new_workers = self.order != Order::CallersFirst;
        let new_callers_call_old_workers = self.order != Order::WorkersFirst;
        match verdict {
            Verdict::BreaksCallers => old_callers_call_new_workers,
            Verdict::BreaksWorkers => new_callers_call_old_workers,
            Verdict::MayBreakCallers => old_callers_call_new_workers && self.strict,
            Verdict::MayBreakWorkers => new_callers_call_old_workers && self.strict,
            Verdict::Safe => false,
            // A verdict that this version does not know.
            _ => true,
        }
    }
}

#[derive(Debug, PartialEq)]
struct ComparedService {
    name: String,
    presence: Presence,
    changes: Vec<Change>,
    /// The methods whose types were compared by name only.
    by_name: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    InBoth,
    Removed,
    Added,
}

/// Compares each old service with its [`successors`]. Without any, it counts as removed. A new
/// service counts as added if no old one has its name. If there is one service on each side, their
/// names do not matter.
fn compare_all(old: &[ServiceDescription], new: &[ServiceDescription]) -> Vec<ComparedService> {
    let compared = |old: &ServiceDescription, new: &ServiceDescription, presence| {
        let Comparison { changes, by_name, .. } = Comparison::new(old, new);
        ComparedService {
            name: old.name.clone(),
            presence,
            changes,
            by_name,
        }
    };
    if let ([old], [new]) = (old, new) {
        return vec![compared(old, new, Presence::InBoth)];
    }
    let mut all = Vec::new();
    for old in old {
        let successors = successors(old, new);
        if successors.is_empty() {
            // Compared with no methods, each of its methods counts as removed.
            let nothing = ServiceDescription::new(&old.name, &old.queue);
            all.push(compared(old, &nothing, Presence::Removed));
        }
        let in_both = successors.into_iter();
        all.extend(in_both.map(|new| compared(old, new, Presence::InBoth)));
    }
    let is_added = |new: &&ServiceDescription| old.iter().all(|old| old.name != new.name);
    all.extend(new.iter().filter(is_added).map(|new| ComparedService {
        name: new.name.clone(),
        presence: Presence::Added,
        changes: Vec::new(),
        by_name: Vec::new(),
    }));
    all
}

/// Returns the new services of the same name: only those on the same queue, if there are any.
fn successors<'a>(old: &ServiceDescription, new: &'a [ServiceDescription]) -> Vec<&'a ServiceDescription> {
    let same_name = new.iter().filter(|new| new.name == old.name);
    let (on_queue, elsewhere): (Vec<_>, Vec<_>) = same_name.partition(|new| new.queue == old.queue);
    if on_queue.is_empty() { elsewhere } else { on_queue }
}

fn rollout(compared: &[ComparedService]) -> Rollout {
    let changes: Vec<_> = compared
        .iter()
        .flat_map(|service| service.changes.clone())
        .collect();
    Rollout::of(&changes)
}

/// Returns the changes, the order of a rollout, and what was compared by name only, for people.
fn text(compared: &[ComparedService]) -> String {
    let mut lines = Vec::new();
    let has_changed =
        |service: &ComparedService| service.presence != Presence::InBoth || !service.changes.is_empty();
    let has_any_changed = compared.iter().any(has_changed);
    for service in compared {
        // Beside the changes of other services, "nothing has changed" would be misleading.
        if has_any_changed && !has_changed(service) {
            continue;
        }
        let presence = match service.presence {
            Presence::InBoth if service.changes.is_empty() => ": nothing has changed",
            Presence::InBoth => "",
            Presence::Removed => ": was removed",
            Presence::Added => ": was added",
        };
        lines.push(format!("{}{presence}", service.name));
        for change in &service.changes {
            let (verdict, place) = (change.verdict.to_string(), &change.place);
            lines.push(format!("  {verdict:<22}{place}: {}", change.message));
        }
    }
    let change_count: usize = compared.iter().map(|service| service.changes.len()).sum();
    if change_count > 0 {
        let order = match rollout(compared) {
            Rollout::AnyOrder => "callers and workers can be updated in any order",
            Rollout::WorkersFirst => "update all workers before the first caller",
            Rollout::CallersFirst => "update all callers before the first worker",
            Rollout::InSteps => "no order works: make the change in several steps",
        };
        lines.push(String::new());
        lines.push(format!("{}: {order}", units::count(change_count, "change")));
    }
    let mut by_name = Vec::new();
    for service in compared {
        let methods = service.by_name.iter();
        by_name.extend(methods.map(|method| format!("{}.{method}", service.name)));
    }
    if !by_name.is_empty() {
        lines.push(String::new());
        lines.push(format!(
            "the types of {} were compared by name only; use #[service(schema)] in both versions to see changes within them",
            units::count(by_name.len(), "method")
        ));
        lines.push(format!("  {}", by_name.join(", ")));
    }
    join_lines(lines)
}

fn json_of(compared: &[ComparedService], breaks: bool) -> Value {
    let services = compared.iter().map(|service| {
        let ComparedService {
            name,
            presence,
            changes,
            by_name,
        } = service;
        let presence = match presence {
            Presence::InBoth => "in_both",
            Presence::Removed => "removed",
            Presence::Added => "added",
        };
        json!({"name": name, "presence": presence, "changes": changes, "compared_by_name": by_name})
    });
    json!({
        "breaks": breaks,
        "rollout": rollout(compared),
        "services": services.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use rpc_contract::MethodDescription;

    use super::*;

    fn service(name: &str, queue: &str, methods: &[&str]) -> ServiceDescription {
        let mut service = ServiceDescription::new(name, queue);
        service.methods = methods.iter().copied().map(MethodDescription::new).collect();
        for method in &mut service.methods {
            method.returns = "()".to_owned();
        }
        service
    }

    fn presences(old: &[ServiceDescription], new: &[ServiceDescription]) -> Vec<(String, Presence, usize)> {
        let compared = compare_all(old, new).into_iter();
        compared
            .map(|it| (it.name, it.presence, it.changes.len()))
            .collect()
    }

    #[test]
    fn services_are_compared_by_name() {
        let (a, b, c) = (
            service("A", "a", &["x"]),
            service("B", "b", &["y"]),
            service("C", "c", &[]),
        );
        let changed = service("A", "a", &["x", "z"]);
        assert_eq!(
            presences(&[a.clone(), b.clone()], &[c.clone(), changed.clone()]),
            [
                ("A".into(), Presence::InBoth, 1),
                ("B".into(), Presence::Removed, 1),
                ("C".into(), Presence::Added, 0)
            ]
        );
        // A single service on each side is compared whatever its name is.
        assert_eq!(
            presences(from_ref(&a), &[service("D", "a", &["x"])]),
            [("A".into(), Presence::InBoth, 1)]
        );
        // Of two with the same name, the one on the same queue counts.
        let elsewhere = service("A", "elsewhere", &[]);
        assert_eq!(
            presences(from_ref(&a), &[elsewhere, a.clone()]),
            [("A".into(), Presence::InBoth, 0)]
        );
    }

    #[test]
    fn what_breaks_depends_on_the_order() {
        let check = |order, strict| Check {
            old: String::new(),
            new: String::new(),
            order,
            strict,
            search: Search {
                window: std::time::Duration::from_secs(1),
            },
        };
        for (order, strict, failing) in [
            (
                Order::Any,
                false,
                &[Verdict::BreaksCallers, Verdict::BreaksWorkers][..],
            ),
            (Order::WorkersFirst, false, &[Verdict::BreaksCallers]),
            (Order::CallersFirst, false, &[Verdict::BreaksWorkers]),
            (
                Order::WorkersFirst,
                true,
                &[Verdict::BreaksCallers, Verdict::MayBreakCallers],
            ),
        ] {
            for verdict in [
                Verdict::Safe,
                Verdict::MayBreakWorkers,
                Verdict::MayBreakCallers,
                Verdict::BreaksWorkers,
                Verdict::BreaksCallers,
            ] {
                let breaks = check(order, strict).counts_as_breaking(verdict);
                assert_eq!(breaks, failing.contains(&verdict), "{order:?} {strict} {verdict}");
            }
        }
    }

    #[test]
    fn the_text_has_a_line_per_change_and_the_order_last() {
        let compared = compare_all(&[service("A", "a", &["x"])], &[service("A", "a", &["x", "z"])]);
        let text = text(&compared);
        assert!(
            text.starts_with("A\n  breaks old workers    z: it is new"),
            "{text}"
        );
        assert!(
            text.ends_with("\n\n1 change: update all workers before the first caller"),
            "{text}"
        );
        let same = compare_all(&[service("A", "a", &[])], &[service("A", "a", &[])]);
        assert_eq!(super::text(&same), "A: nothing has changed");
        // Of two running versions, one may be the new one already.
        let versions = [service("A", "a", &["x", "z"]), service("A", "a", &["x"])];
        let some = compare_all(&versions, &[service("A", "a", &["x", "z"])]);
        let text = super::text(&some);
        assert!(
            !text.contains("nothing has changed") && text.contains("1 change"),
            "{text}"
        );
    }

    #[test]
    fn types_that_were_compared_by_name_are_listed() {
        let mut store = service("Store", "q", &["get"]);
        store.methods[0].returns = "User".to_owned();
        let compared = compare_all(from_ref(&store), from_ref(&store));
        assert_eq!(
            text(&compared),
            "Store: nothing has changed\n\nthe types of 1 method were compared by name only; use #[service(schema)] in both versions to see \
             changes within them\n  Store.get"
        );
        assert_eq!(
            json_of(&compared, false)["services"][0]["compared_by_name"],
            json!(["get"])
        );
        // A service that was added or removed is not compared.
        let other = service("Other", "q", &[]);
        let both = [other.clone(), service("Another", "q", &[])];
        assert!(
            compare_all(from_ref(&store), &both)
                .iter()
                .all(|it| it.by_name.is_empty())
        );
        assert!(
            compare_all(&both, from_ref(&store))
                .iter()
                .all(|it| it.by_name.is_empty())
        );
    }
}
