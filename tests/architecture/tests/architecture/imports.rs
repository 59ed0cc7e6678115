//! Which file of a crate uses which, read from the sources.
//!
//! Re-exports are followed: a file that imports `crate::protocol::Headers` uses the file that
//! defines `Headers`. Within a file, code that only tests compile does not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;
use syn::{Attribute, Item, ItemUse, Meta, UseTree, Visibility};

/// A path from the root of the crate: `["protocol", "headers"]`.
pub(crate) type ModulePath = Vec<String>;

/// The files of a crate, by the modules that they are.
pub(crate) struct Crate {
    files: BTreeMap<ModulePath, File>,
}

#[derive(Default)]
struct File {
    /// What the file defines itself, and the modules that it declares.
    defines: BTreeSet<String>,
    /// What it imports, by the name that it has here.
    imports: HashMap<String, ModulePath>,
    /// All that is imported by a `*`.
    globs: Vec<ModulePath>,
    /// The paths that its code uses, from the root of the crate. Re-exports are not among them.
    uses: BTreeSet<ModulePath>,
}

impl Crate {
    /// Reads a folder of sources whose root is `lib.rs` or `main.rs`. `with_tests` adds the files
    /// that only tests compile.
    pub(crate) fn read(sources: &Path, with_tests: bool) -> Self {
        let mut files = BTreeMap::new();
        let root = ["lib.rs", "main.rs"].map(|name| sources.join(name));
        let root = root
            .iter()
            .find(|path| path.exists())
            .expect("the root of a crate");
        read_module(root, sources, Vec::new(), with_tests, &mut files);
        Self { files }
    }

    /// Each file with those that it uses. The root, which joins all modules, is left out.
    pub(crate) fn edges(&self) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
        let files = self.files.iter().filter(|(module, _)| !module.is_empty());
        files
            .map(|(module, file)| {
                let used = file.uses.iter().filter_map(|path| self.definition(path, 0));
                let used = used.filter(|used| used != module && !used.is_empty());
                (module.clone(), used.collect())
            })
            .collect()
    }

    /// The file that defines what a path names. `None` if it is of another crate.
    fn definition(&self, path: &[String], depth: usize) -> Option<ModulePath> {
        let (module, rest) = (0..=path.len()).rev().find_map(|length| {
            let (module, rest) = path.split_at(length);
            self.files.contains_key(module).then_some((module, rest))
        })?;
        let Some(name) = rest.first() else {
            return Some(module.to_vec());
        };
        let file = &self.files[module];
        if file.defines.contains(name) || depth > 16 {
            return Some(module.to_vec());
        }
        if let Some(target) = file.imports.get(name) {
            return self.definition(target, depth + 1);
        }
        let in_glob = file.globs.iter().find_map(|glob| {
            let path: ModulePath = glob.iter().chain([name]).cloned().collect();
            let found = self.definition(&path, depth + 1)?;
            self.files[&found].defines.contains(name).then_some(found)
        });
        // A path to the root that names nothing there is not of this crate.
        in_glob.or_else(|| (!module.is_empty()).then(|| module.to_vec()))
    }
}

/// Reads the file of a module and of all modules below it.
fn read_module(
    file: &Path,
    folder: &Path,
    module: ModulePath,
    with_tests: bool,
    files: &mut BTreeMap<ModulePath, File>,
) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let children = parsed
        .items
        .iter()
        .filter_map(|item| module_file(item, with_tests));
    let children: Vec<String> = children.collect();
    let mut reader = Reader {
        module: module.clone(),
        children: children.iter().cloned().collect(),
        file: File::default(),
    };
    reader.visit_file(&parsed);
    files.insert(module.clone(), reader.file);
    for name in children {
        let below = folder.join(&name);
        let file = [folder.join(format!("{name}.rs")), below.join("mod.rs")];
        let file = file
            .iter()
            .find(|path| path.exists())
            .expect("the file of a module");
        let path = module.iter().cloned().chain([name]).collect();
        read_module(file, &below, path, with_tests, files);
    }
}

/// The name of a module that has a file of its own, unless it lies elsewhere: what is not published
/// may use every module. Modules that only tests compile count `with_tests`.
fn module_file(item: &Item, with_tests: bool) -> Option<String> {
    let is_elsewhere = |attribute: &Attribute| attribute.path().is_ident("path");
    match item {
        Item::Mod(module)
            if module.content.is_none()
                && (with_tests || !is_test(&module.attrs))
                && !module.attrs.iter().any(is_elsewhere) =>
        {
            Some(module.ident.to_string())
        }
        _ => None,
    }
}

/// Whether attributes say that only tests compile an item.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string();
            condition == "test" || condition.starts_with("all (test") || condition.starts_with("any (test")
        }
        meta => meta.path().is_ident("test"),
    })
}

/// Collects what a file defines and uses.
struct Reader {
    module: ModulePath,
    children: BTreeSet<String>,
    file: File,
}

impl Reader {
    /// A path from the root of the crate. `None` if it begins with neither a keyword nor a module
    /// of this file.
    fn absolute(&self, segments: &[String]) -> Option<ModulePath> {
        let (first, rest) = segments.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.module.clone(),
            "super" => self.module.split_last()?.1.to_vec(),
            name if self.children.contains(name) => [self.module.as_slice(), &[name.to_owned()]].concat(),
            name => self.file.imports.get(name)?.clone(),
        };
        for segment in rest {
            if segment == "super" {
                base.pop();
            } else {
                base.push(segment.clone());
            }
        }
        Some(base)
    }

    fn import(&mut self, tree: &UseTree, mut prefix: Vec<String>, is_reexport: bool) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.import(&path.tree, prefix, is_reexport);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix.clone(), is_reexport);
                }
            }
            UseTree::Glob(_) => {
                if let Some(path) = self.absolute(&prefix) {
                    self.file.globs.push(path.clone());
                    self.add_use(path, is_reexport);
                }
            }
            UseTree::Name(name) if name.ident == "self" => {
                let local = prefix.last().cloned();
                self.bind(&prefix, local, is_reexport);
            }
            UseTree::Name(name) => {
                prefix.push(name.ident.to_string());
                self.bind(&prefix, Some(name.ident.to_string()), is_reexport);
            }
            UseTree::Rename(rename) => {
                prefix.push(rename.ident.to_string());
                self.bind(&prefix, Some(rename.rename.to_string()), is_reexport);
            }
        }
    }

    fn bind(&mut self, segments: &[String], local: Option<String>, is_reexport: bool) {
        if let (Some(path), Some(local)) = (self.absolute(segments), local) {
            self.file.imports.insert(local, path.clone());
            self.add_use(path, is_reexport);
        }
    }

    fn add_use(&mut self, path: ModulePath, is_reexport: bool) {
        if !is_reexport {
            self.file.uses.insert(path);
        }
    }

    /// Reads the paths in the arguments of a macro, which are mere tokens.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let mut segments: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.use_path(&segments);
                        segments.clear();
                    }
                    segments.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => self.read_tokens(group.stream()),
                _ => colons = 0,
            }
        }
        self.use_path(&segments);
    }

    fn use_path(&mut self, segments: &[String]) {
        let is_path = segments.len() > 1 || segments.first().is_some_and(|name| self.is_imported(name));
        if is_path && let Some(path) = self.absolute(segments) {
            self.file.uses.insert(path);
        }
    }

    /// Whether a name that stands alone was imported. A re-export that the file uses itself counts.
    fn is_imported(&self, name: &str) -> bool {
        self.file.imports.contains_key(name)
    }

    fn define(&mut self, item: &Item) {
        let name = match item {
            Item::Const(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Fn(item) => &item.sig.ident,
            Item::Mod(item) => &item.ident,
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            Item::Type(item) => &item.ident,
            Item::Union(item) => &item.ident,
            _ => return,
        };
        self.file.defines.insert(name.to_string());
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_file(&mut self, file: &'ast syn::File) {
        let items = || file.items.iter().filter(|item| !is_test(attributes(item)));
        // Imports first: what follows is read with their help.
        for item in items() {
            if let Item::Use(ItemUse { vis, tree, .. }) = item {
                self.import(tree, Vec::new(), !matches!(vis, Visibility::Inherited));
            }
            self.define(item);
        }
        for item in items() {
            self.visit_item(item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.use_path(&segments);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.read_tokens(call.tokens.clone());
        syn::visit::visit_macro(self, call);
    }

    // Imports were read before, and the paths of attributes are none of code.
    fn visit_item_use(&mut self, _: &'ast ItemUse) {}

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
