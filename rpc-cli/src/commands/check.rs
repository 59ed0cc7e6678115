//! `rpc check`.

use std::path::Path;

use clap::{Args, ValueEnum};
use rpc_contract::ServiceDescription;
use rpc_contract::changes::{Change, Comparison, Rollout, Verdict};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::cli::Options;
use crate::connection::{close, connect};
use crate::failure::{Failure, Outcome};
use crate::input;
use crate::lookup::{self, Window};
use crate::output::{Output, joined};
use crate::units;

/// Tells what a new version of a service breaks.
///
/// While a service is updated, old callers call new workers, and new callers call old workers. Each change is listed with whom it breaks. The
/// exit code is 1 if something breaks, and 0 otherwise. What has changed within a type is only seen where both versions describe it with
/// `#[service(schema)]`; methods of which only the names of types could be compared are told.
#[derive(Debug, Args)]
#[command(after_help = "\
OLD and NEW are files with a description, or an array of them, as `rpc describe --json` writes it; `-` for standard input; service:NAME for what runs
under that name; or queue:NAME for what a worker on that queue serves.

Examples:
  rpc check old.json new.json
  rpc check service:UserDirectory new.json --order workers-first
  rpc check --strict --json old.json new.json")]
pub(crate) struct Check {
    /// What was: a file, `-`, service:NAME or queue:NAME.
    old: String,

    /// What is to be: a file, `-`, service:NAME or queue:NAME.
    new: String,

    /// What is updated first, so that what breaks only in another order is no failure.
    #[arg(long, value_enum, default_value_t)]
    order: Order,

    /// Fail for what may break too, and for types that could be compared by their names only.
    #[arg(long)]
    strict: bool,

    #[command(flatten)]
    window: Window,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Whatever comes first.
    #[default]
    Any,
    /// All workers before the first caller: new callers never meet old workers.
    WorkersFirst,
    /// All callers before the first worker: old callers never meet new workers.
    CallersFirst,
}

impl Check {
    pub(crate) async fn run(&self, options: &Options, output: &Output) -> Result<Outcome, Failure> {
        if self.old == "-" && self.new == "-" {
            return Err(Failure::usage(
                "standard input can be read once",
                "let one of the two be a file",
            ));
        }
        let old = self.source(&self.old, options, output).await?;
        let new = self.source(&self.new, options, output).await?;
        let compared = compare_all(&old, &new);
        let breaks = compared
            .iter()
            .flat_map(|service| &service.changes)
            .any(|change| self.breaks(change.verdict));
        let is_unsure = compared.iter().any(|service| !service.by_name.is_empty());
        let breaks = breaks || (self.strict && is_unsure);
        match output.json {
            true => output.value(&json_of(&compared, breaks))?,
            false => output.text(&text(&compared))?,
        }
        Ok(if breaks { Outcome::Negative } else { Outcome::Done })
    }

    async fn source(
        &self,
        source: &str,
        options: &Options,
        output: &Output,
    ) -> Result<Vec<ServiceDescription>, Failure> {
        let Some((kind, name)) = source
            .split_once(':')
            .filter(|(kind, _)| matches!(*kind, "service" | "queue"))
        else {
            return read(Path::new(source));
        };
        let broker = connect(options).await?;
        let found = match kind {
            "service" => lookup::versions(&broker, self.window, name, output).await,
            _ => lookup::on_queue(&broker, name).await,
        };
        close(&broker).await;
        found
    }

    fn breaks(&self, verdict: Verdict) -> bool {
        let callers = self.order != Order::CallersFirst;
        let workers = self.order != Order::WorkersFirst;
        match verdict {
            Verdict::BreaksCallers => callers,
            Verdict::BreaksWorkers => workers,
            Verdict::MayBreakCallers => callers && self.strict,
            Verdict::MayBreakWorkers => workers && self.strict,
            Verdict::Safe => false,
            // One that this version does not know.
            _ => true,
        }
    }
}

/// The descriptions that a file has: one, or an array of them.
pub(crate) fn read(file: &Path) -> Result<Vec<ServiceDescription>, Failure> {
    let text = input::read(file)?;
    descriptions(&text).map_err(|why| {
        Failure::usage(
            format!("{} has no description of a service: {why}", file.display()),
            "write one with `rpc describe SERVICE --json`",
        )
    })
}

fn descriptions(text: &str) -> Result<Vec<ServiceDescription>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let values = match value {
        Value::Array(values) => values,
        value => vec![value],
    };
    let read = values.into_iter().map(|value| {
        let description = ServiceDescription::deserialize(value).map_err(|error| error.to_string())?;
        // Reading is forgiving: anything could be a service without a name.
        match description.name.is_empty() {
            true => Err("it has no name".to_owned()),
            false => Ok(description),
        }
    });
    let read: Vec<_> = read.collect::<Result<_, _>>()?;
    match read.is_empty() {
        true => Err("it is empty".to_owned()),
        false => Ok(read),
    }
}

/// What has become of a service.
#[derive(Debug, PartialEq)]
struct Compared {
    name: String,
    fate: Fate,
    changes: Vec<Change>,
    /// The methods with types that were compared by their names only.
    by_name: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
    Comes,
}

/// Compares services of the same name, on the same queue where there is one; and one with one, whatever their names.
fn compare_all(old: &[ServiceDescription], new: &[ServiceDescription]) -> Vec<Compared> {
    let compared = |old: &ServiceDescription, new: &ServiceDescription, fate| {
        let Comparison { changes, by_name, .. } = Comparison::new(old, new);
        Compared {
            name: old.name.clone(),
            fate,
            changes,
            by_name,
        }
    };
    if let ([old], [new]) = (old, new) {
        return vec![compared(old, new, Fate::Stays)];
    }
    let mut all = Vec::new();
    for old in old {
        let namesakes: Vec<_> = new.iter().filter(|new| new.name == old.name).collect();
        let on_queue = namesakes.iter().filter(|new| new.queue == old.queue).copied();
        let on_queue: Vec<_> = on_queue.collect();
        let heirs = if on_queue.is_empty() { namesakes } else { on_queue };
        if heirs.is_empty() {
            // Its workers have none of its methods any more.
            let nothing = ServiceDescription::new(&old.name, &old.queue);
            all.push(compared(old, &nothing, Fate::Goes));
        }
        all.extend(heirs.into_iter().map(|new| compared(old, new, Fate::Stays)));
    }
    for new in new
        .iter()
        .filter(|new| old.iter().all(|old| old.name != new.name))
    {
        all.push(Compared {
            name: new.name.clone(),
            fate: Fate::Comes,
            changes: Vec::new(),
            by_name: Vec::new(),
        });
    }
    all
}

fn rollout(compared: &[Compared]) -> Rollout {
    let changes: Vec<_> = compared
        .iter()
        .flat_map(|service| service.changes.clone())
        .collect();
    Rollout::of(&changes)
}

fn text(compared: &[Compared]) -> String {
    let mut lines = Vec::new();
    for Compared {
        name, fate, changes, ..
    } in compared
    {
        let fate = match fate {
            Fate::Stays if changes.is_empty() => ": nothing has changed",
            Fate::Stays => "",
            Fate::Goes => ": is gone",
            Fate::Comes => ": is new",
        };
        lines.push(format!("{name}{fate}"));
        for Change {
            verdict,
            place,
            message,
            ..
        } in changes
        {
            lines.push(format!("  {:<22}{place}: {message}", verdict.to_string()));
        }
    }
    let changes: usize = compared.iter().map(|service| service.changes.len()).sum();
    if changes > 0 {
        let order = match rollout(compared) {
            Rollout::AnyOrder => "callers and workers can be updated in any order",
            Rollout::WorkersFirst => "update all workers before the first caller",
            Rollout::CallersFirst => "update all callers before the first worker",
            Rollout::InSteps => "no order suits all of it: make the change in several steps",
        };
        lines.push(String::new());
        lines.push(format!("{}: {order}", units::count(changes, "change")));
    }
    let by_name: Vec<_> = compared
        .iter()
        .flat_map(|service| {
            service
                .by_name
                .iter()
                .map(|method| format!("{}.{method}", service.name))
        })
        .collect();
    if !by_name.is_empty() {
        lines.push(String::new());
        lines.push(format!(
            "the types of {} were compared by name only: use #[service(schema)] in both versions to see what changes within them",
            units::count(by_name.len(), "method")
        ));
        lines.push(format!("  {}", by_name.join(", ")));
    }
    joined(lines)
}

fn json_of(compared: &[Compared], breaks: bool) -> Value {
    let services = compared.iter().map(|service| {
        let Compared {
            name,
            fate,
            changes,
            by_name,
        } = service;
        let fate = match fate {
            Fate::Stays => "stays",
            Fate::Goes => "goes",
            Fate::Comes => "comes",
        };
        json!({"name": name, "fate": fate, "changes": changes, "compared_by_name": by_name})
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

    fn fates(old: &[ServiceDescription], new: &[ServiceDescription]) -> Vec<(String, Fate, usize)> {
        let compared = compare_all(old, new).into_iter();
        compared.map(|it| (it.name, it.fate, it.changes.len())).collect()
    }

    #[test]
    fn services_are_compared_with_their_namesakes() {
        let (a, b, c) = (
            service("A", "a", &["x"]),
            service("B", "b", &["y"]),
            service("C", "c", &[]),
        );
        let changed = service("A", "a", &["x", "z"]);
        assert_eq!(
            fates(&[a.clone(), b.clone()], &[c.clone(), changed.clone()]),
            [
                ("A".into(), Fate::Stays, 1),
                ("B".into(), Fate::Goes, 1),
                ("C".into(), Fate::Comes, 0)
            ]
        );
        // One and one are compared whatever they are called.
        assert_eq!(
            fates(from_ref(&a), &[service("D", "a", &["x"])]),
            [("A".into(), Fate::Stays, 1)]
        );
        // Of two of one name, the one on the same queue is the heir.
        let elsewhere = service("A", "elsewhere", &[]);
        assert_eq!(
            fates(from_ref(&a), &[elsewhere, a.clone()]),
            [("A".into(), Fate::Stays, 0)]
        );
    }

    #[test]
    fn what_breaks_depends_on_the_order() {
        let check = |order, strict| Check {
            old: String::new(),
            new: String::new(),
            order,
            strict,
            window: Window {
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
                let breaks = check(order, strict).breaks(verdict);
                assert_eq!(breaks, failing.contains(&verdict), "{order:?} {strict} {verdict}");
            }
        }
    }

    #[test]
    fn only_descriptions_are_read_as_such() {
        assert_eq!(descriptions(r#"{"name": "A"}"#).unwrap().len(), 1);
        assert_eq!(
            descriptions(r#"[{"name": "A"}, {"name": "B"}]"#).unwrap().len(),
            2
        );
        for (bad, why) in [
            ("", "EOF"),
            ("[]", "it is empty"),
            ("{}", "it has no name"),
            ("7", "invalid type"),
            (r#"[{"name": "A"}, {}]"#, "it has no name"),
            (r#"{"name": 7}"#, "invalid type"),
        ] {
            let told = descriptions(bad).unwrap_err();
            assert!(told.contains(why), "{bad}: {told}");
        }
    }

    #[test]
    fn changes_are_a_line_each_and_the_order_the_last() {
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
    }

    #[test]
    fn types_that_were_compared_by_name_are_told() {
        let mut store = service("Store", "q", &["get"]);
        store.methods[0].returns = "User".to_owned();
        let compared = compare_all(from_ref(&store), from_ref(&store));
        assert_eq!(
            text(&compared),
            "Store: nothing has changed\n\nthe types of 1 method were compared by name only: use #[service(schema)] in both versions to see \
             what changes within them\n  Store.get"
        );
        assert_eq!(
            json_of(&compared, false)["services"][0]["compared_by_name"],
            json!(["get"])
        );
        // One that comes or goes has nothing to be compared with.
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
