//! The architecture that ARCHITECTURE.md describes, as far as a test can hold the sources to it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

mod imports;
mod limits;

use imports::{Crate, ModulePath};

type Edges = BTreeMap<ModulePath, BTreeSet<ModulePath>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What is not read: products, the templates of `rpc new`, which have placeholders, and a test of
/// syntax that syn cannot parse.
const LEFT_OUT: [&str; 3] = ["target", "templates", "service_trait"];

/// The folders below this one that have the root of a crate.
fn crates(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("a file or a folder").path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if name == "lib.rs" || name == "main.rs" {
            found.push(folder.to_owned());
        } else if path.is_dir() && !LEFT_OUT.contains(&name) && !name.starts_with('.') {
            found.extend(crates(&path));
        }
    }
    found
}

/// The files that import each other in a circle, by one circle if there are several.
fn circle(edges: &Edges) -> Option<Vec<String>> {
    // A file that uses none of those that are left is in no circle, so what cannot be removed is.
    let mut left: BTreeSet<&ModulePath> = edges.keys().collect();
    loop {
        let before = left.len();
        let in_use = left.clone();
        left.retain(|file| edges[*file].iter().any(|used| in_use.contains(used)));
        if left.len() == before {
            break;
        }
    }
    // Each of them uses another one: following the uses comes back to a file seen before.
    let mut path: Vec<&ModulePath> = Vec::new();
    let mut file = *left.first()?;
    while !path.contains(&file) {
        path.push(file);
        file = edges[file].iter().find(|used| left.contains(used))?;
    }
    let begin = path.iter().position(|seen| *seen == file)?;
    Some(path[begin..].iter().map(|file| file.join("::")).collect())
}

/// The layers of the runtime in the order of ARCHITECTURE.md, the lowest first.
fn layers() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (_, picture) = page.split_once("```layers\n").expect("a picture of the layers");
    let (picture, _) = picture.split_once("```").expect("its end");
    let names = picture.lines().filter_map(|line| line.split_whitespace().next());
    let mut layers: Vec<_> = names.map(str::to_owned).collect();
    layers.reverse();
    layers
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let (mut uses, mut circles) = (BTreeSet::new(), Vec::new());
    for sources in crates(&root()) {
        let edges = Crate::read(&sources, true).edges();
        circles.extend(circle(&edges).map(|circle| (sources, circle)));
        uses.extend(edges.into_values().flatten().map(|used| used.join("::")));
    }
    assert!(circles.is_empty(), "{circles:#?}");
    // Of the runtime, its simulation, the command line, and the torture.
    for file in [
        "client::caller",
        "simulation::jobs",
        "commands::call",
        "jobs::check",
    ] {
        assert!(uses.contains(file), "{file} was not read");
    }
}

#[test]
fn a_module_of_the_runtime_uses_only_the_layers_below_it() {
    let layers = layers();
    let height = |module: &ModulePath| layers.iter().position(|layer| *layer == module[0]);
    let mut wrong = Vec::new();
    for (module, used) in Crate::read(&root().join("rpc-runtime/src"), false).edges() {
        // It joins layers.
        if module[0] == "middleware" {
            continue;
        }
        let Some(own) = height(&module) else {
            panic!("ARCHITECTURE.md has no layer {:?}", module[0]);
        };
        for used in used {
            let is_below = height(&used).is_some_and(|other| other < own || used[0] == module[0]);
            if !is_below {
                wrong.push(format!("{} uses {}", module.join("::"), used.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "not from top to bottom:\n{}", wrong.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let edges = |pairs: &[(&str, &str)]| {
        let mut edges = Edges::new();
        for (from, to) in pairs {
            let (from, to) = (vec![(*from).to_owned()], vec![(*to).to_owned()]);
            edges.entry(to.clone()).or_default();
            edges.entry(from).or_default().insert(to);
        }
        edges
    };
    assert_eq!(circle(&edges(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    let found = circle(&edges(&[("a", "b"), ("b", "c"), ("c", "b")])).expect("a circle");
    assert_eq!(found.len(), 2, "{found:?}");
}
