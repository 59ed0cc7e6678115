//! The files of a new project, made from the files in `templates/new`.
//!
//! Some templates are not named like their files. With a `Cargo.toml`, a folder would be a package
//! of its own, and cargo would leave it out of ours. Ignore files would take effect here. Checks of
//! this repository's `*.md` files would include a `README.md`.

use super::name::ProjectName;
use super::runtime::{RUST_VERSION, Runtime};

/// A file of a new project.
#[derive(Debug)]
pub(super) struct NewFile {
    /// The path within the project, with `/` between names.
    pub(super) path: &'static str,
    pub(super) text: String,
}

/// Pairs the paths of files in a project with the contents of their templates.
macro_rules! templates {
    ($($path:literal: $template:literal,)*) => {
        &[$(($path, include_str!(concat!("../../../templates/new/", $template)))),*]
    };
}

const TEMPLATES: &[(&str, &str)] = templates! {
    ".dockerignore": "dockerignore",
    ".gitignore": "gitignore",
    "Cargo.toml": "Cargo.toml.template",
    "Dockerfile": "Dockerfile",
    "README.md": "README.md.template",
    "api/Cargo.toml": "api/Cargo.toml.template",
    "api/src/lib.rs": "api/src/lib.rs",
    "caller/Cargo.toml": "caller/Cargo.toml.template",
    "caller/src/main.rs": "caller/src/main.rs",
    "compose.yaml": "compose.yaml",
    "worker/Cargo.toml": "worker/Cargo.toml.template",
    "worker/src/lib.rs": "worker/src/lib.rs",
    "worker/src/main.rs": "worker/src/main.rs",
    "worker/tests/without_a_broker.rs": "worker/tests/without_a_broker.rs",
};

/// Returns the files of a project.
pub(super) fn files(name: &ProjectName, runtime: &Runtime) -> Vec<NewFile> {
    let values = [
        ("{{name}}", name.as_str().to_owned()),
        ("{{crate}}", name.identifier()),
        ("{{rust_version}}", RUST_VERSION.to_owned()),
        ("{{runtime}}", runtime.dependency()),
        ("{{runtime_in_image}}", runtime.in_image()),
        ("{{runtime_context}}", runtime.build_context()),
    ];
    let filled = TEMPLATES.iter().map(|(path, template)| NewFile {
        path,
        text: fill(template, &values),
    });
    filled.collect()
}

/// Replaces the placeholders. Leaves out a line with only a placeholder whose value is empty.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let becomes_empty = |line: &str| {
        let mut values = values.iter();
        values.any(|(placeholder, value)| value.is_empty() && line.trim() == *placeholder)
    };
    let lines = template.split_inclusive('\n');
    let kept = lines.filter(|line| !becomes_empty(line));
    kept.map(|line| fill_line(line, values)).collect()
}

/// Replaces the placeholders in one pass, so that a value which contains one stays as it is.
fn fill_line(line: &str, values: &[(&str, String)]) -> String {
    let mut filled = String::new();
    let mut rest = line;
    while let Some((start, placeholder, value)) = first_placeholder(rest, values) {
        filled.push_str(&rest[..start]);
        filled.push_str(value);
        rest = &rest[start + placeholder.len()..];
    }
    filled + rest
}

/// Returns where the first placeholder begins, the placeholder, and its value. `None` if there is
/// none.
fn first_placeholder<'a>(text: &str, values: &'a [(&str, String)]) -> Option<(usize, &'a str, &'a str)> {
    let found = values
        .iter()
        .filter_map(|(placeholder, value)| Some((text.find(placeholder)?, *placeholder, value.as_str())));
    found.min_by_key(|(start, ..)| *start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files_of(runtime: &Runtime) -> Vec<NewFile> {
        files(&"user-directory".parse().unwrap(), runtime)
    }

    #[test]
    fn no_placeholder_is_left() {
        for runtime in [Runtime::Released, Runtime::Checkout("/src/rpc".to_owned())] {
            for file in files_of(&runtime) {
                let left = file
                    .text
                    .lines()
                    .find(|line| line.contains("{{") || line.contains("}}"));
                assert_eq!(left, None, "{}", file.path);
                assert!(
                    file.text.ends_with('\n') && !file.text.ends_with("\n\n"),
                    "{}",
                    file.path
                );
            }
        }
    }

    #[test]
    fn a_line_of_an_empty_value_disappears() {
        let values = [("{{empty}}", String::new()), ("{{full}}", "x".to_owned())];
        for (template, filled) in [
            ("a\n{{empty}}\n{{full}}\n", "a\nx\n"),
            ("a\r\n{{empty}}\r\n{{full}}\r\n", "a\r\nx\r\n"),
            ("a\n  {{empty}}", "a\n"),
            ("a {{empty}}\nb\n", "a \nb\n"),
            ("{{empty}}{{full}}\n", "x\n"),
        ] {
            assert_eq!(fill(template, &values), filled, "{template:?}");
        }
    }

    #[test]
    fn a_value_may_have_placeholders() {
        let values = [("{{a}}", "{{b}}".to_owned()), ("{{b}}", "<{{a}}>".to_owned())];
        assert_eq!(
            fill("{{b}} {{a}}{{a}} {{c}}", &values),
            "<{{a}}> {{b}}{{b}} {{c}}"
        );
    }

    #[test]
    fn only_a_checkout_is_copied_into_the_image() {
        let text = |runtime, path| {
            let files = files_of(&runtime);
            files.into_iter().find(|file| file.path == path).unwrap().text
        };
        let checkout = || Runtime::Checkout("/src/rpc".to_owned());
        assert!(text(Runtime::Released, "Dockerfile").contains("WORKDIR /project\n# Cargo.lock"));
        assert!(
            text(checkout(), "Dockerfile")
                .contains("\nCOPY --from=rpc-runtime [\".\", \"/src/rpc\"]\n# Cargo.lock")
        );
        assert!(text(Runtime::Released, "compose.yaml").contains("context: .\n    environment:"));
        assert!(
            text(checkout(), "compose.yaml")
                .contains("      additional_contexts:\n        rpc-runtime: \"/src/rpc\"\n    environment:")
        );
    }

    /// Comments and code have at most 100 columns with names of ordinary length, as in rustfmt's
    /// default style.
    #[test]
    fn lines_fit_into_a_window() {
        for file in files_of(&Runtime::Released) {
            let limit = if file.path.ends_with(".md") { 120 } else { 100 };
            let long = file.text.lines().find(|line| line.chars().count() > limit);
            assert_eq!(long, None, "{}", file.path);
        }
    }
}
