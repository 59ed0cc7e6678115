//! The architecture that ARCHITECTURE.md describes, as far as a test can hold the sources to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

mod imports;

use imports::{Crate, ModulePath};

type Edges = BTreeMap<ModulePath, BTreeSet<ModulePath>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn edges_of(name: &str) -> Edges {
    Crate::read(&root().join(name).join("src")).edges()
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
    for name in ["rpc-contract", "rpc-macros", "rpc-runtime", "rpc-cli"] {
        let edges = edges_of(name);
        assert!(edges.values().any(|used| !used.is_empty()), "{name} was read");
        assert_eq!(circle(&edges), None, "a circle in {name}");
    }
}

#[test]
fn a_module_of_the_runtime_uses_only_the_layers_below_it() {
    let layers = layers();
    let height = |module: &ModulePath| layers.iter().position(|layer| *layer == module[0]);
    let mut wrong = Vec::new();
    for (module, used) in edges_of("rpc-runtime") {
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
